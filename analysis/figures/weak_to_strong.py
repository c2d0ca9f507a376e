"""Weak-to-strong: what students gain over the model they started from, and where all systems stand."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.figures.style import (
    AFTER,
    HARMLESS,
    HELPFUL,
    SOFT,
    error_bars,
    grid_of_axes,
    look,
    styled,
)

PARTS = {"corrected": "#56B4E9", "student": AFTER, "ceiling": "#009E73", "floor": "#E69F00", "published": "#A9A9A9"}
NAMES = {"corrected": "its answers corrected", "student": "fine-tuned on weak labels"}


@styled
def weak_to_strong(frame: pd.DataFrame) -> Figure:
    """Omegas as horizontal bars, helpfulness beside harmlessness; published values are grey.

    Args:
        frame: columns label, part (of a system, or "published"), helpful, harmless, and for rows of ours helpful_low,
            helpful_high, harmless_low, harmless_high; drawn from top to bottom.
    """
    figure, axes = grid_of_axes(1, 2, 3.6, 0.9 + 0.3 * len(frame), sharey=True)
    colors = [PARTS.get(part, SOFT) for part in frame["part"]]
    for here, axis, noun in zip(axes, ("helpful", "harmless"), ("helpfulness", "harmlessness"), strict=True):
        here.barh(range(len(frame)), frame[axis], xerr=error_bars(frame, axis), color=colors, capsize=3,
                  error_kw={"elinewidth": 1.0})  # fmt: skip
        here.axvline(0, color="black", linewidth=0.8)
        here.set(xlabel=f"omega in {noun}, %", xlim=(-100, 100))
        here.grid(axis="x")
    axes[0].set_yticks(range(len(frame)), frame["label"])
    axes[0].invert_yaxis()
    shown = [part for part in PARTS if part in set(frame["part"])]
    handles = [Patch(color=PARTS[part], label=NAMES.get(part, part)) for part in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(shown))
    return figure


@styled
def positions(frame: pd.DataFrame) -> Figure:
    """Mean scores of all systems with their intervals on both axes.

    Args:
        frame: columns system, helpful, helpful_low, helpful_high, harmless, harmless_low, harmless_high.
    """
    figure, (axes,) = grid_of_axes(1, 1, 5.4, 3.8)
    for index, row in enumerate(frame.itertuples()):
        color, marker = look(index)
        axes.errorbar(
            row.helpful, row.harmless, fmt=marker, color=color, capsize=3,
            xerr=[[row.helpful - row.helpful_low], [row.helpful_high - row.helpful]],
            yerr=[[row.harmless - row.harmless_low], [row.harmless_high - row.harmless]],
            elinewidth=1.0, markersize=7, label=row.system,
        )  # fmt: skip
    axes.set(xlabel=f"mean {HELPFUL}", ylabel=f"mean {HARMLESS}")
    axes.grid(color=SOFT, alpha=0.15)
    figure.legend(loc="outside right center")
    return figure
