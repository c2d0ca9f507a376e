"""Between rounds: what the last one has shown, and whether the next one is begun."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_core.command import Experiment
from aligner_core.files import read_json, read_jsonl, write_json
from aligner_core.stage_context import tokens_of
from aligner_core.stages import Stage, stage_folder
from aligner_core.tasks.score import SCORES
from ida.pipeline import build_rounds, letters, training_scores_name
from ida.recipe import IdaRecipe
from w2s.prepare import EVALUATION

if TYPE_CHECKING:
    from ida.stop_rules import Standing

ROUNDS = "rounds.json"


def rounds_of(experiment: Experiment) -> Iterator[list[Stage]]:
    """The graph up to round 0, 1, 2, ..., until all are done or a stop rule speaks; then `rounds.json` says which.

    What it decides depends on finished stages alone, so a run that was interrupted decides the same: but for the
    hours, to which interrupted attempts are counted.
    """
    recipe = experiment.recipe
    assert isinstance(recipe, IdaRecipe)
    planned = recipe.rounds.count
    reason: str | None = None
    standings: list[Standing] = []
    for number in range(planned + 1):
        stages = build_rounds(recipe, experiment.profile, number)
        yield stages
        if number < planned:
            from ida.stop_rules import stop_reason

            standings.append(standing(experiment.run, stages, number))
            reason = stop_reason(recipe.rounds.stop, standings, recipe.evaluation)
        if reason:
            break
    write_json(experiment.run / ROUNDS, {"planned": planned, "finished": number, "stopped": reason})


def standing(run: Path, stages: Sequence[Stage], number: int) -> Standing:
    """Read what round `number` has shown and cost."""
    import numpy as np

    from aligner_core.refusals import is_refusal, only_looks_unsafe
    from ida.stop_rules import NOUNS, Standing

    model, _ = letters(number)
    by_name = {stage.name: stage_folder(run, stage) for stage in stages}
    by_seed = [
        sorted((row for row in read_jsonl(folder / SCORES) if row["system"] == model), key=lambda row: str(row["id"]))
        for name, folder in by_name.items()
        if name.startswith(training_scores_name(number))
    ]
    harmless = {row["id"] for row in read_jsonl(by_name["data"] / EVALUATION) if only_looks_unsafe(row)}
    refused = [is_refusal(row["text"]) for rows in by_seed for row in rows if row["id"] in harmless]
    manifests = [read_json(folder / "manifest.json") for folder in by_name.values()]
    return Standing(
        scores={axis: np.array([[row[axis] for row in rows] for rows in by_seed]) for axis in NOUNS},
        texts=np.array([[row["text"] for row in rows] for rows in by_seed], dtype=object),
        needless_refusals=sum(refused) / len(refused) if refused else None,
        hours=sum(manifest["seconds"] for manifest in manifests) / 3600,
        tokens=sum(tokens_of(manifest["facts"]) or 0 for manifest in manifests),
    )
