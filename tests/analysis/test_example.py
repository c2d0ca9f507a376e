"""Example runs: small, without weights, and good for everything that a finished run is good for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aligner_core.errors import UserError
from aligner_core.files import write_jsonl
from analysis.example import FOLDER, IDA, QUICKSTART, extract
from analysis.report import write_report
from analysis.run_data import load_run, training_metrics
from tests.analysis.fake_runs import SYSTEMS, fake_run


def test_an_extract_holds_what_analyses_read_and_nothing_else(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", dict.fromkeys(SYSTEMS, 0.0))
    write_jsonl(run / "stages" / "scorer" / "metrics.jsonl", [{"step": 1, "loss": 2.0}])
    (run / "stages" / "scorer" / "model").mkdir()
    (run / "stages" / "scorer" / "model" / "model.safetensors").write_bytes(b"weights")
    (run / "stages" / "data" / "log.txt").write_text("a log")
    target = extract(run, tmp_path / "examples")
    assert target == tmp_path / "examples" / "fake"
    names = {path.name for path in target.rglob("*") if path.is_file()}
    assert names == {"run.json", "recipe.json", "manifest.json", "metrics.jsonl", "scores.jsonl"}
    original, extracted = load_run(run), load_run(target)
    assert extracted.scores.equals(original.scores)
    assert training_metrics(extracted).equals(training_metrics(original))
    write_report(target)


def test_extracting_again_replaces_what_was_there(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", dict.fromkeys(SYSTEMS, 0.0))
    stale = extract(run, tmp_path) / "stages" / "old" / "scores.jsonl"
    stale.parent.mkdir()
    stale.write_text("")
    extract(run, tmp_path)
    assert not stale.exists()


def test_an_unfinished_run_is_no_example(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        extract(tmp_path, tmp_path / "examples")
    assert not (tmp_path / "examples").exists()


@pytest.mark.parametrize("folder", [QUICKSTART, IDA], ids=lambda folder: folder.name)
def test_the_shipped_runs_are_small_and_whole(folder: Path) -> None:
    run = load_run(folder)
    assert run.name == folder.name
    assert len(training_metrics(run)) > 0
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    assert {path.suffix for path in files} == {".json", ".jsonl"}


def test_the_shipped_runs_tell_nothing_of_the_machine_they_were_made_on() -> None:
    for path in FOLDER.rglob("*.json"):
        text = json.dumps(json.loads(path.read_text()))
        assert "/home/" not in text
        assert '"/' not in text, path
