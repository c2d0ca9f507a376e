"""How scores are redistributed in the plane of helpfulness and harmlessness."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from analysis.figures.style import (
    AFTER,
    AFTER_MEAN,
    BEFORE,
    BEFORE_MEAN,
    HARMLESS,
    HELPFUL,
    MEAN,
    SOFT,
    grid_of_axes,
    styled,
)

COLORS = {"before": BEFORE, "after": AFTER}
# A panel in inches: the square of the joint axes, the marginals, and the room for labels and title.
SQUARE, MARGINAL, GAP, LEFT, BOTTOM, TOP, RIGHT = 3.6, 0.62, 0.05, 0.62, 0.5, 0.42, 0.1
WIDTH, HEIGHT = LEFT + SQUARE + GAP + MARGINAL + RIGHT, BOTTOM + SQUARE + GAP + MARGINAL + TOP
MOST_POINTS = 2000
BINS = 24
# A region is outlined where at least this share of the answers before lies in it.
WORTH_OUTLINING = 0.1
# Half-axes of the outline in standard deviations: about four fifths of a normal cloud.
OUTLINE = 1.8


@styled
def redistribution(frame: pd.DataFrame) -> Figure:
    """One square panel per upstream (or for the training set): scores before and after correction.

    Layout of the paper's Figure 2: before in orange and after in blue as points under filled densities, marginal
    histograms, a cross-hair through the mean before, both means as squares with an arrow from one to the other.
    Dotted outlines mark two regions of the answers before, where a tenth of them or more lies in one: *unsafe*
    (harmlessness below 0), and *refuse* (harmless, but helpfulness below the mean before).

    Args:
        frame: columns panel, state ("before" or "after"), helpful, harmless; all panels share their limits.
            Of more than 2,000 points per cloud a fixed sample is drawn; means and n are of all.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    columns = min(2 if len(panels) <= 4 else 3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(columns * WIDTH, rows * HEIGHT))
    limits = square_limits(frame)
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        corner = (column * WIDTH, (rows - 1 - row) * HEIGHT)
        _panel(figure, corner, frame[frame["panel"] == panel], str(panel), limits)
    return figure


def square_limits(frame: pd.DataFrame) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of both axes: the middle 99.5 % of the scores and some room, so that a lone outlier does not rule."""
    bounds = []
    for axis in ("helpful", "harmless"):
        low, high = np.quantile(frame[axis], [0.0025, 0.9975])
        room = 0.08 * max(high - low, 1e-6)
        bounds.append((float(low - room), float(high + room)))
    return bounds[0], bounds[1]


def _panel(figure: Figure, corner: tuple[float, float], rows: pd.DataFrame, title: str, limits: Any) -> None:
    joint = _axes(figure, corner, LEFT, BOTTOM, SQUARE, SQUARE)
    above = _axes(figure, corner, LEFT, BOTTOM + SQUARE + GAP, SQUARE, MARGINAL)
    beside = _axes(figure, corner, LEFT + SQUARE + GAP, BOTTOM, MARGINAL, SQUARE)
    joint.set(xlim=limits[0], ylim=limits[1], xlabel=HELPFUL, ylabel=HARMLESS)
    clouds = {state: rows[rows["state"] == state] for state in COLORS}
    for state, cloud in clouds.items():
        _cloud(joint, cloud, state)
        for axes, axis, limit in ((above, "x", limits[0]), (beside, "y", limits[1])):
            values = cloud["helpful" if axis == "x" else "harmless"]
            sns.histplot(**{axis: values}, ax=axes, bins=BINS, binrange=limit, color=COLORS[state], alpha=0.45,
                         element="step", linewidth=0)  # fmt: skip
    above.set(xlim=limits[0], title=f"{title}, n = {len(clouds['before']):,}")
    beside.set(ylim=limits[1])
    for axes in (above, beside):
        axes.set_axis_off()
    _outline_regions(joint, clouds["before"])
    _mark_means(joint, *(cloud[["helpful", "harmless"]].mean().to_numpy() for cloud in clouds.values()))
    joint.legend(loc="lower right", handletextpad=0.2, markerscale=2.5, frameon=True, framealpha=0.8, edgecolor="none")


def _axes(figure: Figure, corner: tuple[float, float], left: float, bottom: float, wide: float, high: float) -> Axes:
    """Axes at a place given in inches from the panel's corner."""
    width, height = figure.get_size_inches()
    return figure.add_axes(
        ((corner[0] + left) / width, (corner[1] + bottom) / height, wide / width, high / height)
    )  # fmt: skip


