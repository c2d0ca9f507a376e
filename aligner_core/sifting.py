"""Passing a large data set through a sieve: streamed, in chunks that survive a kill, with a reason for all that falls.

A chunk's files depend on the rows up to its end alone, so a restarted command reads the finished chunks back and ends
with the bytes of one that was never interrupted.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from pydantic import ValidationError

from aligner_core.data_files import Row, read_rows
from aligner_core.errors import Problem, UserError
from aligner_core.files import digest, open_atomic, read_json, read_jsonl, write_json, write_jsonl
from aligner_core.records import Question, normalised, schema_problems, shortened

CHUNK = 10_000


class Sieve(Protocol):
    """Decides about one record after the other."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """All that the result depends on, beside the input."""
        ...

    def sift(self, record: Question) -> Mapping[str, Any] | None:
        """Why the record falls (`reason`, `partner`, ...); None if it is kept."""
        ...

    def remember(self, record: Question) -> None:
        """Take note of a record that was kept before an interruption."""
        ...


def sift(
    source: Path,
    identity: str,
    columns: Mapping[str, str],
    sieve: Sieve,
    out: Path,
    report: Callable[[int], None],
) -> dict[str, Any]:
    """Write what is kept to `out` and what falls, with its reason, to `OUT.dropped.jsonl`.

    Args:
        identity: names the content of `source`.
        report: called with the number of rows done.

    Returns:
        the step's counts: `read`, `kept`, `dropped` by reason.

    Raises:
        UserError: if rows are no records; all are named, and nothing is written.
    """
    work = _work_folder(out, digest([identity, dict(columns), sieve.settings]))
    problems: list[Problem] = []
    counts: Counter[str] = Counter()
    rows = read_rows(source)
    for number, chunk in enumerate(iter(lambda: list(islice(rows, CHUNK)), [])):
        kept, dropped = work / f"kept-{number:05}.jsonl", work / f"dropped-{number:05}.jsonl"
        if kept.is_file():
            for row in read_jsonl(kept):
                sieve.remember(Question.model_validate(row))
        else:
            records, faults = _records(source, chunk, columns)
            problems += faults
            if not problems:
                _sift_chunk(records, sieve, kept, dropped)
        counts["read"] += len(chunk)
        report(counts["read"])
    if problems or not counts["read"]:
        raise UserError(shortened(problems, str(source)) or [Problem(str(source), "holds no record")])
    reasons: Counter[str] = Counter()
    counts["kept"] = _joined(work, "kept", out, Counter())
    _joined(work, "dropped", beside(out, "dropped"), reasons)
    shutil.rmtree(work)
    return {**counts, "dropped": dict(reasons)}


def beside(out: Path, what: str) -> Path:
    """`data.dropped.jsonl` for `data.jsonl`."""
    return out.with_suffix(f".{what}{out.suffix}")


def _work_folder(out: Path, job: str) -> Path:
    """Where finished chunks lie; those of another job are thrown away."""
    work = out.with_name(f".{out.name}.work")
    note = work / "job.json"
    if work.is_dir() and not (note.is_file() and read_json(note) == job):
        shutil.rmtree(work)
    write_json(note, job)
    return work


def _records(source: Path, chunk: Sequence[Row], columns: Mapping[str, str]) -> tuple[list[Question], list[Problem]]:
    records: list[Question] = []
    problems: list[Problem] = []
    for line, value in chunk:
        if isinstance(value, Problem):
            problems.append(value)
            continue
        try:
            record = Question.model_validate(normalised(value, columns))
        except ValidationError as error:
            problems += schema_problems(f"{source}:{line}", error)
            continue
        record.id = record.id or record.derived_id()
        records.append(record)
    return records, problems


def _sift_chunk(records: Sequence[Question], sieve: Sieve, kept: Path, dropped: Path) -> None:
    """The file of kept records is written last: it says that the chunk is finished."""
    fallen: list[dict[str, Any]] = []
    remaining: list[dict[str, Any]] = []
    for record in records:
        why = sieve.sift(record)
        (remaining if why is None else fallen).append(
            record.row() if why is None else {**record.row(), "dropped": why}
        )
    write_jsonl(dropped, fallen)
    write_jsonl(kept, remaining)


def _joined(work: Path, name: str, out: Path, reasons: Counter[str]) -> int:
    """All chunks as one file; returns its lines and counts the reasons they give."""
    count = 0
    with open_atomic(out) as stream:
        for line in _lines(sorted(work.glob(f"{name}-*.jsonl"))):
            stream.write(line)
            count += 1
            if name == "dropped":
                reasons[json.loads(line)["dropped"]["reason"]] += 1
    return count


def _lines(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        with path.open(encoding="utf-8") as stream:
            yield from stream
