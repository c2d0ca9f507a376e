"""Metrics: JSON Lines always, and Weights & Biases offline where there is no network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aligner_core.files import read_jsonl
from aligner_core.metrics import MetricLog


def test_every_call_is_one_json_line_that_can_be_read_at_once(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, "student")
    for step in (1, 2):
        log.log(step, loss=1 / step, learning_rate=1e-5)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        assert json.loads(lines[-1]) == {"step": step, "loss": 1 / step, "learning_rate": 1e-5}
        assert len(lines) == step
    log.close()


def test_a_second_process_appends(tmp_path: Path) -> None:
    for step in (1, 2):
        log = MetricLog(tmp_path, "student")
        log.log(step, loss=0.5)
        log.close()
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]


def test_a_resumed_training_forgets_what_it_will_log_again(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, "student")
    for step in range(1, 6):
        log.log(step, loss=float(step))
    log.rewind(3)
    log.log(4, loss=40.0)
    log.close()
    rows = read_jsonl(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 40.0)]


def test_a_training_that_starts_anew_forgets_everything(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, "student")
    log.log(1, loss=1.0)
    log.rewind(0)
    log.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_a_line_that_a_kill_cut_short_does_not_stop_the_resumed_training(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "lo')
    log = MetricLog(tmp_path, "student")
    log.rewind(1)
    log.log(2, loss=2.0)
    log.close()
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2]


def test_wandb_offline_writes_a_run_folder_beside_the_json_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder = tmp_path / "student-0123456789.partial"
    folder.mkdir()
    log = MetricLog(folder, "student", group="quickstart")
    log.log(1, loss=0.5)
    log.rewind(1)
    log.log(2, loss=0.25)
    log.close()
    [run] = (folder / "wandb").glob("offline-run-*-student-0123456789")
    [stored] = run.glob("*.wandb")
    assert stored.stat().st_size > 0
    assert [row["loss"] for row in read_jsonl(folder / "metrics.jsonl")] == [0.5, 0.25]


def test_without_a_group_wandb_is_left_alone(tmp_path: Path) -> None:
    MetricLog(tmp_path, "student").close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
