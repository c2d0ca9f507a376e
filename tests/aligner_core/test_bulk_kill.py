"""Bulk generation that is killed again and again loses no row, makes none twice, and ends with the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aligner_core.files import read_jsonl

ROWS = 2000


def start(folder: Path, engine: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.aligner_core.bulk_process", str(folder), engine, str(ROWS)]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    return subprocess.Popen(command, start_new_session=True, env=environment, stderr=subprocess.DEVNULL)


def shards(folder: Path) -> int:
    return len(list((folder / "shards" / "texts").glob("rows-*.jsonl")))


def killed_often_equals_uninterrupted(folder: Path, engine: str, kills: int, longest: float) -> None:
    """Each kill falls at a random moment after the process has finished a shard of its own."""
    whole, killed = folder / "whole", folder / "killed"
    assert start(whole, engine).wait() == 0
    moments = random.Random(0)
    for _ in range(kills):
        before = shards(killed)
        process = start(killed, engine)
        while shards(killed) == before:
            assert process.poll() is None, "it ended before it could be killed often enough"
            time.sleep(0.002)
        time.sleep(moments.random() * longest)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (killed / "out.jsonl").exists()
    assert start(killed, engine).wait() == 0
    rows = read_jsonl(killed / "out.jsonl")
    assert len({row["id"] for row in rows}) == len(rows) == ROWS
    assert (killed / "out.jsonl").read_bytes() == (whole / "out.jsonl").read_bytes()


def test_thirty_kills_change_nothing(tmp_path: Path) -> None:
    killed_often_equals_uninterrupted(tmp_path, "fake", 30, 0.01)


@pytest.mark.slow
def test_five_kills_of_vllm_change_nothing_in_float32(tmp_path: Path) -> None:
    killed_often_equals_uninterrupted(tmp_path, "vllm", 5, 0.3)
