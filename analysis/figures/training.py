"""How trainings went, and how fast things are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import AFTER, SOFT, grid_of_axes, legend_below, look, styled


@styled
def training_curves(frame: pd.DataFrame) -> Figure:
    """Loss by optimizer step, one panel per kind of stage, one line per seed; dashed is the loss on held-out records.

    Args:
        frame: columns stage, step, loss, and held_out_loss where a training was watched. A
            stage's name up to its seed ("student" of "student-s42") names its panel.
    """
    losses = [name for name in ("loss", "held_out_loss") if name in frame]
    logged = frame.dropna(subset=losses, how="all")
    kinds = logged["stage"].str.replace(r"-s\d+$", "", regex=True)
    names = list(dict.fromkeys(kinds))
    columns = min(3, len(names))
    figure, axes = grid_of_axes(math.ceil(len(names) / columns), columns, 2.5, 2.1)
    for here, name in zip(axes, names, strict=False):
        stages = logged[kinds == name].groupby("stage")
        for index, (stage, rows) in enumerate(stages):
            _curve(here, rows, "step", losses, index, str(stage).removeprefix(f"{name}-"))
        here.set(title=name, xlabel="optimizer step")
        here.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        here.grid(axis="y")
        if len(stages) > 1:
            here.legend(ncols=math.ceil(len(stages) / 5))
    for here in axes[::columns]:
        here.set_ylabel("loss")
    for here in axes[len(names) :]:
        here.set_axis_off()
    return figure


PREFERENCES = {
    "accuracy": ("accuracy",),
    "margin of the rewards": ("margin",),
    "rewards (dashed: rejected)": ("chosen_reward", "rejected_reward"),
    "log-probs (dashed: rejected)": ("chosen_logp", "rejected_logp"),
}
# What an iteration tells of itself that says nothing of the policy.
OF_THE_ITERATION = ("iteration", "step", "stage", "seconds", "tokens", "epoch")
FIRST = ("score", "reward", "cost", "kl", "entropy", "length")


@styled
def preference_curves(frame: pd.DataFrame) -> Figure:
    """What DPO learns, by optimizer step: accuracy, margin, and chosen (solid) above rejected (dashed) texts.

    Args:
        frame: `run_data.preference_metrics`: columns stage, step and those of PREFERENCES that were logged.
    """
    panels = {
        title: names for title, wanted in PREFERENCES.items() if (names := [name for name in wanted if name in frame])
    }
    return _panels(frame, "step", "optimizer step", panels)


@styled
def policy_curves(frame: pd.DataFrame) -> Figure:
    """What PPO tells of every iteration, one panel per quantity.

    Args:
        frame: `run_data.policy_iterations`: columns stage, iteration, and numbers.
    """
    numbers = [name for name in frame.select_dtypes("number") if name not in OF_THE_ITERATION]
    names = [name for name in FIRST if name in numbers] + [name for name in numbers if name not in FIRST]
    return _panels(frame, "iteration", "iteration", {name.replace("_", " "): [name] for name in names})


def _panels(frame: pd.DataFrame, x: str, label: str, panels: Mapping[str, Sequence[str]]) -> Figure:
    """A panel per title; a colour and marker per stage; of two quantities in a panel the second is dashed."""
    columns = min(4, len(panels))
    figure, axes = grid_of_axes(math.ceil(len(panels) / columns), columns, 2.3, 1.9)
    for here, (title, names) in zip(axes, panels.items(), strict=False):
        for index, (stage, rows) in enumerate(frame.groupby("stage", sort=False)):
            _curve(here, rows, x, names, index, str(stage))
        here.set(title=title, xlabel=label)
        here.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
        here.grid(axis="y")
    for here in axes[len(panels) :]:
        here.set_axis_off()
    legend_below(figure, axes[0], columns=3)
    return figure


def _curve(axes: Axes, rows: pd.DataFrame, x: str, names: Sequence[str], index: int, label: str) -> None:
    """One stage's quantity, and dashed a second one if there is one; of a long curve some points are marked."""
    color, marker = look(index)
    for name, line in zip(names, ("-", "--"), strict=False):
        known = rows.dropna(subset=name)
        axes.plot(known[x], known[name], color=color, linestyle=line, marker=marker, markersize=3,
                  markevery=max(1, len(known) // 15), label=label if line == "-" else None)  # fmt: skip


def benchmark_ratios(output: str) -> pd.DataFrame:
    """The ratios that a benchmark's output ends with: columns name and ratio.

    Every benchmark prints a table and, as its last line, one JSON object whose ratios are named `ratio_...`.
    """
    last = json.loads(output.strip().splitlines()[-1])
    rows = [
        (key.removeprefix("ratio_").replace("_", " "), value)
        for key, value in last.items()
        if key.startswith("ratio_")
    ]
    return pd.DataFrame(rows, columns=["name", "ratio"])


@styled
def throughput(frame: pd.DataFrame) -> Figure:
    """Ratios of a benchmark as bars around 1, where nothing is gained or lost.

    Args:
        frame: columns name, ratio.
    """
    figure, (axes,) = grid_of_axes(1, 1, 5.0, 0.8 + 0.35 * len(frame))
    colors = [AFTER if ratio >= 1 else SOFT for ratio in frame["ratio"]]
    bars = axes.barh(frame["name"], frame["ratio"] - 1, left=1, color=colors)
    axes.bar_label(bars, [f"{ratio:.2f}" for ratio in frame["ratio"]], padding=4, fontsize=8)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set_xlabel("ratio")
    return figure
