"""Steps that make a data set: what they read, and what they leave behind beside it.

NAME.jsonl holds what was kept, NAME.dropped.jsonl the rest, each row with its reason, NAME.flow.json the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from aligner_core.data_sources import Record, data_source, read_source, source_file
from aligner_core.errors import Problem, UserError
from aligner_core.files import write_jsonl
from aligner_core.records import shortened
from aligner_core.sifting import beside


def source_records(
    source: str, kind: type[Record], columns: Mapping[str, str], where: str
) -> tuple[Path, list[Record]]:
    """The file of a source, and its records.

    Args:
        where: what the command calls the source.

    Raises:
        UserError: if there is none, or with every fault in it.
    """
    location = data_source(source, where).location
    reading = read_source(location, kind, columns)
    if reading.problems:
        raise UserError(shortened(reading.problems, source))
    return source_file(location), reading.records


def output_problems(target: Path, source: str) -> list[Problem]:
    """Why a data set cannot be written there."""
    if target.suffix != ".jsonl":
        return [Problem(f"--output {target}", "is not a .jsonl file", "name a JSON Lines file")]
    if target.resolve() == Path(source).resolve():
        return [Problem(f"--output {target}", "is the source itself", "name another file")]
    return []


def with_reason(row: Mapping[str, Any], step: str, reason: str, **details: Any) -> dict[str, Any]:
    """A row that a step drops."""
    return {**row, "dropped": {"step": step, "reason": reason, **details}}


def deliver(
    target: Path,
    source: Path,
    step: str,
    read: int,
    kept: Sequence[dict[str, Any]],
    dropped: Sequence[dict[str, Any]],
) -> list[Problem]:
    """Write the data set and what lies beside it, and show what became of the records.

    What was read and is neither kept nor dropped has failed: it is counted.

    Returns:
        a problem if every record was dropped.
    """
    from aligner_core.data_flow import write_flow
    from w2s.data_tables import outcome_text

    write_jsonl(target, kept)
    write_jsonl(beside(target, "dropped"), dropped)
    reasons = dict(Counter(row["dropped"]["reason"] for row in dropped).most_common())
    if failed := read - len(kept) - len(dropped):
        reasons["failed"] = failed
    steps = write_flow(target, source, {"step": step, "read": read, "kept": len(kept), "dropped": reasons})
    click.echo(outcome_text(steps, target))
    fix = f"see the reasons in {beside(target, 'dropped')}"
    return [Problem(str(target), f"nothing came through {step}", fix)] if dropped and not kept else []
