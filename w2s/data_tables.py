"""What `w2s data` prints: its reports as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligner_core.data_flow import render_flow
from aligner_core.sifting import beside
from aligner_core.text_tables import text_histogram, text_table

MOST_GROUPS = 20


def check_table(reports: list[dict[str, Any]]) -> str:
    head = ["source", "kind", "records", "rejected", "faults"]
    rows = [[r["source"], r["kind"], f"{r['records']:,}", r["rejected"], len(r["problems"])] for r in reports]
    if any("over_long" in report for report in reports):
        head += ["median tokens", "most tokens", "over-long"]
        for row, report in zip(rows, reports, strict=True):
            tokens = report.get("tokens", {"median": 0, "max": 0})
            row += [f"{tokens['median']:,.0f}", f"{tokens['max']:,.0f}", len(report["over_long"])]
    lines = [text_table(head, rows)]
    for report in reports:
        if over := report.get("over_long"):
            shown = ", ".join(over[:5]) + (", ..." if len(over) > 5 else "")
            lines.append(f"over-long in {report['source']}: {shown}")
    return "\n".join(lines)


def stats_text(report: dict[str, Any]) -> str:
    parts = [f"{report['source']}: {report['records']:,} records ({report['kind']})"]
    if report["with_history"]:
        parts.append(f"with earlier turns: {report['with_history']:,}")
    if "copy_rate" in report:
        ratio = report["edit_ratio"]
        parts.append(f"copies of the answer: {report['copy_rate']:.1%}, blank answers: {report['blank_answers']:,}")
        parts.append(f"edit ratio: mean {ratio['mean']:.2f}, median {ratio['median']:.2f} (0 is a copy)")
    rows = [
        [f"{text} {measure}", *(f"{found[key]:,.0f}" for key in ("mean", "min", "median", "p95", "max"))]
        for text, measures in report["lengths"].items() for measure, found in measures.items()
    ]  # fmt: skip
    parts += ["", text_table(["length of", "mean", "min", "median", "p95", "max"], rows)]
    for name, groups in report["groups"].items():
        parts += ["", _group_table(name, groups)]
    if "examples" in report:
        parts += ["", "tokens of a whole example", text_histogram(report["examples"])]
    if report["flow"]:
        parts += ["", "how it came about", render_flow(report["flow"])]
    return "\n".join(parts)


def outcome_text(steps: Sequence[Mapping[str, Any]], output: Path) -> str:
    """What became of the records, and where they are."""
    return f"{render_flow(steps)}\nkept: {output}\ndropped, with reasons: {beside(output, 'dropped')}"


def _group_table(name: str, groups: dict[str, Any]) -> str:
    """The largest groups; a field with a value for each record is no grouping."""
    largest = sorted(groups, key=lambda value: -groups[value]["records"])
    texts = list(groups[largest[0]]["words"])
    head = [name, "records", *(f"{text} words" for text in texts)]
    changes = "copy_rate" in groups[largest[0]]
    rows = []
    for value in largest[:MOST_GROUPS]:
        group = groups[value]
        row = [value, f"{group['records']:,}", *(f"{group['words'].get(text, 0):.0f}" for text in texts)]
        rows.append(row + ([f"{group['copy_rate']:.0%}", f"{group['edit_ratio']['mean']:.2f}"] if changes else []))
    more = [f"and {len(largest) - MOST_GROUPS} more"] if len(largest) > MOST_GROUPS else []
    return "\n".join([text_table(head + (["copies", "edit ratio"] if changes else []), rows), *more])
