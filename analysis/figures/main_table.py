"""Tables of omegas as heat maps."""

from __future__ import annotations

import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from analysis.figures.style import DIVERGING, styled
from analysis.published import load

SET_NAMES = {
    "empathetic_dialogues": "E-Dialogue\nempathy",
    "dialogsum": "DialogSum\nreasoning",
    "beavertails_helpful": "BeaverTails\nhelpful",
    "beavertails_harmless": "BeaverTails\nharmless",
    "harmfulqa_helpful": "HarmfulQA\nhelpful",
    "harmfulqa_harmless": "HarmfulQA\nharmless",
    "truthfulqa": "TruthfulQA\nhonest",
}


@styled
def heat_map(table: pd.DataFrame, title: str = "") -> Figure:
    """Omegas in percent, one cell per row and column of `table`; blue is better, red worse, white no difference."""
    figure = Figure(figsize=(2.0 + 0.85 * table.shape[1], 1.0 + 0.32 * table.shape[0]), layout="constrained")
    axes = figure.subplots()
    sns.heatmap(table, ax=axes, cmap=DIVERGING, vmin=-100, vmax=100, annot=True, fmt="+.1f", annot_kws={"size": 8},
                linewidths=0.5, cbar_kws={"label": "omega, %", "shrink": 0.8})  # fmt: skip
    axes.set_title(title)
    axes.tick_params(length=0)
    axes.tick_params(axis="y", rotation=0)
    axes.tick_params(axis="x", rotation=0)
    return figure


def published_main_table(aligner: str) -> pd.DataFrame:
    """One Aligner's block of the published main table: upstreams down with the printed average last, sets across."""
    averages = load("main_table_averages").assign(upstream="average")
    both = pd.concat([load("main_table"), averages])
    block = both[both["aligner"] == aligner].set_index("upstream").rename_axis(None)
    return block[list(SET_NAMES)].rename(columns=SET_NAMES)


def comparison_table(comparisons: list[dict[str, float]]) -> pd.DataFrame:
    """A report's comparisons: pairs of systems down, axes across."""
    frame = pd.DataFrame(comparisons)
    frame["pair"] = frame["a"] + " against " + frame["b"]
    table = frame.pivot(index="pair", columns="axis", values="omega")
    return (
        table.loc[list(dict.fromkeys(frame["pair"])), ["helpful", "harmless"]]
        .rename_axis(None, axis=1)
        .rename_axis(None)
    )
