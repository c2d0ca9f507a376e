"""What the identity warm-up does: scores or omegas against the share of records that it saw."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import error_bars, grid_of_axes, legend_below, look, styled

NOUNS = {"helpful": "helpfulness", "harmless": "harmlessness"}


@styled
def warm_up(frame: pd.DataFrame) -> Figure:
    """Omega of the corrected answers against the upstream's, by the warm-up's share, with intervals.

    Args:
        frame: columns axis, upstream, fraction, omega, omega_low, omega_high; one row per run and axis.
    """
    figure, axes = grid_of_axes(1, 2, 3.4, 3.0)
    for here, axis in zip(axes, NOUNS, strict=True):
        rows = frame[frame["axis"] == axis]
        _lines(here, rows, "omega")
        here.axhline(0, color="black", linewidth=0.8)
        here.set(xlabel="warm-up, % of the records", title=NOUNS[axis])
    axes[0].set_ylabel("omega against the upstream, %")
    legend_below(figure, axes[0], columns=4)
    return figure


@styled
def warm_up_elo(frame: pd.DataFrame) -> Figure:
    """The published warm-up curve: Elo by share, 20 % being 1500; dotted to 50 % under the symmetric conversion.

    Args:
        frame: `published.load("warm_up_elo")`.
    """
    figure, axes = grid_of_axes(1, 2, 3.4, 3.0, sharey=True)
    for here, axis in zip(axes, NOUNS, strict=True):
        rows = frame[frame["axis"] == axis]
        _lines(here, rows, "elo")
        for index, (_, series) in enumerate(rows.groupby("upstream", sort=False)):
            corrected = series[series["fraction"] >= 0.2]
            here.plot(100 * corrected["fraction"], corrected["elo_symmetric"], color=look(index)[0], linestyle=":",
                      marker="o", markersize=4, markerfacecolor="white")  # fmt: skip
        here.set(xlabel="warm-up, % of 50,000 records", title=NOUNS[axis])
    axes[0].set_ylabel("Elo")
    legend_below(figure, axes[0], columns=4)
    return figure


def _lines(axes: Axes, rows: pd.DataFrame, value: str) -> None:
    for index, (upstream, series) in enumerate(rows.groupby("upstream", sort=False)):
        series = series.sort_values("fraction")
        color, marker = look(index)
        axes.errorbar(100 * series["fraction"], series[value], yerr=error_bars(series, value), color=color,
                      marker=marker, markersize=5, capsize=3, label=str(upstream))  # fmt: skip
    axes.grid(axis="y")
