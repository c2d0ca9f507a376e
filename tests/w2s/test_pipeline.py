"""The graph of stages that a recipe becomes."""

from __future__ import annotations

import pytest

from aligner_core.configuration import load
from aligner_core.errors import UserError
from aligner_core.recipe import Recipe, Role
from aligner_core.shapes import shape_of
from aligner_core.stages import Stage
from aligner_core.work import GenerationWork, PolicyWork, ScoringWork, Steps, TrainingWork
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
        ("upstream_sft={epochs: 1}", "upstream_sft and data.instructions go together"),
        ("student.learns_from=preferences", "needs data.preferences"),
        ("student.methods=[sft, sft]", "methods repeat"),
    ],
)
def test_keys_that_do_not_go_together_are_told(override: str, message: str) -> None:
    try:
        _, _, problems = load(Recipe, "quickstart", "smoke", [override])
    except UserError as error:
        problems = error.problems
    assert [message in str(problem) for problem in problems] == [True]


ALL_METHODS = "student.methods=[sft, dpo, ppo]"


def changed(first: dict[str, Stage], second: dict[str, Stage]) -> set[str]:
    return {name for name, stage in second.items() if name not in first or first[name].identity != stage.identity}


def test_each_method_is_a_student_of_its_own() -> None:
    added = set(stages("quickstart", ALL_METHODS)) - set(stages("quickstart"))
    dpo = {"reference-student_dpo-s1", "student_dpo-s1", "student_dpo-eval-s1"}
    assert added == {*dpo, "reward", "student_ppo-s1", "student_ppo-eval-s1"}


def test_a_key_of_one_method_reruns_that_method_alone() -> None:
    before = stages("quickstart", ALL_METHODS)
    of_dpo = changed(before, stages("quickstart", ALL_METHODS, "student.dpo.beta=0.2"))
    assert of_dpo == {"student_dpo-s1", "student_dpo-eval-s1", "scores-s1"}
    of_ppo = changed(before, stages("quickstart", ALL_METHODS, "student.ppo.kl=0.1"))
    assert of_ppo == {"student_ppo-s1", "student_ppo-eval-s1", "scores-s1"}


def test_a_method_that_begins_with_the_sft_student_shares_its_training() -> None:
    graph = stages("quickstart", ALL_METHODS, "student.dpo.start=sft", "student.ppo.start=sft")
    start = graph["student-s1"].output("model").identity
    for name in ("reference-student_dpo-s1", "student_dpo-s1", "student_ppo-s1"):
        assert graph[name].inputs["model"].identity == start
    assert "student-s1" in stages("quickstart", "student.methods=[dpo]", "student.dpo.start=sft")
    assert "student-s1" not in stages("quickstart", "student.methods=[dpo]", "student.dpo.start=upstream")


def test_a_cost_model_is_trained_only_where_its_word_counts() -> None:
    assert "cost" not in stages("quickstart", ALL_METHODS)  # the smoke profile sets its weight to 0
    graph = stages("quickstart", ALL_METHODS, "student.ppo.cost_weight=1")
    assert {"reward", "cost"} <= set(graph["student_ppo-s1"].inputs)
    filtered = stages("quickstart", "weak_labels.drop_unsafe=true")
    assert {"reward", "cost"} <= set(filtered["weak-labels-s1"].inputs)


def test_score_models_of_the_training_learn_from_w_alone() -> None:
    graph = stages("quickstart", ALL_METHODS, "student.ppo.cost_weight=1")
    for name in ("reward", "cost"):
        assert {
            source.identity.rpartition("/")[2] for key, source in graph[name].inputs.items() if key != "model"
        } == {"weak.jsonl"}


def test_an_upstream_that_is_tuned_first_is_the_one_that_answers_and_is_taught() -> None:
    graph = stages("llama70b_w2s")
    tuned = graph["upstream-sft"].output("model").identity
    for name in ("upstream-eval", "upstream-labels", "student-s1", "student_dpo-s1", "ceiling-s1"):
        assert graph[name].inputs["model"].identity == tuned
    assert "upstream-sft" not in stages("quickstart")


def test_fine_tuning_on_the_aligners_data_has_neither_floor_nor_ceiling() -> None:
    graph = stages("aligner_vs_finetuning")
    assert {"student-s1", "student_dpo-s1", "student_ppo-s1", "aligned-eval-s1"} <= set(graph)
    assert not {"floor-s1", "ceiling-s1"} & set(graph)
    assert graph["labels-s1"].inputs["corrections"].identity.endswith("weak.jsonl")


BEAVER = "PKU-Alignment/beaver-7b-v1.0-reward"


def test_corrections_of_given_answers_are_planned_with_all_of_them() -> None:
    graph = stages("quickstart", "data.answers=given", "data.limits.weak_labels=20")
    for name, rows in (("corrections-s1", 20), ("aligned-eval-s1", 8)):
        work = graph[name].work
        assert isinstance(work, Steps)
        assert [step.rows for step in work.steps if isinstance(step, GenerationWork)] == [rows]


def test_score_models_are_planned_by_their_own_size_and_only_those_that_are_asked() -> None:
    graph = stages("quickstart", ALL_METHODS, "weak_labels.drop_unsafe=true", f"roles.reward={BEAVER}")
    filtered, rewarded = graph["weak-labels-s1"].work, graph["student_ppo-s1"].work
    assert isinstance(filtered, ScoringWork)
    assert isinstance(rewarded, PolicyWork)
    large, tiny = (shape_of(Role(model=name), "test") for name in (BEAVER, "embedded:tiny-random"))
    assert (filtered.shapes, filtered.rows) == ((large, tiny), 16)
    assert rewarded.scores == (large,)  # the smoke profile sets the cost's weight to 0


def test_learning_from_preferences_is_planned_with_their_number() -> None:
    changes = ("student.learns_from=preferences", "data.preferences=hub:org/pairs", "data.limits.preferences=30")
    work = stages("aligner_vs_finetuning", *changes)["student-s1"].work
    assert isinstance(work, TrainingWork)
    assert work.examples == 30


@pytest.mark.parametrize("corrector", ["best_of", "stack:[best_of, identity]"])
def test_a_corrector_that_samples_whatever_the_preset_draws_anew_under_every_seed(corrector: str) -> None:
    graph = stages("quickstart", "seeds=[1, 2]", f"corrector={corrector}", "compared={same: identity}")
    seeds = {name: stage.task.model_dump().get("seed") for name, stage in graph.items()}
    assert (seeds["aligned-eval-s1"], seeds["aligned-eval-s2"]) == (1, 2)
    assert seeds["by-same-eval-s1"] == seeds["by-same-eval-s2"] == 0
