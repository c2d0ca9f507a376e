"""The graph of stages that a recipe becomes."""

from __future__ import annotations

import pytest

from aligner_core.configuration import load
from aligner_core.errors import UserError
from aligner_core.recipe import Recipe
from aligner_core.stages import Stage
from w2s.pipeline import build


def stages(recipe: str, *overrides: str) -> dict[str, Stage]:
    checked, profile, problems = load(Recipe, recipe, "smoke", ["seeds=[1]", *overrides])
    assert problems == []
    return {stage.name: stage for stage in build(checked, profile)}


def test_arms_train_their_own_aligners_and_share_all_else() -> None:
    plain = stages("quickstart")
    armed = stages("quickstart", "arms={none: {warm_up.fraction: 0}, mixed: {warm_up.mode: mixed}}")
    added = {"none-aligner-s1", "aligned-none-eval-s1", "mixed-aligner-s1", "aligned-mixed-eval-s1"}
    assert set(armed) - set(plain) == added
    changed = {name for name, stage in plain.items() if stage.identity != armed[name].identity}
    assert changed == {"scores-s1"}
    assert armed["none-aligner-s1"].task.model_dump()["phase"] == "residual"
    assert armed["mixed-aligner-s1"].task.model_dump()["phase"] == "both"


def test_how_a_warm_up_was_made_reaches_the_residual_training_by_its_weights_alone() -> None:
    first, second = stages("quickstart"), stages("quickstart", "aligner.warm_up.epochs=2")
    assert first["aligner-s1"].task == second["aligner-s1"].task
    assert first["aligner-s1"].identity != second["aligner-s1"].identity


def test_without_a_student_there_is_the_aligner_alone() -> None:
    names = set(stages("quickstart", "student=null"))
    assert names == {"data", "upstream-eval", "warm-up-s1", "aligner-s1", "aligned-eval-s1", "scorer", "scores-s1"}


def test_given_answers_are_not_sampled() -> None:
    names = set(stages("quickstart", "data.answers=given"))
    assert not [name for name in names if name.startswith("upstream")]
    assert {"corrections-s1", "student-s1", "aligned-eval-s1"} <= names


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("arms={x: {warm_up.fraction: 3}}", "arm x: warm_up.fraction"),
        ("arms={x: {learning: 3}}", "arm x: learning"),
        ("data.weak_share=1", "leaves no question to the student"),
        ("scorer.training.lora={rank: 4}", "a scorer's training has no lora"),
    ],
)
def test_keys_that_do_not_go_together_are_told(override: str, message: str) -> None:
    try:
        _, _, problems = load(Recipe, "quickstart", "smoke", [override])
    except UserError as error:
        problems = error.problems
    assert [message in str(problem) for problem in problems] == [True]
