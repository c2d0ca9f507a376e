"""Runs side by side: what differs, and differences only where they mean something."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aligner_core.errors import UserError
from aligner_core.files import read_json, write_json
from analysis.compare import flatten, side_by_side
from tests.analysis.fake_runs import SYSTEMS, fake_run
from tests.command_line import w2s


@pytest.fixture
def two_runs(tmp_path: Path) -> list[Path]:
    """Two runs on the same questions with the same noise; the second's student is better by exactly 0.5."""
    same = dict.fromkeys(SYSTEMS, 0.0)
    one = fake_run(tmp_path / "one", same)
    two = fake_run(tmp_path / "two", {**same, "student": 0.5}, student={"method": "sft", "epochs": 9})
    return [one, two]


def row(text: str, *starts: str) -> str:
    (found,) = re.findall(rf"^\| {' +. '.join(starts)} .*$", text, flags=re.MULTILINE)
    return str(found)


def test_runs_on_the_same_questions_are_compared_pair_by_pair(two_runs: list[Path]) -> None:
    paired = side_by_side(two_runs).partition("## two minus one")[2]
    assert "on 60 questions" in paired
    assert "+0.50 [+0.50, +0.50]" in row(paired, "student", "helpfulness")
    assert row(paired, "student", "helpfulness").endswith("< 0.001 |")
    assert "+0.00 [+0.00, +0.00]" in row(paired, "floor", "harmlessness")
    assert row(paired, "floor", "harmlessness").endswith("1.000   |")


def test_only_what_differs_in_the_recipes_is_shown(two_runs: list[Path]) -> None:
    section = side_by_side(two_runs).partition("## What differs in the recipes")[2].partition("##")[0]
    assert re.search(r"\| student.epochs +\| – +\| 9 +\|", section)
    assert "confidence" not in section
    assert "Nothing but their names." in side_by_side([two_runs[0], two_runs[0]])


def test_every_system_is_shown_with_its_interval_in_every_run(two_runs: list[Path]) -> None:
    means = side_by_side(two_runs).partition("## Mean scores")[2].partition("\n## ")[0]
    assert len(re.findall(r"[+-]\d\.\d\d \[[+-]\d\.\d\d, [+-]\d\.\d\d\]", means)) == 2 * 2 * len(SYSTEMS)


def test_scores_of_different_scorers_are_not_subtracted(two_runs: list[Path]) -> None:
    manifest = two_runs[1] / "stages" / "scorer" / "manifest.json"
    write_json(manifest, {**read_json(manifest), "identity": "another"})
    paired = side_by_side(two_runs).partition("## two minus one")[2]
    assert "scorers differ" in paired
    assert "|" not in paired


def test_questions_are_paired_where_both_runs_have_them(tmp_path: Path) -> None:
    means = dict.fromkeys(SYSTEMS, 0.0)
    folders = [fake_run(tmp_path / "many", means, 60), fake_run(tmp_path / "few", means, 20, seeds=(5,))]
    assert "on 20 questions" in side_by_side(folders)
    path = folders[1] / "stages" / "scores-s5" / "scores.jsonl"
    path.write_text(path.read_text().replace('"id": "q', '"id": "other'))
    assert "no question in common" in side_by_side(folders)


def test_every_folder_without_a_finished_run_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        side_by_side([tmp_path / "a", tmp_path / "b"])
    assert [problem.where for problem in caught.value.problems] == [str(tmp_path / "a"), str(tmp_path / "b")]


def test_the_command_prints_the_comparison_and_exits_with_2_on_what_a_user_can_mend(two_runs: list[Path]) -> None:
    shown = w2s("compare", *two_runs)
    assert (shown.returncode, shown.stdout.strip()) == (0, side_by_side(two_runs))
    failed = w2s("compare", two_runs[0], two_runs[0] / "nothing")
    assert failed.returncode == 2
    assert "holds no run" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert w2s("compare", two_runs[0]).returncode == 2


def test_flattening_names_every_leaf_by_its_path() -> None:
    assert dict(flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": None})) == {"a.b": 1, "a.c.d": [2], "e": None}
