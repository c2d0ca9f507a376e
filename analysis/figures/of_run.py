"""The figures that a run's report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from analysis import frames
from analysis.figures.main_table import comparison_table, heat_map
from analysis.figures.redistribution import checkpoints, redistribution
from analysis.figures.rounds import ida_path
from analysis.figures.training import policy_curves, preference_curves, training_curves
from analysis.figures.weak_to_strong import positions, weak_to_strong
from analysis.main_table import omega_table
from analysis.run_data import RunData, policy_iterations, preference_metrics, training_metrics
from analysis.systems import ALIGNED, is_ida, is_main_table


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
            "How scores move: before in orange, after in blue; cross-hair and orange square at the mean before",
            redistribution(frames.redistribution_frame(run)),
            wide=True,
        )
    ]
    if is_ida(run.systems):
        drawn.append(NamedFigure("ida_path", "The rounds, as means with intervals", ida_path(standing)))
    elif is_main_table(run.systems):
        return _of_main_table(run, numbers) + drawn + _of_trainings(run)
    else:
        bars = weak_to_strong(frames.weak_to_strong_frame(numbers))
        drawn.append(NamedFigure("weak_to_strong", "Against the upstream; published values in grey", bars, wide=True))
        drawn.append(NamedFigure("systems", "Where the systems stand, as means with intervals", positions(standing)))
    drawn.append(NamedFigure("comparisons", "All comparisons", heat_map(comparison_table(numbers["comparisons"]))))
    models = checkpoints(frames.checkpoint_frame(run))
    drawn.append(
        NamedFigure("models", "The models one by one: safe answers in blue, others in orange", models, wide=True)
    )
    return drawn + _of_trainings(run)


def _of_main_table(run: RunData, numbers: dict[str, Any]) -> list[NamedFigure]:
    """A heat map per Aligner."""
    rows = numbers["main_table"]
    drawn = []
    for aligner in dict.fromkeys(row["aligner"] for row in rows):
        table = heat_map(omega_table(rows, aligner), aligner)
        drawn.append(NamedFigure(f"main_table_{aligner}", "Omega against each upstream, by the scorer", table))
    if any(row["published"] is not None for row in rows):
        table = heat_map(omega_table(rows, ALIGNED, "published"), "published")
        drawn.append(NamedFigure("main_table_published", "The same cells as published, by another judge", table))
    return drawn


def _of_trainings(run: RunData) -> list[NamedFigure]:
    """Losses; and what students by DPO and PPO tell, where there are such."""
    metrics, pairs, iterations = training_metrics(run), preference_metrics(run), policy_iterations(run)
    drawn = []
    if len(metrics):
        drawn.append(NamedFigure("training", "How the trainings went", training_curves(metrics), wide=True))
    if len(pairs):
        title = "What students by DPO learnt: chosen texts solid, rejected ones dashed"
        drawn.append(NamedFigure("preferences", title, preference_curves(pairs), wide=True))
    if len(iterations):
        drawn.append(NamedFigure("policy", "PPO, iteration by iteration", policy_curves(iterations), wide=True))
    return drawn
