"""How a data set came about: how many records each cleaning step read, dropped and why, and kept.

The steps lie beside a data set as `NAME.flow.json`, bound to its content, and are carried on by the next step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner_core.data_files import read_rows
from aligner_core.errors import Problem, UserError
from aligner_core.files import file_digest, read_json, write_json
from aligner_core.records import shortened
from aligner_core.text_tables import BAR_WIDTH


def flow_file(data: Path) -> Path:
    return data.with_suffix(".flow.json")


def read_flow(data: Path) -> list[dict[str, Any]]:
    """The steps that led to a data set; none if it says nothing, or has changed since."""
    path = flow_file(data)
    if not path.is_file():
        return []
    flow = read_json(path)
    steps: list[dict[str, Any]] = flow["steps"] if flow["sha256"] == file_digest(data) else []
    return steps


def write_flow(data: Path, source: Path, step: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Add a step that made `data` from `source` to what is known of `source`; returns all steps."""
    steps = [*read_flow(source), dict(step)]
    write_json(flow_file(data), {"sha256": file_digest(data), "steps": steps})
    return steps


def flow_of_dropped(kept: int, files: Sequence[Path]) -> list[dict[str, Any]]:
    """The steps as their files of dropped records tell them, first to last; `kept` is what came through all of them.

    For a data set that was put together or changed since, so that no flow goes with it.
    """
    steps: list[dict[str, Any]] = []
    for path in reversed(files):
        why = [row["dropped"] for row in _dropped_rows(path)]
        name = next((item["step"] for item in why if "step" in item), path.name.removesuffix(".dropped.jsonl"))
        read = kept + len(why)
        counts = dict(Counter(item["reason"] for item in why).most_common())
        steps.append({"step": name, "read": read, "dropped": counts, "kept": kept})
        kept = read
    return steps[::-1]


def _dropped_rows(path: Path) -> list[dict[str, Any]]:
    rows = list(read_rows(path))
    fix = "name a NAME.dropped.jsonl that a step of w2s data left"
    problems = [
        Problem(f"{path}:{number}", "is no dropped record", fix)
        for number, row in rows
        if not (isinstance(row, dict) and isinstance(row.get("dropped"), dict) and "reason" in row["dropped"])
    ]
    if problems:
        raise UserError(shortened(problems, str(path)))
    return [row for _, row in rows]


def render_flow(steps: Sequence[Mapping[str, Any]]) -> str:
    """The flow as a picture: what is left after each step, in proportion to what the first one read.

    A step may read more than was left: where several models answer each question.
    """
    first = steps[0]["read"]
    longest = max(step["read"] for step in steps)
    lines: list[str] = []
    left = None
    for step in steps:
        if step["read"] != left:
            lines.append(_line("read" if left is None else f"read by {step['step']}", step["read"], first, longest))
        lines += [
            _line(f"- {step['step']}: {reason}", count, first, longest, "-")
            for reason, count in step["dropped"].items()
        ]
        left = step["kept"]
        lines.append(_line(f"after {step['step']}", left, first, longest))
    return "\n".join(lines)


def _line(name: str, count: int, first: int, longest: int, bar: str = "#") -> str:
    return f"{name:<28}{count:>12,}{count / first:>8.1%}  {bar * round(BAR_WIDTH * count / longest)}".rstrip()
