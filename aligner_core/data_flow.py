"""How a data set came about: how many records each cleaning step read, dropped and why, and kept.

The steps lie beside a data set as `NAME.flow.json`, bound to its content, and are carried on by the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner_core.files import file_digest, read_json, write_json
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


def render_flow(steps: Sequence[Mapping[str, Any]]) -> str:
    """The flow as a picture: what is left after each step, in proportion to what the first one read."""
    first = steps[0]["read"]
    lines = [_line("read", first, first)]
    for step in steps:
        lines += [_line(f"- {step['step']}: {reason}", count, first, "-") for reason, count in step["dropped"].items()]
        lines.append(_line(f"after {step['step']}", step["kept"], first))
    return "\n".join(lines)


def _line(name: str, count: int, whole: int, bar: str = "#") -> str:
    return f"{name:<28}{count:>12,}{count / whole:>8.1%}  {bar * round(BAR_WIDTH * count / whole)}".rstrip()
