"""Rounds: how a model moves through amplification and distillation, and through rounds of RLHF and DPO."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.style import (
    AFTER,
    BEFORE,
    HARMLESS,
    HELPFUL,
    SOFT,
    error_bars,
    grid_of_axes,
    legend_below,
    look,
    styled,
)


@styled
def ida_path(frame: pd.DataFrame) -> Figure:
    """Mean scores per round: models joined by distillation (solid), and from each its amplification (dashed).

    Args:
        frame: columns system (the letters A, B, C, ... of the rounds), helpful, harmless, and their _low and _high.
            Every second letter is the one before it, corrected.
    """
    figure, (axes,) = grid_of_axes(1, 1, 5.2, 4.0)
    rows = frame.sort_values("system").reset_index(drop=True)
    models, corrected = rows.iloc[::2], rows.iloc[1::2]
    axes.plot(models["helpful"], models["harmless"], color="black", linewidth=1.4, label="distilled", zorder=2)
    for (_, model), (_, after) in zip(models.iterrows(), corrected.iterrows(), strict=False):
        axes.plot([model["helpful"], after["helpful"]], [model["harmless"], after["harmless"]], color=SOFT,
                  linestyle="--", linewidth=1.2, zorder=2,
                  label="amplified" if model["system"] == "A" else None)  # fmt: skip
    for part, color, name in ((models, BEFORE, "model"), (corrected, AFTER, "its answers corrected")):
        axes.errorbar(part["helpful"], part["harmless"], xerr=error_bars(part, "helpful"),
                      yerr=error_bars(part, "harmless"), fmt="o", color=color, markersize=8, capsize=3, elinewidth=0.8,
                      label=name, zorder=3)  # fmt: skip
    _letters(axes, rows)
    axes.set(xlabel=f"mean {HELPFUL}", ylabel=f"mean {HARMLESS}")
    legend_below(figure, axes, columns=4)
    return figure


@styled
def ida_steps(frame: pd.DataFrame) -> Figure:
    """Published IDA, of which only comparisons are known: every step is the omega of its end against its start.

    Each model starts at the origin (A). Omegas do not add up, so a point away from the origin says where its last step
    led, not its omega against A.

    Args:
        frame: `published.load("ida_averages")`.
    """
    models = list(dict.fromkeys(frame["model"]))
    figure, axes = grid_of_axes(1, len(models), 2.9, 3.2)
    for here, model in zip(axes, models, strict=True):
        rows = frame[(frame["model"] == model) & (frame["method"] != "RLHF") & (frame["method"] != "DPO")]
        steps = rows.set_index(["first", "second"])[["helpful", "harmless"]]
        at = {"A": steps.loc[("B", "A")] * 0, "B": steps.loc[("B", "A")], "C": steps.loc[("C", "A")]}
        at["D"] = at["C"] + steps.loc[("D", "C")]
        here.plot([at["A"]["helpful"], at["C"]["helpful"]], [at["A"]["harmless"], at["C"]["harmless"]], color="black",
                  linewidth=1.4, label="distilled")  # fmt: skip
        for start, end in (("A", "B"), ("C", "D")):
            here.plot([at[start]["helpful"], at[end]["helpful"]], [at[start]["harmless"], at[end]["harmless"]],
                      color=SOFT, linestyle="--", linewidth=1.2,
                      label="amplified" if start == "A" else None)  # fmt: skip
        points = pd.DataFrame(at).T.rename_axis("system").reset_index()
        here.scatter(points["helpful"], points["harmless"], s=55, zorder=3,
                     color=[AFTER if system in "BD" else BEFORE for system in points["system"]])  # fmt: skip
        _letters(here, points)
        here.set(title=model, xlabel="omega in helpfulness, %")
        here.margins(0.15)
    axes[0].set_ylabel("omega in harmlessness, %")
    legend_below(figure, axes[0], columns=2)
    return figure


def _letters(axes: Axes, rows: pd.DataFrame) -> None:
    for row in rows.itertuples():
        beside = (7, -11) if row.system == "A" else (7, 5)  # the paths leave A upwards
        axes.annotate(str(row.system), (row.helpful, row.harmless), xytext=beside, textcoords="offset points",
                      fontsize=10, fontweight="bold", zorder=4)  # fmt: skip


@styled
def multi_round(frame: pd.DataFrame) -> Figure:
    """Three rounds of PPO and of DPO, each round's model joined to its corrected answers by a dashed spur.

    Layout of the paper's Figure 6; vertical lines part the rounds.

    Args:
        frame: columns model, round, corrected (bool), helpful, harmless; round 0 is where all methods start.
    """
    figure, (axes,) = grid_of_axes(1, 1, 5.2, 4.0)
    start = frame[(frame["round"] == 0) & ~frame["corrected"]]
    methods = [name for name in dict.fromkeys(frame["model"]) if name not in set(start["model"])]
    for index, method in enumerate(methods):
        color, marker = look(index)
        rows = pd.concat([start, frame[(frame["model"] == method) & ~frame["corrected"]]])
        axes.plot(rows["helpful"], rows["harmless"], color=color, marker=marker, label=method, zorder=3)
        for row in rows.iloc[1:].itertuples():
            axes.annotate(str(row.round), (row.helpful, row.harmless), xytext=(4, -11), textcoords="offset points",
                          fontsize=8, color=color)  # fmt: skip
    joined = frame[~frame["corrected"]].merge(
        frame[frame["corrected"]], on=["model", "round"], suffixes=("", "_after")
    )
    for row in joined.itertuples():
        axes.plot([row.helpful, row.helpful_after], [row.harmless, row.harmless_after], color=SOFT, linestyle="--",
                  linewidth=1.0, zorder=1)  # fmt: skip
    axes.scatter(joined["helpful_after"], joined["harmless_after"], marker="*", s=110, color="#E69F00",
                 edgecolor="black", linewidths=0.5, label="corrected by the Aligner", zorder=4)  # fmt: skip
    axes.scatter(start["helpful"], start["harmless"], s=60, color="black", label=start["model"].iloc[0], zorder=4)
    for separator in (-2, 0, 2):
        axes.axvline(separator, color=SOFT, linewidth=0.7, linestyle=":")
    axes.set(xlim=(-4, 3.2), ylim=(-10, 8), xlabel=HELPFUL, ylabel=HARMLESS)
    legend_below(figure, axes, columns=4)
    return figure