def _cloud(axes: Axes, cloud: pd.DataFrame, state: str) -> None:
    drawn = cloud.sample(MOST_POINTS, random_state=0) if len(cloud) > MOST_POINTS else cloud
    x, y, color = drawn["helpful"], drawn["harmless"], COLORS[state]
    # A far outlier would widen the kernel, and the density of all others would vanish.
    seen = drawn[x.between(*axes.get_xlim()) & y.between(*axes.get_ylim())]
    if len(seen) > 2:
        sns.kdeplot(x=seen["helpful"], y=seen["harmless"], ax=axes, color=color, fill=True, alpha=0.35, levels=6,
                    thresh=0.08, gridsize=100, warn_singular=False)  # fmt: skip
    axes.scatter(x, y, s=7, color=color, alpha=0.55, linewidths=0, label=state, rasterized=True, zorder=2)


def regions(before: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The answers before correction that are unsafe, and those that are safe but little helpful."""
    safe = before["harmless"] >= 0
    little = before["helpful"] < before["helpful"].mean()
    return {"unsafe region": before[~safe], "refuse region": before[safe & little]}


def _outline_regions(axes: Axes, before: pd.DataFrame) -> None:
    for name, rows in regions(before).items():
        if len(rows) < max(3, WORTH_OUTLINING * len(before)):
            continue
        center, spread = rows[["helpful", "harmless"]].mean(), rows[["helpful", "harmless"]].std()
        wide, high = 2 * OUTLINE * spread["helpful"], 2 * OUTLINE * spread["harmless"]
        axes.add_patch(
            Ellipse((center["helpful"], center["harmless"]), wide, high, fill=False, linestyle=":", linewidth=1.4,
                    edgecolor="black", label=f"_{name}", zorder=4)
        )  # fmt: skip
        below = name == "unsafe region"
        (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
        x = float(np.clip(center["helpful"], left + 0.2 * (right - left), right - 0.2 * (right - left)))
        edge = center["harmless"] + (-0.5 if below else 0.5) * high
        y = float(np.clip(edge, bottom + 0.04 * (top - bottom), top - 0.04 * (top - bottom)))
        axes.text(x, y, f"{name}, {len(rows) / len(before):.0%}", ha="center", va="center", fontsize=8, zorder=6,
                  bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1.0})  # fmt: skip


def _mark_means(axes: Axes, before: Any, after: Any) -> None:
    axes.axvline(before[0], color="black", linewidth=0.8, zorder=3)
    axes.axhline(before[1], color="black", linewidth=0.8, zorder=3)
    arrow = {"arrowstyle": "-|>", "linewidth": 1.6, "color": "black", "shrinkA": 0, "shrinkB": 4}
    axes.annotate("", xy=tuple(after), xytext=tuple(before), arrowprops=arrow, zorder=7)
    for mean, color, name in ((before, BEFORE_MEAN, "mean before"), (after, AFTER_MEAN, "mean after")):
        axes.scatter(mean[0], mean[1], marker="s", s=60, color=color, edgecolor="black", linewidths=0.9, zorder=8,
                     label=f"_{name}")  # fmt: skip


@styled
def mean_shifts(frame: pd.DataFrame) -> Figure:
    """Published redistributions, of which only the moments are known: means, arrows, and one-deviation outlines.

    Args:
        frame: `published.load("redistribution")`.
    """
    panels = list(dict.fromkeys(frame["panel"]))
    figure, axes = grid_of_axes(1, len(panels), 2.4, 2.9)
    for here, panel in zip(axes, panels, strict=True):
        rows = frame[frame["panel"] == panel].set_index("state")
        for state, row in rows.iterrows():
            here.add_patch(
                Ellipse((row["helpful"], row["harmless"]), 2 * row["helpful_deviation"], 2 * row["harmless_deviation"],
                        facecolor=COLORS[str(state)], alpha=0.2)
            )  # fmt: skip
        _mark_means(here, *rows.loc[["before", "after"], ["helpful", "harmless"]].to_numpy())
        safe = rows["safe_percent"]
        here.set(xlim=(-9, 13), ylim=(-9, 13), xticks=range(-8, 13, 4), yticks=range(-8, 13, 4), xlabel=HELPFUL,
                 title=f"{panel}\nsafe {safe['before']:.0f} → {safe['after']:.0f} %")  # fmt: skip
        here.set_box_aspect(1)
    axes[0].set_ylabel(HARMLESS)
    return figure


@styled
def checkpoints(frame: pd.DataFrame, safe_above: float = 0.0) -> Figure:
    """Scores across training checkpoints (or rounds, or systems): one panel each, with one fixed cross-hair.

    The cross-hair stands at the first checkpoint's mean helpfulness and at `safe_above`; points above it are safe and
    blue, the others orange; a yellow square marks the mean.

    Args:
        frame: columns checkpoint, helpful, harmless.
    """
    names = list(dict.fromkeys(frame["checkpoint"]))
    columns = min(4, len(names))
    figure, axes = grid_of_axes(math.ceil(len(names) / columns), columns, 2.4, 3.0)
    limits = square_limits(frame)
    cross = float(frame.loc[frame["checkpoint"] == names[0], "helpful"].mean())
    for here, name in zip(axes, names, strict=False):
        rows = frame[frame["checkpoint"] == name]
        safe = rows["harmless"] > safe_above
        drawn = rows.sample(min(len(rows), MOST_POINTS), random_state=0)
        colors = np.where(drawn["harmless"] > safe_above, AFTER, BEFORE)
        here.scatter(drawn["helpful"], drawn["harmless"], c=colors, s=6, alpha=0.6, linewidths=0, rasterized=True)
        here.axvline(cross, color="black", linewidth=0.8)
        here.axhline(safe_above, color="black", linewidth=0.8)
        here.scatter(rows["helpful"].mean(), rows["harmless"].mean(), marker="s", s=60, color=MEAN, edgecolor="black",
                     zorder=5)  # fmt: skip
        here.set(
            xlim=limits[0], ylim=limits[1], xlabel=HELPFUL, title=f"{name}\n{safe.mean():.0%} safe, n = {len(rows):,}"
        )
        here.set_box_aspect(1)
    for here in axes[::columns]:
        here.set_ylabel(HARMLESS)
    for here in axes[len(names) :]:
        here.set_axis_off()
    return figure


@styled
def checkpoint_path(frame: pd.DataFrame) -> Figure:
    """The means of published checkpoints as a path, each with its step and its share of safe answers.

    Args:
        frame: columns step, helpful, harmless, safe_percent.
    """
    figure, (axes,) = grid_of_axes(1, 1, 4.6, 3.6)
    axes.axhline(0, color=SOFT, linewidth=0.8)
    axes.plot(
        frame["helpful"], frame["harmless"], color=AFTER, marker="s", markerfacecolor=MEAN, markeredgecolor="black"
    )
    for row in frame.itertuples():
        axes.annotate(f"step {row.step}\n{row.safe_percent:.0f} % safe", (row.helpful, row.harmless), xytext=(8, 0),
                      textcoords="offset points", va="center", fontsize=8,
                      bbox={"facecolor": "white", "alpha": 0.85, "linewidth": 0, "pad": 1.0})  # fmt: skip
    axes.set(xlabel=HELPFUL, ylabel=HARMLESS)
    axes.margins(x=0.28, y=0.15)
    return figure
