"""A run that is killed at any moment continues with the same command and ends as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from aligner_core.files import file_digest, read_json
from tests.command_line import command, w2s

KILLS = 12


def arguments(runs: Path) -> list[str | Path]:
    # Three epochs, and a checkpoint after every step, so that kills fall between checkpoints too.
    return ["run", "quickstart", "--profile", runs / "profile.yaml", "--runs", runs,
            "--set", "student.training.epochs=3", "--set", "aligner.training.epochs=3"]  # fmt: skip


def write_profile(folder: Path) -> None:
    text = Path("recipes/profiles/smoke.yaml").read_text()
    (folder / "profile.yaml").write_text(text + "checkpoint_minutes: 0.0001\n")


def results(run: Path) -> dict[str, str]:
    """Content of every weight file and JSON Lines file, by stage and name."""
    return {
        str(path.relative_to(run)): file_digest(path)
        for pattern in ("stages/*/model/*.safetensors", "stages/*/*.jsonl")
        for path in sorted(run.glob(pattern))
    }


def numbers(run: Path) -> object:
    report = read_json(run / "report.json")
    for stage in report["stages"]:
        stage["facts"] = {key: value for key, value in stage["facts"].items() if "second" not in key}
        stage["facts"].pop("decoding", None)  # how the last process decoded, and how fast
    return report


def finished(run: Path) -> int:
    return len([path for path in run.glob("stages/*/manifest.json") if path.parent.suffix != ".partial"])


@pytest.mark.slow
def test_twelve_kills_spread_over_a_run_change_nothing(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_profile(folder)
    first = w2s(*arguments(whole))
    assert first.returncode == 0, first.stderr
    stages = len(read_json(whole / "quickstart" / "run.json")["stages"])

    delays = random.Random(0)
    for kill in range(KILLS):
        process = subprocess.Popen(
            command("w2s.cli", *arguments(killed)), start_new_session=True, stdout=subprocess.DEVNULL
        )
        while finished(killed / "quickstart") < kill * stages // KILLS:
            assert process.poll() is None, "the run ended before it could be killed often enough"
            time.sleep(0.02)
        time.sleep(delays.random() * 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    last = w2s(*arguments(killed))
    assert last.returncode == 0, last.stderr
    assert results(killed / "quickstart") == results(whole / "quickstart")
    assert numbers(killed / "quickstart") == numbers(whole / "quickstart")
