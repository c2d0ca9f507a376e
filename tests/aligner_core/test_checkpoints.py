"""Checkpoints: there is always a whole one to go on from, and none is read that others wrote."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.errors import UserError
from aligner_core.files import write_text
from aligner_core.profile import Profile
from aligner_core.training.checkpoints import keep_only, newest


def smoke(**changes: Any) -> Profile:
    return Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, **changes})


def written(folder: Path, step: int) -> Path:
    """What a trainer leaves of a step."""
    write_text(folder / f"checkpoint-{step}" / "weights", str(step))
    return folder / f"checkpoint-{step}"


def test_the_newest_whole_checkpoint_is_gone_on_from_and_the_others_are_taken_away(tmp_path: Path) -> None:
    assert newest(tmp_path, smoke()) is None
    for step in (9, 10):
        keep_only(written(tmp_path, step), step, smoke())
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-10"]
    written(tmp_path, 11)  # and killed before it was marked
    write_text(tmp_path / "README.md", "the trainer's")
    assert newest(tmp_path, smoke()) == (tmp_path / "checkpoint-10", 10)


def test_a_kill_while_an_old_checkpoint_is_taken_away_leaves_only_the_new_one_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_only(written(tmp_path, 5), 5, smoke())

    def cut(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", cut)
        with pytest.raises(KeyboardInterrupt):
            keep_only(written(tmp_path, 6), 6, smoke())
    assert newest(tmp_path, smoke()) == (tmp_path / "checkpoint-6", 6)
    shutil.rmtree(tmp_path / "checkpoint-6")
    assert newest(tmp_path, smoke()) is None, "what may be half removed does not count"


@pytest.mark.parametrize("change", [{"processes": 4}, {"zero": {"stage": 2}}])
def test_a_checkpoint_of_other_processes_is_refused_with_both_layouts(tmp_path: Path, change: dict[str, Any]) -> None:
    before = {"processes": 2, "zero": {"stage": 3}}
    keep_only(written(tmp_path, 5), 5, smoke(**before))
    with pytest.raises(UserError) as caught:
        newest(tmp_path, smoke(**before | change))
    [problem] = caught.value.problems
    assert problem.where == str(tmp_path / "checkpoint-5")
    assert "written under processes: 2, zero.stage: 3" in problem.what
    assert f"remove {tmp_path}" in problem.fix
