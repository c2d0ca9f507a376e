"""IDA as a graph of stages: model_k answers, the Aligner corrects (amplify), model_k+1 learns that (distil).

Systems carry the letters of the source: A the upstream, B its answers corrected, C the model distilled from B-like
corrections, D = C corrected, E distilled from D-like corrections, and so on.
"""

from __future__ import annotations

import string

from aligner_core.profile import Profile
from aligner_core.recipe import Recipe
from aligner_core.stages import Artifact, Stage, in_order
from aligner_core.tasks.train import MODEL
from ida.recipe import IdaRecipe
from w2s.pipeline import StageBuilder
from w2s.prepare import EVALUATION, STRONG
from w2s.students import Students


def build(recipe: Recipe, profile: Profile) -> list[Stage]:
    """All stages of all rounds and seeds, in order."""
    assert isinstance(recipe, IdaRecipe)
    builder = StageBuilder(recipe, profile)
    return in_order(_rounds(builder, recipe, seed) for seed in recipe.seeds)


def _rounds(builder: StageBuilder, recipe: IdaRecipe, seed: int) -> Stage:
    """Scores of every round's model, bare and corrected."""
    letters = iter(string.ascii_uppercase)
    model: Stage | None = None
    systems: dict[str, Artifact] = {}
    for number in range(recipe.rounds.count + 1):
        answers = _answers(builder, model, EVALUATION, number, seed)
        systems[next(letters)] = answers
        systems[next(letters)] = builder.correct(f"round{number}-aligned-eval-s{seed}", answers, seed)
        if number < recipe.rounds.count:
            model = _distil(builder, recipe, model, number + 1, seed)
    return builder.scores(systems, seed)


def _distil(builder: StageBuilder, recipe: IdaRecipe, model: Stage | None, number: int, seed: int) -> Stage:
    """The next model: trained on the corrections of the current one's answers to S."""
    answers = _answers(builder, model, STRONG, number - 1, seed)
    corrections = builder.correct(f"round{number}-corrections-s{seed}", answers, seed)
    previous = model.output(MODEL) if model and recipe.rounds.start == "previous" else builder.models["upstream"]
    students = Students(builder, f"round{number}-student", seed, previous, builder.sizes.strong)
    labels = students.labels(f"round{number}-weak-labels-s{seed}", {"corrections": corrections})
    assert recipe.student is not None
    (method,) = recipe.student.methods
    return students.train(method, labels, builder.part(STRONG))


def _answers(builder: StageBuilder, model: Stage | None, part: str, number: int, seed: int) -> Artifact:
    name = "eval" if part == EVALUATION else "labels"
    if model is None:
        return builder.upstream_answers(name, part, seed)
    return builder.answer(f"round{number}-{name}-s{seed}", model, part, seed)
