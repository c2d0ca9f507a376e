"""Killing a run again and again, and comparing what it ends with to a run that was left in peace."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

from aligner_core.files import file_digest, read_json
from tests.command_line import command


def assert_kills_change_nothing(folder: Path, module: str, recipe: str, kills: int, *overrides: str) -> None:
    """Run `recipe` by the command line `module` once in peace, and once under `kills` kills spread over all stages.

    Weights, JSON-Lines outputs and the report's numbers have to be equal, and every finished stage intact.
    """
    whole, killed = folder / "whole", folder / "killed"
    for runs in (whole, killed):
        runs.mkdir()
        _write_profile(runs)
    first = subprocess.run(_command(module, "run", recipe, whole, overrides), capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    stages = len(read_json(whole / recipe / "run.json")["stages"])

    delays = random.Random(0)
    for kill in range(kills):
        process = subprocess.Popen(
            _command(module, "run", recipe, killed, overrides), start_new_session=True, stdout=subprocess.DEVNULL
        )
        while _finished(killed / recipe) < kill * stages // kills:
            assert process.poll() is None, "the run ended before it could be killed often enough"
            time.sleep(0.02)
        time.sleep(delays.random() * 2)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for what in (("run",), ("lineage", "--check")):
        last = subprocess.run(
            _command(module, what[0], recipe, killed, overrides, *what[1:]), capture_output=True, text=True
        )
        assert last.returncode == 0, last.stderr
    assert _results(killed / recipe) == _results(whole / recipe)
    assert _numbers(killed / recipe) == _numbers(whole / recipe)


def _command(module: str, what: str, recipe: str, runs: Path, overrides: tuple[str, ...], *options: str) -> list[str]:
    changes = [part for override in overrides for part in ("--set", override)]
    return command(module, what, recipe, "--profile", runs / "profile.yaml", "--runs", runs, *changes, *options)


def _write_profile(folder: Path) -> None:
    # A checkpoint after every step, so that kills fall between checkpoints too.
    text = Path("recipes/profiles/smoke.yaml").read_text()
    (folder / "profile.yaml").write_text(text + "checkpoint_minutes: 0.0001\n")


def _results(run: Path) -> dict[str, str]:
    """Content of every weight file and JSON Lines file, by stage and name."""
    return {
        str(path.relative_to(run)): file_digest(path)
        for pattern in ("stages/*/model/*.safetensors", "stages/*/*.jsonl")
        for path in sorted(run.glob(pattern))
    }


def _numbers(run: Path) -> object:
    report = read_json(run / "report.json")
    for stage in report["stages"]:
        stage["facts"] = {key: value for key, value in stage["facts"].items() if "second" not in key}
        stage["facts"].pop("decoding", None)  # how the last process decoded, and how fast
    return report


def _finished(run: Path) -> int:
    return len([path for path in run.glob("stages/*/manifest.json") if path.parent.suffix != ".partial"])
