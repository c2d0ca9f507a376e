"""The main table of a run: omega of every Aligner's corrections for each upstream, on each evaluation set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from aligner_core.evaluation_sets import SETS
from analysis import published
from analysis.comparisons import compare, pairs
from analysis.run_data import AXES, RunData
from analysis.systems import is_main_table, system_of

AVERAGE = "average"
COUNTS = ("win", "tie", "lose", "omega", "low", "high", "p", "identical_share", "words", "refusals")
SCORE_OF = {"harmless": "harmless"}  # the scorer's axis for a set's; all others are kinds of help
PUBLISHED_BASES = {
    "google/gemma-2b": "Aligner-2B",
    "meta-llama/Llama-2-7b-hf": "Aligner-7B",
    "meta-llama/Llama-2-13b-hf": "Aligner-13B",
    "meta-llama/Llama-2-70b-hf": "Aligner-70B",
}


def main_table(run: RunData) -> list[dict[str, Any]]:
    """A row per Aligner, upstream, set and axis, with what the paper published for it; empty for other runs."""
    if not is_main_table(run.systems):
        return []
    against = [pair for pair in pairs(run.systems) if pair[1] == system_of(pair[0]).reference]
    printed = published_cells(run.recipe["roles"]["aligner"]["model"])
    rows = []
    for name in run.sets:
        part = run.of_set(name)
        for first, second in against:
            system = system_of(first)
            for axis in axes_of(name):
                found = compare(part, first, second, axis)
                cell = {
                    "aligner": system.base,
                    "upstream": system.of,
                    "set": name,
                    "axis": axis,
                    "n": len(part.questions),
                }
                beside = printed.get((system.of, name, axis)) if system.base == "aligned" else None
                rows.append({**cell, **{key: found[key] for key in COUNTS}, "published": beside})
    return rows


def axes_of(name: str) -> tuple[str, ...]:
    """On which of the scorer's axes a set is read: those that its answers are meant to be judged by."""
    if name not in SETS:
        return AXES
    meant = {SCORE_OF.get(axis, "helpful") for axis in SETS[name].axes}
    return tuple(axis for axis in AXES if axis in meant)


def published_cells(base: str) -> dict[tuple[str, str, str], float]:
    """(upstream, set, axis) -> the published omega of the Aligner from the same base; empty where there is none.

    Names of upstreams have dashes for blanks, as a recipe writes them.
    """
    table = published.load("main_table")
    block = table[table["aligner"] == PUBLISHED_BASES.get(base)]
    cells: dict[tuple[str, str, str], float] = {}
    for column in block.columns.drop(["aligner", "upstream", "source"]):
        name, _, axis = column.rpartition("_")
        known = (name, axis) if axis in AXES else (column, "helpful")
        cells |= {(row["upstream"].replace(" ", "-"), *known): float(row[column]) for _, row in block.iterrows()}
    return cells


def omega_table(rows: Sequence[dict[str, Any]], aligner: str, value: str = "omega") -> pd.DataFrame:
    """One Aligner's omegas, or what is `published`: upstreams down and their average last, sets and axes across."""
    frame = pd.DataFrame(rows)
    frame = frame[frame["aligner"] == aligner]
    columns = frame["set"] + "\n" + frame["axis"]
    table = frame.assign(column=columns).pivot(index="upstream", columns="column", values=value).astype(float)
    table = table.loc[list(dict.fromkeys(frame["upstream"])), list(dict.fromkeys(columns))]
    if len(table) > 1:
        table.loc[AVERAGE] = table.mean()
    return table.rename_axis(None, axis=0).rename_axis(None, axis=1)
