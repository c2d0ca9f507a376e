"""What was changed after its stage wrote it is found, named, and not built on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

import pytest

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.display import PlainDisplay
from aligner_core.errors import UserError
from aligner_core.files import file_digest, read_json, write_json, write_text
from aligner_core.integrity import MANIFEST, VERIFIED, content, faults, outputs_of
from aligner_core.profile import Profile
from aligner_core.runner import run_stages
from aligner_core.stage_context import StageContext
from aligner_core.stages import Stage, Task, is_finished, stage_folder

PROFILE = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}})


class WriteModel(Task):
    """A folder of two files, of which one tells when it was made."""

    version: ClassVar[int] = 1
    text: str

    def run(self, stage: StageContext) -> None:
        write_text(stage.folder / "model" / "weights", self.text)
        write_text(stage.folder / "model" / "README.md", str(stage.folder))
        stage.facts["length"] = len(self.text)


class Copy(Task):
    version: ClassVar[int] = 1

    def run(self, stage: StageContext) -> None:
        write_text(stage.folder / "copy.txt", (stage.file("model") / "weights").read_text())


FIRST = Stage("first", WriteModel(text="weights of round 1"))
SECOND = Stage("second", Copy(), {"model": FIRST.output("model")})
THIRD = Stage("third", Copy(), {"model": FIRST.output("model"), "more": SECOND.output("copy.txt")})


def run(folder: Path, *stages: Stage) -> None:
    run_stages(folder, stages, PROFILE, PlainDisplay())


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    run(tmp_path, FIRST, SECOND)
    return tmp_path


def weights(folder: Path) -> Path:
    return stage_folder(folder, FIRST) / "model" / "weights"


def whats(folder: Path, stage: Stage, every_byte: bool = True) -> list[str]:
    return [problem.what for problem in faults(stage_folder(folder, stage), every_byte)]


def test_a_manifest_tells_the_content_of_all_outputs_and_of_what_was_read(finished: Path) -> None:
    manifest = read_json(stage_folder(finished, FIRST) / MANIFEST)
    assert manifest["outputs"]["model/weights"] == file_digest(weights(finished))
    assert read_json(stage_folder(finished, SECOND) / MANIFEST)["read"] == {"model": content(manifest, "model")}
    assert whats(finished, FIRST) == whats(finished, SECOND) == []


def test_a_changed_byte_is_named_and_not_built_on(finished: Path) -> None:
    weights(finished).write_text("weights of round 2")
    with pytest.raises(UserError, match=r"first-\w+/model/weights: is not what its stage wrote"):
        run(finished, FIRST, SECOND, THIRD)
    assert not is_finished(finished, THIRD)


def test_an_edit_that_sets_the_time_back_is_still_found(finished: Path) -> None:
    before = weights(finished).stat()
    weights(finished).write_text("weights of round 2")
    os.utime(weights(finished), ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(whats(finished, FIRST, every_byte=False)) == 1


def test_damage_that_left_no_trace_in_the_file_system_is_found_when_every_byte_is_read(finished: Path) -> None:
    weights(finished).write_text("weights of round 2")
    state = weights(finished).stat()
    path = stage_folder(finished, FIRST) / VERIFIED
    times = [state.st_size, state.st_mtime_ns, state.st_ctime_ns]
    write_json(path, {**read_json(path), "model/weights": times})
    assert whats(finished, FIRST, every_byte=False) == []
    assert len(whats(finished, FIRST, every_byte=True)) == 1


def test_a_file_that_was_only_touched_is_read_once_and_then_trusted_again(finished: Path) -> None:
    weights(finished).touch()
    assert whats(finished, FIRST, every_byte=False) == []
    states = read_json(stage_folder(finished, FIRST) / VERIFIED)
    assert states["model/weights"][1] == weights(finished).stat().st_mtime_ns


def test_a_missing_output_is_named(finished: Path) -> None:
    weights(finished).unlink()
    assert whats(finished, FIRST) == ["is gone"]


def test_an_edited_manifest_is_named(finished: Path) -> None:
    path = stage_folder(finished, FIRST) / MANIFEST
    manifest = read_json(path)
    write_json(path, {**manifest, "facts": {"length": 99}})
    assert whats(finished, FIRST) == ["was edited"]
    write_json(path, {**manifest, "settings": {"text": "others"}})
    assert whats(finished, FIRST) == ["was edited", "tells of settings or inputs that do not give its identity"]
    path.write_text("{")
    assert whats(finished, FIRST) == ["is no manifest"]


def test_a_folder_under_anothers_name_is_named(finished: Path) -> None:
    other = Stage("first", WriteModel(text="others"))
    stage_folder(finished, FIRST).rename(stage_folder(finished, other))
    assert whats(finished, other) == [f"is that of {FIRST.folder_name}"]


def test_what_was_made_from_a_stage_that_now_gives_something_else_is_named(finished: Path) -> None:
    path = stage_folder(finished, SECOND) / MANIFEST
    manifest = {key: value for key, value in read_json(path).items() if key != "digest"}
    write_json(path, {**manifest, "read": {"model": "another"}})
    assert whats(finished, SECOND) == ['was made when its input "model" held something else']


def test_a_model_card_that_tells_another_place_is_the_same_model(finished: Path) -> None:
    folder = stage_folder(finished, FIRST)
    manifest = read_json(folder / MANIFEST)
    before = content(manifest, "model")
    manifest["outputs"]["model/README.md"] = "another"
    assert content(manifest, "model") == before


def test_removing_what_was_damaged_mends_the_run(finished: Path) -> None:
    weights(finished).write_text("weights of round 2")
    (damaged,) = finished.glob("stages/first-*")
    for path in sorted(damaged.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    damaged.rmdir()
    run(finished, FIRST, SECOND, THIRD)
    assert is_finished(finished, THIRD)
    assert [fault for stage in (FIRST, SECOND, THIRD) for fault in whats(finished, stage)] == []


def test_a_stage_from_before_contents_were_recorded_is_kept_but_not_vouched_for(finished: Path) -> None:
    path = stage_folder(finished, FIRST) / MANIFEST
    manifest = {key: value for key, value in read_json(path).items() if key not in ("digest", "outputs", "read")}
    write_json(path, manifest)
    assert whats(finished, FIRST, every_byte=False) == []
    assert whats(finished, FIRST) == [
        "was written before contents were recorded, so nothing can be said of its outputs"
    ]


def test_logs_are_no_outputs(finished: Path) -> None:
    folder = stage_folder(finished, FIRST)
    for name in ("log.txt", "progress.json", "wandb/offline/run.wandb", "shards/texts/rows-0.jsonl"):
        write_text(folder / name, "more")
    assert set(outputs_of(folder)) == {
        "facts.json", "metrics.jsonl", "model/README.md", "model/weights", "stage.json"
    }  # fmt: skip
