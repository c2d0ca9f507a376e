"""A large data set goes through a sieve in chunks; an interruption changes nothing."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aligner_core import sifting
from aligner_core.errors import UserError
from aligner_core.files import read_jsonl
from aligner_core.leakage import LeakageSieve
from aligner_core.near_duplicates import DuplicateSieve
from aligner_core.records import Question
from aligner_core.sifting import beside, sift


def rows(amount: int) -> list[dict[str, Any]]:
    """Questions of which every fifth repeats an earlier one."""
    source = random.Random(3)
    found: list[dict[str, Any]] = []
    for number in range(amount):
        text = " ".join(f"w{source.randrange(500)}" for _ in range(12))
        repeats = number % 5 == 4
        found.append(
            {"id": str(number), "question": found[number - 3]["question"] if repeats else text, "mark": number}
        )
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(100)))
    return path


def run(
    source: Path, out: Path, report: Callable[[int], None] = lambda done: None, threshold: float = 0.8
) -> dict[str, Any]:
    return sift(source, "content", {}, DuplicateSieve(threshold, "question"), out, report)


class KilledError(Exception):
    """Stands for a kill between two chunks."""


@pytest.mark.parametrize("after", [7, 49, 98])
def test_an_interrupted_run_ends_with_the_same_bytes(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.setattr(sifting, "CHUNK", 7)
    whole, again = tmp_path / "whole.jsonl", tmp_path / "again.jsonl"
    counts = run(source, whole)
    assert counts == {"read": 100, "kept": 80, "dropped": {"exact": 20}}

    def stop(done: int) -> None:
        if done >= after:
            raise KilledError

    with pytest.raises(KilledError):
        run(source, again, stop)
    assert not again.exists()
    assert run(source, again) == counts
    for path in (whole, beside(whole, "dropped")):
        assert path.read_bytes() == path.with_name(path.name.replace("whole", "again")).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "again.dropped.jsonl", "again.jsonl", "in.jsonl", "whole.dropped.jsonl", "whole.jsonl",
    ]  # fmt: skip


def test_finished_chunks_are_not_sifted_again_unless_a_setting_changed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sifting, "CHUNK", 10)
    sifted: list[str] = []
    honest = DuplicateSieve.sift
    monkeypatch.setattr(DuplicateSieve, "sift", lambda sieve, row: sifted.append(row.id) or honest(sieve, row))

    def stop(done: int) -> None:
        if done == 50:
            raise KilledError

    out = tmp_path / "out.jsonl"
    counted = []
    for threshold in (0.8, 0.8, 0.9):
        sifted.clear()
        with pytest.raises(KilledError):
            run(source, out, stop, threshold)
        counted.append(len(sifted))
    assert counted == [50, 0, 50]


def test_a_killed_process_continues_with_the_same_bytes(source: Path, tmp_path: Path) -> None:
    source.write_text("".join(json.dumps(row) + "\n" for row in rows(4000)))
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    code = "from aligner_core import sifting; sifting.CHUNK = 20\nfrom w2s.cli import main; main()"
    command = [sys.executable, "-c", code, "data", "dedup", str(source), "-o"]
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list((tmp_path / ".out.jsonl.work").glob("kept-*"))) < 20:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists(), "it was not killed in time"
    for target in (out, whole):
        subprocess.run([*command, str(target)], stdout=subprocess.DEVNULL, check=True)
    assert out.read_bytes() == whole.read_bytes()
    assert beside(out, "dropped").read_bytes() == beside(whole, "dropped").read_bytes()


def test_what_falls_is_written_whole_with_reason_and_partner(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out.jsonl")
    kept = {row["id"] for row in read_jsonl(tmp_path / "out.jsonl")}
    fallen = read_jsonl(tmp_path / "out.dropped.jsonl")
    assert len(kept) + len(fallen) == 100
    for row in fallen:
        assert row["dropped"] == {"reason": "exact", "partner": str(int(row["id"]) - 3), "similarity": 1.0}
        assert row["mark"] == int(row["id"])
        assert row["dropped"]["partner"] in kept


def test_all_faults_of_all_chunks_are_named_and_nothing_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sifting, "CHUNK", 10)
    with source.open("a") as stream:
        stream.write("{\n" + json.dumps({"question": " "}) + "\n" + "\n" * 20)
    source.write_text("[]\n" + source.read_text())
    with pytest.raises(UserError) as caught:
        run(source, tmp_path / "out.jsonl")
    assert [problem.where for problem in caught.value.problems] == [f"{source}:{line}" for line in (1, 102, 103)]
    assert not (tmp_path / "out.jsonl").exists()


def test_an_empty_file_is_an_error(source: Path, tmp_path: Path) -> None:
    source.write_text("\n")
    with pytest.raises(UserError, match="holds no record"):
        run(source, tmp_path / "out.jsonl")


def test_whole_records_of_one_question_are_told_apart_by_their_answers(source: Path, tmp_path: Path) -> None:
    texts = ["Yes.", "No, never.", "yes."]
    source.write_text("".join(json.dumps({"question": "Tea?", "answer": text}) + "\n" for text in texts))
    by_question = sift(source, "1", {}, DuplicateSieve(0.8, "question"), tmp_path / "q.jsonl", lambda done: None)
    by_record = sift(source, "1", {}, DuplicateSieve(0.8, "record"), tmp_path / "r.jsonl", lambda done: None)
    assert (by_question["kept"], by_record["kept"]) == (1, 2)


def test_a_leakage_sieve_depends_on_the_evaluation_questions() -> None:
    first, second = ([Question(id="e", question=text)] for text in ("Tea?", "Rain?"))
    assert LeakageSieve(first, 0.5, 0.8).settings == LeakageSieve(first, 0.5, 0.8).settings
    assert LeakageSieve(first, 0.5, 0.8).settings != LeakageSieve(second, 0.5, 0.8).settings
