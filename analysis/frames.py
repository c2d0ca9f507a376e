"""The data frames that figures take, from runs and from their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_jsonl
from analysis import published
from analysis.comparisons import compare, redistributions
from analysis.run_data import AXES, RunData
from analysis.systems import system_of

BARS = ("corrected", "student", "ceiling", "floor", "other")  # from top to bottom


def redistribution_frame(run: RunData) -> pd.DataFrame:
    """Scores before and after, one panel per pair of systems: panel, state, helpful, harmless."""
    parts = [
        run.rows(system)[list(AXES)].assign(panel=system_of(after).of or f"{before} → {after}", state=state)
        for before, after in redistributions(run.systems)
        for system, state in ((before, "before"), (after, "after"))
    ]
    return pd.concat(parts, ignore_index=True)


def scored_files_frame(files: Mapping[str, Path]) -> pd.DataFrame:
    """The same from files of scored answers, e.g. of the training set or of one upstream each, by their panel's name.

    The files' own columns (id, text, ...) stay.

    Raises:
        UserError: with every file that does not hold the scores of two systems, before and after.
    """
    parts, problems = [], []
    for panel, path in files.items():
        rows = pd.DataFrame(read_jsonl(path) if path.is_file() else [])
        systems = list(dict.fromkeys(rows["system"])) if "system" in rows else []
        if len(systems) != 2:
            what = f"holds scores of {len(systems)} systems: {', '.join(systems)}"
            problems.append(Problem(str(path), what, "give a file with those of two, the one before correction first"))
            continue
        state = rows["system"].map(dict(zip(systems, ("before", "after"), strict=True)))
        parts.append(rows.assign(panel=panel, state=state))
    if problems:
        raise UserError(problems)
    return pd.concat(parts, ignore_index=True)


def checkpoint_frame(run: RunData) -> pd.DataFrame:
    """Scores of a run's models one after the other, without corrected answers: checkpoint, helpful, harmless."""
    names = [name for name in run.systems if system_of(name).part != "corrected"]
    return pd.concat([run.rows(name)[list(AXES)].assign(checkpoint=name) for name in names], ignore_index=True)


def position_frame(numbers: dict[str, Any]) -> pd.DataFrame:
    """Means of a report's systems with their intervals: system, helpful, helpful_low, helpful_high, harmless, ..."""
    return pd.DataFrame([{"system": row["system"], **_flat(row)} for row in numbers["systems"]])


def weak_to_strong_frame(numbers: dict[str, Any]) -> pd.DataFrame:
    """A report's comparisons with the upstream above the published students: label, part, helpful, harmless, ..."""
    ours = pd.DataFrame(numbers["comparisons"])
    ours = ours[ours["b"] == "upstream"]
    rows = []
    for name, both in sorted(ours.groupby("a", sort=False), key=lambda group: BARS.index(system_of(group[0]).part)):
        row: dict[str, Any] = {"label": f"{numbers['name']}: {name}", "part": system_of(name).part}
        for item in both.to_dict("records"):
            axis = item["axis"]
            row |= {axis: item["omega"], f"{axis}_low": item["low"], f"{axis}_high": item["high"]}
        rows.append(row)
    return pd.concat([pd.DataFrame(rows), published_students()], ignore_index=True)


def published_students() -> pd.DataFrame:
    """The published weak-to-strong table as bars: label, part, helpful, harmless."""
    table = published.load("weak_to_strong")
    return pd.DataFrame(
        {
            "label": table["student"] + ", " + table["method"],
            "part": "published",
            "helpful": table["average_helpful"],
            "harmless": table["average_harmless"],
        }
    )


def warm_up_frame(runs: Sequence[RunData]) -> pd.DataFrame:
    """Omega of the corrected answers against the upstream's in runs that differ in their warm-up."""
    rows = []
    for run in runs:
        before, after = redistributions(run.systems)[0]
        for axis in AXES:
            found = compare(run, after, before, axis)
            rows.append(
                {
                    "run": run.name,
                    "axis": axis,
                    "upstream": run.recipe["roles"]["upstream"]["model"],
                    "fraction": run.recipe["aligner"]["warm_up"]["fraction"],
                    "omega": found["omega"],
                    "omega_low": found["low"],
                    "omega_high": found["high"],
                }
            )
    return pd.DataFrame(rows)


def _flat(system: dict[str, Any]) -> dict[str, float]:
    return {
        axis + suffix: system[axis][key]
        for axis in AXES
        for suffix, key in (("", "value"), ("_low", "low"), ("_high", "high"))
    }
