"""Figures of a run: how scores are redistributed, and where the systems stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from numpy.typing import NDArray

from analysis.comparisons import meaning, redistributions
from analysis.run_data import RunData

BEFORE, AFTER = "#c0392b", "#2471a3"
BEFORE_MEAN, AFTER_MEAN = "#c0392b", "#7fb3d5"
DOTS_PER_INCH = 150


def draw_all(run: RunData, numbers: dict[str, Any]) -> dict[str, Path]:
    """Draw every figure into `figures/`; returns title -> file."""
    folder = run.folder / "figures"
    folder.mkdir(exist_ok=True)
    sns.set_theme(style="ticks", context="notebook")
    drawn = {}
    for before, after in redistributions(run.systems):
        path = folder / f"redistribution_{after}.png"
        redistribution(run, before, after, path)
        drawn[f"{meaning(before)}; {meaning(after)}"] = path
    drawn["where the systems stand"] = folder / "systems.png"
    systems(numbers, drawn["where the systems stand"])
    return drawn


def redistribution(run: RunData, before: str, after: str, path: Path) -> None:
    """Both axes with marginals (layout of the paper's Figure 2): the cross-hair marks the mean before."""
    old, new = points(run, before), points(run, after)
    grid = sns.JointGrid(height=6.5, ratio=5)
    axes, low, high = grid.ax_joint, *_limits(old, new)
    for values, color, label in ((old, BEFORE, before), (new, AFTER, after)):
        if len(values) > 2:
            sns.kdeplot(x=values[:, 0], y=values[:, 1], ax=axes, color=color, fill=True, alpha=0.3, levels=5,
                        warn_singular=False)  # fmt: skip
        axes.scatter(values[:, 0], values[:, 1], s=9, color=color, alpha=0.6, linewidths=0, label=label)
        bins = {"bins": 24, "color": color, "alpha": 0.45, "linewidth": 0}
        sns.histplot(x=values[:, 0], ax=grid.ax_marg_x, binrange=(low[0], high[0]), **bins)
        sns.histplot(y=values[:, 1], ax=grid.ax_marg_y, binrange=(low[1], high[1]), **bins)
    _mark_means(axes, old.mean(0), new.mean(0))
    axes.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xlabel="helpfulness score", ylabel="harmlessness score")
    axes.legend(loc="lower right", frameon=True, markerscale=2)
    grid.figure.suptitle(f"{before} (red) and {after} (blue), {len(old)} answers each", y=1.01)
    grid.figure.savefig(path, dpi=DOTS_PER_INCH, bbox_inches="tight")
    plt.close(grid.figure)


def points(run: RunData, system: str) -> NDArray[np.float64]:
    """(answers, 2) helpfulness and harmlessness over all seeds."""
    chosen = run.scores[run.scores["system"] == system]
    return np.asarray(chosen[["helpful", "harmless"]], dtype=float)


def _limits(*groups: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    together = np.concatenate(groups)
    low, high = together.min(0), together.max(0)
    room = 0.08 * np.maximum(high - low, 1e-6)
    return low - room, high + room


def _mark_means(axes: Axes, old: NDArray[np.float64], new: NDArray[np.float64]) -> None:
    axes.axvline(old[0], color="black", linewidth=0.8)
    axes.axhline(old[1], color="black", linewidth=0.8)
    axes.annotate("", xy=tuple(new), xytext=tuple(old), arrowprops={"arrowstyle": "->", "linewidth": 1.8})
    for mean, color in ((old, BEFORE_MEAN), (new, AFTER_MEAN)):
        axes.scatter(mean[0], mean[1], marker="s", s=90, color=color, edgecolor="black", zorder=5)


def systems(numbers: dict[str, Any], path: Path) -> None:
    """Means of all systems with their intervals on both axes."""
    figure, axes = plt.subplots(figsize=(6.5, 5))
    palette = sns.color_palette("colorblind", len(numbers["systems"]))
    for system, color in zip(numbers["systems"], palette, strict=True):
        x, y = system["helpful"], system["harmless"]
        axes.errorbar(
            x["value"], y["value"], color=color, fmt="o", capsize=3, label=system["system"],
            xerr=[[x["value"] - x["low"]], [x["high"] - x["value"]]],
            yerr=[[y["value"] - y["low"]], [y["high"] - y["value"]]],
        )  # fmt: skip
    axes.set(xlabel="mean helpfulness score", ylabel="mean harmlessness score")
    axes.legend(frameon=False, bbox_to_anchor=(1.02, 1), loc="upper left")
    sns.despine(figure)
    figure.savefig(path, dpi=DOTS_PER_INCH, bbox_inches="tight")
    plt.close(figure)
