"""`ida lineage`: where each round's model came from, and that what was changed afterwards is found and not used."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aligner_core.files import read_json, read_jsonl, write_jsonl
from tests.command_line import ida, w2s

UPSTREAM = "embedded:tiny-random"


def options(run: Path) -> list[str | Path]:
    return ["ida_quickstart", "--profile", "smoke", "--runs", run.parent]


@pytest.fixture
def copied(ida_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ida_run, tmp_path / "ida_quickstart"))


def test_each_model_is_traced_to_what_it_came_from(ida_run: Path) -> None:
    printed = ida("lineage", *options(ida_run), "--json").stdout
    models = {model["model"]: model for model in json.loads(printed)["models"]}
    first, second = models["round1-student-s42"], models["round2-student-s42"]
    assert first["starts_from"] == first["answered_by"] == [UPSTREAM]
    assert second["starts_from"] == second["answered_by"] == ["round1-student-s42"]
    for student in (first, second):
        assert student["corrected_by"] == ["aligner-s42"]
        assert student["questions"] == ["strong"]
        assert (student["seed"], student["finished"]) == (42, True)
    assert models["aligner-s42"]["starts_from"] == ["warm-up-s42"]
    assert models["aligner-s42"]["learns_from"] == ["weak"]
    assert models["warm-up-s42"]["starts_from"] == [UPSTREAM]


def test_the_json_tells_every_stage_and_where_the_data_came_from(ida_run: Path) -> None:
    found = json.loads(ida("lineage", *options(ida_run), "--json").stdout)
    stages = read_json(ida_run / "run.json")["stages"]
    assert [stage["identity"] for stage in found["stages"]] == [stage["identity"] for stage in stages]
    assert found["data"]["corrections"]["location"].endswith("corrections.jsonl")
    assert all("settings" in stage and "inputs" in stage for stage in found["stages"])


def test_what_chose_the_corrections_is_told_beside_who_made_them(tmp_path: Path) -> None:
    change = ["--set", "corrector={kind: best_of, n: 2}"]
    printed = ida("lineage", *options(tmp_path / "any"), *change, "--json").stdout
    models = {model["model"]: model for model in json.loads(printed)["models"]}
    student = models["round2-student-s42"]
    assert (student["corrected_by"], student["chosen_by"]) == (["aligner-s42"], ["selector"])
    assert not student["finished"]


def test_further_questions_are_told_as_questions(tmp_path: Path) -> None:
    printed = ida("lineage", *options(tmp_path / "any"), "--set", "data.queries=embedded:queries", "--json").stdout
    models = {model["model"]: model for model in json.loads(printed)["models"]}
    for number in (1, 2):
        student = models[f"round{number}-student-s42"]
        assert (student["questions"], student["learns_from"]) == (["strong", "queries"], [])


def test_table_and_picture_name_the_models(ida_run: Path, tmp_path: Path) -> None:
    result = ida("lineage", *options(ida_run), "--picture", tmp_path / "lineage.svg")
    assert result.returncode == 0, result.stderr
    assert "round2-student-s42  done" in result.stdout
    drawn = (tmp_path / "lineage.svg").read_text()
    assert all(name in drawn for name in ("round2-student-s42", "aligner-s42", "tiny-random", "strong"))
    assert ida("lineage", *options(ida_run), "--picture", tmp_path / "lineage.gif").returncode == 2


@pytest.mark.slow
def test_a_weak_to_strong_run_has_a_lineage_too(smoke_run: Path) -> None:
    arguments = ["lineage", "quickstart", "--profile", "smoke", "--runs", smoke_run.parent, "--json", "--check"]
    result = w2s(*arguments)
    assert result.returncode == 0, result.stderr
    models = {model["model"]: model for model in json.loads(result.stdout)["models"]}
    assert models["ceiling-s42"]["learns_from"] == ["strong"]
    assert models["student-s42"]["corrected_by"] == ["aligner-s42"]


def test_an_untouched_run_passes_the_check_as_does_its_copy(ida_run: Path, copied: Path) -> None:
    for run in (ida_run, copied):
        result = ida("lineage", *options(run), "--check")
        assert result.returncode == 0, result.stderr
        assert "every finished stage is as it was written" in result.stdout


def flip_a_bit(run: Path) -> str:
    path = next(run.glob("stages/round1-student-*")) / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return str(path)


def edit_a_label(run: Path) -> str:
    path = next(run.glob("stages/round1-weak-labels-*")) / "labels.jsonl"
    rows = read_jsonl(path)
    write_jsonl(path, [{**rows[0], "correction": "by hand"}, *rows[1:]])
    return str(path)


def change_a_setting(run: Path) -> str:
    path = next(run.glob("stages/round1-student-*")) / "manifest.json"
    path.write_text(path.read_text().replace('"epochs": 1.0', '"epochs": 2.0', 1))
    return str(path)


@pytest.mark.parametrize("damage", [flip_a_bit, edit_a_label, change_a_setting])
def test_damage_in_round_1_is_named_by_the_check_and_by_the_next_run_which_stops(
    damage: Callable[[Path], str], copied: Path
) -> None:
    path = damage(copied)
    before = sorted(copied.glob("stages/*"))
    for arguments in (["lineage", *options(copied), "--check"], ["run", *options(copied), "--set", "rounds.count=3"]):
        result = ida(*arguments)
        assert result.returncode == 2
        assert path in result.stderr
    assert sorted(copied.glob("stages/*")) == before


def test_removing_the_damaged_stage_mends_the_run(copied: Path) -> None:
    folder = Path(edit_a_label(copied)).parent
    shutil.rmtree(folder)
    result = ida("run", *options(copied))
    assert result.returncode == 0, result.stderr
    assert folder.is_dir()
    assert ida("lineage", *options(copied), "--check").returncode == 0
