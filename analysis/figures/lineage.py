"""Where models came from: from data and first models on the left to the last round's on the right."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from analysis.figures.style import SERIES, SOFT, styled

RELATIONS = {
    "starts_from": "starts from",
    "learns_from": "learns from",
    "questions": "on questions",
    "answered_by": "answers by",
    "corrected_by": "corrections by",
    "chosen_by": "chosen by",
}
_COLORS = dict(zip(RELATIONS, ("#000000", *SERIES[:3], *SERIES[4:6]), strict=True))
_BEND = 0.1  # arrows between the same two boxes lie apart


@styled
def lineage(frame: pd.DataFrame) -> Figure:
    """Boxes joined by arrows, each from what a model came from to the model.

    Args:
        frame: columns model, relation (a key of RELATIONS), origin (another model, a source or a part of the data),
            finished (of the model; what is still to do is drawn pale).
    """
    columns = _columns(frame)
    layers: dict[int, list[str]] = defaultdict(list)
    for name, column in columns.items():
        layers[column].append(name)
    tallest = max(map(len, layers.values()))
    places = {
        name: (column, -(row + 0.5) * tallest / len(names))
        for column, names in layers.items()
        for row, name in enumerate(names)
    }
    figure = Figure(figsize=(2.6 * len(layers), 0.8 * tallest + 1.2), layout="constrained")
    axes = figure.subplots()
    finished = dict(zip(frame["model"], frame["finished"], strict=True))
    boxes: dict[str, FancyBboxPatch | None] = {}
    for name, (x, y) in places.items():
        color, line = ("black", "-") if finished.get(name, True) else (SOFT, "--")
        shape = "round,pad=0.4" if name in finished else "square,pad=0.4"
        box = {"boxstyle": shape, "facecolor": "white", "edgecolor": color, "linestyle": line}
        text = axes.text(x, y, _short(name), ha="center", va="center", fontsize=8, color=color, zorder=2, bbox=box)
        boxes[name] = text.get_bbox_patch()
    for row in frame.itertuples():
        origin, model, relation = str(row.origin), str(row.model), str(row.relation)
        bend = _BEND * list(RELATIONS).index(relation) / (columns[model] - columns[origin])
        axes.add_patch(
            FancyArrowPatch(places[origin], places[model], arrowstyle="-|>", mutation_scale=9,
                            connectionstyle=f"arc3,rad={bend}", patchA=boxes[origin], patchB=boxes[model],
                            shrinkA=1, shrinkB=1, linewidth=1.1, color=_COLORS[relation], zorder=3)
        )  # fmt: skip
    axes.set(xlim=(-0.6, max(columns.values()) + 0.6), ylim=(-tallest - 0.3, 0.3))
    axes.axis("off")
    shown = [relation for relation in RELATIONS if relation in set(frame["relation"])]
    handles = [Line2D([], [], color=_COLORS[relation], label=RELATIONS[relation]) for relation in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
    return figure


def _columns(frame: pd.DataFrame) -> dict[str, int]:
    """How far to the right each name stands: one further than the furthest of what it came from."""
    origins = frame.groupby("model", sort=False)["origin"].agg(list).to_dict()
    columns: dict[str, int] = {}

    def column(name: str) -> int:
        if name not in columns:
            columns[name] = 1 + max((column(origin) for origin in origins.get(name, [])), default=-1)
        return columns[name]

    for name in (*frame["origin"], *frame["model"]):
        column(str(name))
    return columns


def _short(name: str) -> str:
    """A long id in two lines."""
    head, mark, tail = name.rpartition("/" if "/" in name else ":")
    return f"{head}{mark}\n{tail}" if len(name) > 22 and mark else name
