"""The figures that a run's report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from analysis import frames
from analysis.comparisons import is_ida
from analysis.figures.main_table import comparison_table, heat_map
from analysis.figures.redistribution import checkpoints, redistribution
from analysis.figures.rounds import ida_path
from analysis.figures.training import training_curves
from analysis.figures.weak_to_strong import positions, weak_to_strong
from analysis.run_data import RunData, training_metrics


@dataclass(frozen=True)
class NamedFigure:
    """`stem` names its file, `title` says what it shows; a wide one takes the page's whole width."""

    stem: str
    title: str
    figure: Figure
    wide: bool = False


def figures_of_run(run: RunData, numbers: dict[str, Any]) -> list[NamedFigure]:
    """All figures of a run, the most telling first."""
    standing = frames.position_frame(numbers)
    drawn = [
        NamedFigure(
            "redistribution",
            "How scores move: before in red, after in blue; cross-hair and red square at the mean before",
            redistribution(frames.redistribution_frame(run)),
            wide=True,
        )
    ]
    if is_ida(run.systems):
        drawn.append(NamedFigure("ida_path", "The rounds, as means with intervals", ida_path(standing)))
    else:
        bars = weak_to_strong(frames.weak_to_strong_frame(numbers))
        drawn.append(NamedFigure("weak_to_strong", "Against the upstream; published values in grey", bars, wide=True))
        drawn.append(NamedFigure("systems", "Where the systems stand, as means with intervals", positions(standing)))
    drawn.append(NamedFigure("comparisons", "All comparisons", heat_map(comparison_table(numbers["comparisons"]))))
    models = checkpoints(frames.checkpoint_frame(run))
    drawn.append(
        NamedFigure("models", "The models one by one: safe answers in blue, others in red", models, wide=True)
    )
    metrics = training_metrics(run)
    if len(metrics):
        drawn.append(NamedFigure("training", "How the trainings went", training_curves(metrics), wide=True))
    return drawn
