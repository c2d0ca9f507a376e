"""One style for all figures: colour-blind safe (Okabe and Ito's colours), legible when printed a column wide."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib as mpl
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")

BEFORE, AFTER = "#D55E00", "#0072B2"
BEFORE_MEAN, AFTER_MEAN = "#D55E00", "#56B4E9"
MEAN, SOFT = "#F0E442", "#6B6B6B"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DIVERGING = "RdBu"  # blue is better, as after is
HELPFUL, HARMLESS = "helpfulness score", "harmlessness score"
DOTS_PER_INCH = 150
_UNDATED: dict[str, dict[str, str | None]] = {".png": {"Software": None}, ".svg": {"Date": None}}
SETTINGS = {
    **sns.axes_style("ticks"),
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "svg.fonttype": "none",
    "svg.hashsalt": "w2s",
}


def styled(draw: Callable[Parameters, Figure]) -> Callable[Parameters, Figure]:
    """Draw under this style, whatever the caller's own is."""

    @wraps(draw)
    def drawn(*arguments: Parameters.args, **options: Parameters.kwargs) -> Figure:
        with mpl.rc_context(SETTINGS):
            return draw(*arguments, **options)

    return drawn


def grid_of_axes(
    rows: int, columns: int, width: float, height: float, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with a grid of axes, each `width` x `height` inches, row by row."""
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    made = figure.subplots(rows, columns, squeeze=False, sharey=sharey)
    return figure, list(made.flat)


def look(index: int) -> tuple[str, str]:
    """Colour and marker of one series among many: no two of the first 49 look the same."""
    # There are as many markers as colours: each time through the colours, the markers move on by one.
    return SERIES[index % len(SERIES)], MARKERS[(index + index // len(SERIES)) % len(MARKERS)]


def error_bars(rows: pd.DataFrame, name: str) -> list[pd.Series] | None:
    """Distances from `name` to `name_low` and `name_high`, as matplotlib wants them; None without an interval."""
    if f"{name}_low" not in rows or rows[f"{name}_low"].isna().all():
        return None
    return [rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]]


def legend_below(figure: Figure, axes: Axes, columns: int) -> None:
    """One legend for all panels, under the figure, with the names that `axes` uses."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns)


def save(figure: Figure, stem: Path) -> Path:
    """Write `stem`.png and `stem`.svg; returns the PNG's path."""
    for form in _UNDATED:
        save_as(figure, stem.with_suffix(form))
    return stem.with_suffix(".png")


def save_as(figure: Figure, path: Path) -> None:
    """Write a .png or .svg file. The same figure gives the same bytes."""
    with mpl.rc_context(SETTINGS):
        figure.savefig(path, dpi=DOTS_PER_INCH, metadata=_UNDATED[path.suffix])
