"""A recipe that a machine cannot carry is rehearsed there; one that it can carry is run as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.configuration import load
from aligner_core.recipe import Recipe
from tests.command_line import w2s

LARGE = ["llama70b_w2s", "alpaca7b_w2s", "qwen_w2s", "aligner_7b"]


@pytest.mark.parametrize("name", LARGE)
def test_a_large_recipe_is_rehearsed_with_stand_ins_under_deepspeed(name: str) -> None:
    recipe, profile, problems = load(Recipe, name, "cpu")
    assert problems == []
    assert recipe.roles.upstream.model.startswith("embedded:")
    assert (profile.name, profile.processes, profile.zero.stage) == ("cpu (rehearsal)", 2, 2)
    assert recipe.data.limits.corrections is not None


def test_a_small_recipe_runs_as_it_is_in_one_process() -> None:
    recipe, profile, _ = load(Recipe, "quickstart", "cpu")
    assert (profile.name, profile.processes, profile.zero.stage) == ("cpu", 1, 0)
    assert recipe.data.limits.evaluation == 100


def test_a_rehearsal_adds_no_part_that_the_recipe_does_without() -> None:
    plain, _, _ = load(Recipe, "qwen_w2s", "cpu")
    assert (plain.upstream_sft, plain.data.instructions, plain.data.queries) == (None, None, None)
    tuned, _, _ = load(Recipe, "llama70b_w2s", "cpu")
    assert tuned.upstream_sft is not None
    assert tuned.data.sources("instructions")["instructions"].source == "embedded:corrections"


def test_plan_says_that_it_is_a_rehearsal(tmp_path: Path) -> None:
    result = w2s("plan", "llama70b_w2s", "--runs", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "cpu (rehearsal)" in result.stdout
    assert "2 training processes, ZeRO-2" in result.stdout
