"""Identities: what changes a result changes them, and nothing else does."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import Field

from aligner_core.configuration import load
from aligner_core.profile import Profile
from aligner_core.recipe import Recipe
from aligner_core.stage_context import StageContext
from aligner_core.stages import Artifact, Source, Stage, Task, in_order, load_task
from w2s.pipeline import build


class Count(Task):
    version: ClassVar[int] = 1
    limit: int = 1
    names: dict[str, int] = Field({})

    def run(self, stage: StageContext) -> None:
        stage.facts["limit"] = self.limit


class CountAgain(Count):
    """Another task with the same settings."""


DATA = Source("here.jsonl", "abc")


def chain() -> tuple[Stage, Stage, Stage]:
    first = Stage("first", Count(), {"data": DATA})
    second = Stage("second", Count(), {"rows": first.output("rows.jsonl")})
    return first, second, Stage("third", Count(), {"a": first.output("rows.jsonl"), "b": second.output("rows.jsonl")})


def test_the_same_stage_built_twice_has_one_identity() -> None:
    assert [stage.identity for stage in chain()] == [stage.identity for stage in chain()]


@pytest.mark.parametrize(
    "other",
    [
        Stage("count", Count(limit=2), {"data": DATA}),
        Stage("count", CountAgain(), {"data": DATA}),
        Stage("count", Count(), {"data": Source("here.jsonl", "abd")}),
        Stage("count", Count(), {"rows": DATA}),
        Stage("count", Count(), {"data": DATA, "more": DATA}),
        Stage("count", Count()),
    ],
    ids=["setting", "task", "content", "input name", "more inputs", "fewer inputs"],
)
def test_what_can_change_the_result_changes_the_identity(other: Stage) -> None:
    assert other.identity != Stage("count", Count(), {"data": DATA}).identity


def test_a_new_version_of_the_code_changes_the_identity_of_all_that_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [stage.identity for stage in chain()]
    monkeypatch.setattr(Count, "version", 2)
    assert not set(before) & {stage.identity for stage in chain()}


def test_an_inputs_identity_is_passed_down_to_the_end() -> None:
    _, _, before = chain()
    first = Stage("first", Count(limit=9), {"data": DATA})
    second = Stage("second", Count(), {"rows": first.output("rows.jsonl")})
    after = Stage("third", Count(), {"a": first.output("rows.jsonl"), "b": second.output("rows.jsonl")})
    assert after.identity != before.identity


def test_another_output_of_the_same_stage_is_another_input() -> None:
    first, *_ = chain()
    rows, rest = (Stage("next", Count(), {"rows": first.output(path)}) for path in ("rows.jsonl", "rest.jsonl"))
    assert rows.identity != rest.identity


def test_the_order_of_settings_and_inputs_does_not_matter() -> None:
    one = Stage("count", Count(limit=3, names={"a": 1, "b": 2}), {"x": DATA, "y": Source("y", "y")})
    two = Stage("count", Count(names={"b": 2, "a": 1}, limit=3), {"y": Source("y", "y"), "x": DATA})
    assert one.identity == two.identity


def test_a_sources_place_does_not_matter() -> None:
    moved = Stage("count", Count(), {"data": Source("/elsewhere/here.jsonl", "abc")})
    assert moved.identity == Stage("count", Count(), {"data": DATA}).identity


def test_inputs_come_first_and_each_stage_once() -> None:
    first, second, third = chain()
    assert in_order([third, second, third]) == [first, second, third]


def test_equal_stages_built_apart_are_run_once() -> None:
    *_, third = chain()
    *_, again = chain()
    assert [stage.name for stage in in_order([third, again])] == ["first", "second", "third"]


def test_a_task_is_loaded_from_what_its_stage_stores() -> None:
    task = Count(limit=5, names={"a": 1})
    assert load_task(Count.path(), task.model_dump(mode="json")) == task


def test_a_task_refuses_settings_that_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="limt"):
        load_task(Count.path(), {"limt": 5})


def quickstart(changes: dict[str, Any] | None = None, *overrides: str) -> dict[str, str]:
    recipe, profile, problems = load(Recipe, "quickstart", "smoke", overrides)
    assert problems == []
    changed = Profile.model_validate({**profile.model_dump(), **(changes or {})})
    return {stage.name: stage.identity for stage in build(recipe, changed)}


def test_the_place_leaves_the_identities_alone() -> None:
    gpu = {"kind": "cuda", "name": "GPU", "memory_gib": 80, "tflops": 900, "bandwidth_gb_s": 3000, "count": 8}
    place = {
        "name": "elsewhere", "device": gpu, "nodes": 2, "processes": 16, "zero": {"stage": 3, "offload": True},
        "gradient_checkpointing": True, "micro_batch": 1, "launch": {"kind": "slurm"}, "checkpoint_minutes": 1,
        "utilisation": 0.1, "wandb": True, "generation": {"engine": "transformers", "batch": 3, "tensor_parallel": 2},
    }  # fmt: skip
    assert quickstart(place) == quickstart()


def test_precision_and_engine_change_what_is_trained_and_generated_and_nothing_before() -> None:
    before = quickstart()
    for change in ({"precision": "bfloat16"}, {"generation": {"engine": "vllm"}}):
        after = quickstart(change)
        assert after["data"] == before["data"]
        assert after["upstream-labels"] != before["upstream-labels"]


def test_one_setting_changes_its_own_stage_and_what_follows_alone() -> None:
    before, after = quickstart(), quickstart(None, "student.training.epochs=7")
    assert set(before) == set(after)
    changed = {name for name in before if before[name] != after[name]}
    assert {"student-s42", "ceiling-s42"} <= changed
    assert not changed & {"data", "scorer", "floor-s42", "upstream-labels", "corrections-s42", "weak-labels-s42"}


def test_a_longer_name_of_the_run_changes_nothing() -> None:
    assert quickstart(None, "name=other", "description=another") == quickstart()


def test_another_seed_is_added_without_touching_the_first_one() -> None:
    before, after = quickstart(), quickstart(None, "seeds=[42, 43]")
    assert before.items() <= after.items()
    assert "student-s43" in after


def test_a_pipelines_stages_come_after_their_inputs() -> None:
    recipe, profile, _ = load(Recipe, "quickstart", "smoke")
    seen: set[str] = set()
    for stage in build(recipe, profile):
        needed = {source.stage.identity for source in stage.inputs.values() if isinstance(source, Artifact)}
        assert needed <= seen
        seen.add(stage.identity)
    assert len(seen) == len(build(recipe, profile))
