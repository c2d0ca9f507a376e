"""Recipes and profiles: every problem at once, each with its key and a way out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from aligner_core.configuration import SHIPPED, find_recipe, load, shipped_recipes
from aligner_core.errors import Problem, UserError
from aligner_core.recipe import Recipe
from ida.recipe import IdaRecipe

RECIPE: dict[str, Any] = {
    "name": "small",
    "roles": dict.fromkeys(("upstream", "aligner", "scorer"), "embedded:tiny-random"),
    "data": {"corrections": "embedded:corrections", "evaluation": "embedded:eval"},
}
PROFILE: dict[str, Any] = {
    "name": "here",
    "device": {"kind": "cpu", "name": "two cores", "memory_gib": 8, "tflops": 1.0, "bandwidth_gb_s": 20},
}

PROFILES = sorted((SHIPPED / "profiles").glob("*.yaml"))


def loaded(
    folder: Path, recipe: dict[str, Any], profile: dict[str, Any] | None = None, overrides: Sequence[str] = ()
) -> tuple[Recipe, list[Problem]]:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "profile.yaml").write_text(yaml.safe_dump(profile or PROFILE))
    checked, _, problems = load(Recipe, str(folder / "recipe.yaml"), str(folder / "profile.yaml"), overrides)
    return checked, problems


def found_problems(folder: Path, recipe: dict[str, Any]) -> set[str]:
    """Where the problems are, whether or not loading could go on."""
    try:
        _, problems = loaded(folder, recipe)
    except UserError as error:
        problems = error.problems
    return {problem.where for problem in problems}


def with_set(folder: Path, *overrides: str) -> Recipe:
    recipe, problems = loaded(folder, RECIPE, overrides=overrides)
    assert problems == []
    return recipe


@pytest.mark.parametrize("profile", PROFILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("recipe", shipped_recipes(), ids=lambda path: path.stem)
def test_every_shipped_recipe_validates_with_every_shipped_profile(recipe: Path, profile: Path) -> None:
    kind = IdaRecipe if recipe.stem.startswith("ida") else Recipe
    checked, place, problems = load(kind, str(recipe), str(profile))
    assert problems == []
    assert (checked.name, place.name.removesuffix(" (rehearsal)")) == (recipe.stem, profile.stem)


def test_recipes_and_profiles_are_shipped() -> None:
    assert "quickstart" in {path.stem for path in shipped_recipes()}
    assert {"cpu", "smoke"} <= {path.stem for path in PROFILES}


def test_the_defaults_are_the_whole_of_a_small_recipe(tmp_path: Path) -> None:
    recipe, problems = loaded(tmp_path, RECIPE)
    assert problems == []
    assert recipe.roles.embedder.model == "embedded:all-minilm-l6-v2"
    assert recipe.seeds == [42]


def test_faults_of_every_kind_are_reported_at_once(tmp_path: Path) -> None:
    faulty = {
        **RECIPE,
        "roles": {"upstream": "no such model", "scorer": "embedded:tiny"},
        "studnet": {"method": "sft"},
        "student": {"training": {"epochs": "many", "learning_rat": 1e-5}},
        "aligner": {"warm_up": {"fraction": 1.5}},
        "seeds": [1, 1],
    }
    _, problems = loaded(tmp_path, faulty)
    found = {problem.where: problem for problem in problems}
    keys = (
        "roles.upstream.model", "roles.aligner", "roles.scorer.model", "studnet", "student.training.epochs",
        "student.training.learning_rat", "aligner.warm_up.fraction", "seeds",
    )  # fmt: skip
    assert set(found) == {f"recipe.yaml: {key}" for key in keys}
    assert all(problem.fix for problem in problems)
    assert found["recipe.yaml: studnet"].fix.startswith('did you mean "student"?')
    assert found["recipe.yaml: student.training.learning_rat"].fix.startswith('did you mean "learning_rate"?')
    assert "missing" in found["recipe.yaml: roles.aligner"].what
    assert "unknown model" in found["recipe.yaml: roles.upstream.model"].what
    assert "no embedded model" in found["recipe.yaml: roles.scorer.model"].what
    assert "'many'" in found["recipe.yaml: student.training.epochs"].what
    assert "1.5" in found["recipe.yaml: aligner.warm_up.fraction"].what
    assert "seeds repeat" in found["recipe.yaml: seeds"].what


def test_faults_of_recipe_and_profile_come_together(tmp_path: Path) -> None:
    profile = {**PROFILE, "zero": {"stage": 4}, "procesess": 2}
    _, problems = loaded(tmp_path, {**RECIPE, "nmae": "x"}, profile, ["seeds=[]", "oops"])
    assert {problem.where for problem in problems} == {
        "profile.yaml: zero.stage", "profile.yaml: procesess", "recipe.yaml: nmae", "recipe.yaml: seeds", "--set oops",
    }  # fmt: skip


@pytest.mark.parametrize("section", ["student.training", "student.dpo.training", "floor"])
def test_only_an_aligner_may_be_shown_a_cut_answer(tmp_path: Path, section: str) -> None:
    _, [problem] = loaded(tmp_path, RECIPE, overrides=[f"{section}.over_long=truncate_answer"])
    assert (problem.where, "use drop or raise" in problem.what) == (f"recipe.yaml: {section}", True)
    assert with_set(tmp_path, "aligner.training.over_long=truncate_answer").floor is None


def test_an_unknown_key_unlike_any_other_lists_the_known_ones(tmp_path: Path) -> None:
    _, [problem] = loaded(tmp_path, {**RECIPE, "xyzzy": 1})
    assert problem.fix.startswith("remove it")
    assert "weak_labels" in problem.fix


@pytest.mark.parametrize("missing", ["upstream", "aligner", "scorer"])
def test_a_missing_role_is_named_with_what_it_is_for(tmp_path: Path, missing: str) -> None:
    roles = {name: model for name, model in RECIPE["roles"].items() if name != missing}
    recipe, [problem] = loaded(tmp_path, {**RECIPE, "roles": roles})
    assert problem.where == f"recipe.yaml: roles.{missing}"
    assert len(problem.fix) > len(f"add it: {missing}")
    assert recipe.roles.upstream.model == "embedded:tiny-random"


@pytest.mark.parametrize("section", ["roles", "data", "name"])
def test_a_missing_section_is_a_user_error_beside_the_others(tmp_path: Path, section: str) -> None:
    recipe = {key: value for key, value in RECIPE.items() if key != section}
    assert {f"recipe.yaml: {section}", "recipe.yaml: seeds"} <= found_problems(tmp_path, {**recipe, "seeds": []})


@pytest.mark.parametrize("name", ["../elsewhere", "", "a/b", ".hidden", "a b"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path: Path, name: str) -> None:
    assert found_problems(tmp_path, {**RECIPE, "name": name}) == {"recipe.yaml: name"}


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("student.training.epochs=0", "student.training.epochs"),
        ("student.training.learning_rate=-1e-5", "student.training.learning_rate"),
        ("student.training.global_batch=1.5", "student.training.global_batch"),
        ("student.training.schedule=cosin", "student.training.schedule"),
        ("data.weak_share=2", "data.weak_share"),
        ("evaluation.confidence=95", "evaluation.confidence"),
        ("seeds=42", "seeds"),
    ],
)
def test_an_impossible_value_names_its_key(tmp_path: Path, override: str, key: str) -> None:
    _, [problem] = loaded(tmp_path, RECIPE, overrides=[override])
    assert problem.where == f"recipe.yaml: {key}"


@pytest.mark.parametrize(
    ("text", "number"), [("1e-5", 1e-5), ("2E-4", 2e-4), ("1.0e-4", 1e-4), ("0.001", 1e-3), (".5", 0.5)]
)
def test_set_takes_numbers_as_people_write_them(tmp_path: Path, text: str, number: float) -> None:
    assert with_set(tmp_path, f"student.training.learning_rate={text}").student.training.learning_rate == number


def test_numbers_in_a_file_may_lack_the_dot(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(RECIPE) + "floor: {learning_rate: 3e-5, betas: [9e-1, 0.99]}\n"
    )
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    recipe, _, problems = load(Recipe, str(tmp_path / "recipe.yaml"), str(tmp_path / "profile.yaml"))
    assert problems == []
    assert recipe.floor is not None
    assert (recipe.floor.learning_rate, recipe.floor.betas) == (3e-5, (0.9, 0.99))


def test_set_takes_lists_null_booleans_and_mappings(tmp_path: Path) -> None:
    recipe = with_set(
        tmp_path, "seeds=[1, 2]", "scorer.trainable_layers=null", "weak_labels.drop_identical=true",
        "student.training.betas=[0.8, 9e-1]", "data.limits={evaluation: 3}", "description=a = b",
    )  # fmt: skip
    assert recipe.seeds == [1, 2]
    assert recipe.scorer.trainable_layers is None
    assert recipe.weak_labels.drop_identical is True
    assert recipe.student.training.betas == (0.8, 0.9)
    assert recipe.data.limits.evaluation == 3
    assert recipe.description == "a = b"


def test_set_makes_the_sections_that_are_not_there_and_the_last_one_counts(tmp_path: Path) -> None:
    recipe = with_set(tmp_path, "data.limits.queries=5", "data.limits.evaluation=6", "data.limits.queries=7")
    assert (recipe.data.limits.queries, recipe.data.limits.evaluation) == (7, 6)


def test_set_reaches_into_a_role(tmp_path: Path) -> None:
    recipe = with_set(tmp_path, "roles.upstream.model=org/name", "roles.upstream.revision=abc")
    assert (recipe.roles.upstream.model, recipe.roles.upstream.revision) == ("org/name", "abc")


@pytest.mark.parametrize("revision", ["1234567", "12e4567"])
def test_a_quoted_number_is_text(tmp_path: Path, revision: str) -> None:
    role = {"model": "org/name", "revision": revision}
    recipe, problems = loaded(tmp_path, {**RECIPE, "roles": {**RECIPE["roles"], "upstream": role}})
    assert problems == []
    assert recipe.roles.upstream.revision == revision


@pytest.mark.parametrize("revision", ["1234567", "12e4567"])
def test_set_takes_a_quoted_number_as_text(tmp_path: Path, revision: str) -> None:
    recipe = with_set(tmp_path, "roles.upstream.model=org/name", f'roles.upstream.revision="{revision}"')
    assert recipe.roles.upstream.revision == revision


@pytest.mark.parametrize("override", ["seeds", "=3", "seeds=[1", "description={"])
def test_a_set_that_says_nothing_is_a_problem(tmp_path: Path, override: str) -> None:
    _, [problem] = loaded(tmp_path, RECIPE, overrides=[override])
    assert problem.where.startswith("--set")
    assert problem.fix


def test_set_changes_one_section_though_the_file_shares_it_with_another(tmp_path: Path) -> None:
    shared = "aligner: {training: &training {epochs: 1}}\nstudent: {training: *training}\n"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE) + shared)
    (tmp_path / "profile.yaml").write_text(yaml.safe_dump(PROFILE))
    place = str(tmp_path / "profile.yaml")
    recipe, _, problems = load(Recipe, str(tmp_path / "recipe.yaml"), place, ["student.training.epochs=7"])
    assert problems == []
    assert (recipe.aligner.training.epochs, recipe.student.training.epochs) == (1, 7)


def test_an_unknown_key_in_a_set_is_a_problem(tmp_path: Path) -> None:
    _, [problem] = loaded(tmp_path, RECIPE, overrides=["student.trainig.epochs=2"])
    assert problem.where == "recipe.yaml: student.trainig"
    assert 'did you mean "training"?' in problem.fix


def test_a_profile_replaces_roles_data_and_sections_and_leaves_the_rest(tmp_path: Path) -> None:
    replace = {
        "roles": {"upstream": "embedded:tiny-random"},
        "data": {"evaluation": "embedded:eval", "limits": {"evaluation": 4}},
        "sections": {"student": {"training": {"global_batch": 2}}},
    }
    recipe = {
        **RECIPE,
        "roles": {**RECIPE["roles"], "upstream": {"model": "org/huge", "revision": "abc"}, "aligner": "org/weak"},
        "data": {**RECIPE["data"], "evaluation": "hub:org/eval", "limits": {"evaluation": 700, "queries": 9}},
        "student": {"training": {"epochs": 2, "global_batch": 256}},
    }
    merged, problems = loaded(tmp_path, recipe, {**PROFILE, "replace": replace})
    assert problems == []
    assert merged.roles.upstream.model == "embedded:tiny-random"
    assert merged.roles.upstream.revision is None
    assert merged.roles.aligner.model == "org/weak"
    assert [item.source for item in merged.data.evaluation] == ["embedded:eval"]
    assert (merged.data.limits.evaluation, merged.data.limits.queries) == (4, 9)
    assert (merged.student.training.epochs, merged.student.training.global_batch) == (2, 2)


def test_set_wins_over_the_profiles_replacement(tmp_path: Path) -> None:
    profile = {**PROFILE, "replace": {"data": {"limits": {"evaluation": 4}}}}
    recipe, problems = loaded(tmp_path, RECIPE, profile, ["data.limits.evaluation=5"])
    assert problems == []
    assert recipe.data.limits.evaluation == 5


def test_a_faulty_replacement_is_a_problem(tmp_path: Path) -> None:
    _, problems = loaded(tmp_path, RECIPE, {**PROFILE, "replace": {"roles": {"upstrem": "embedded:tiny-random"}}})
    assert [problem.where for problem in problems] == ["recipe.yaml: roles.upstrem"]


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"name: [1", "is not YAML"), (b"- a\n- b", "holds no mapping"), (b"", "holds no mapping"),
     (b"name: \xff", "is not UTF-8"), (b"name: a\x00b", "is not YAML")],
)  # fmt: skip
def test_a_file_that_is_no_recipe_is_a_user_error(tmp_path: Path, content: bytes, what: str) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(UserError, match=what):
        load(Recipe, str(tmp_path / "recipe.yaml"), "cpu")


def test_an_unknown_recipe_or_profile_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match="quickstart"):
        load(Recipe, "quikstart", "cpu")
    with pytest.raises(UserError, match="smoke"):
        load(Recipe, "quickstart", "smok")


def test_a_shipped_recipe_is_found_by_name_with_or_without_ending() -> None:
    assert find_recipe("quickstart") == find_recipe("quickstart.yaml")


@pytest.mark.parametrize("role", ["reward", "cost"])
def test_the_scorer_that_evaluates_is_refused_as_a_score_model_of_the_training(tmp_path: Path, role: str) -> None:
    beaver = "PKU-Alignment/beaver-7b-v1.0-reward"
    _, problems = loaded(tmp_path, RECIPE, overrides=[f"roles.scorer={beaver}", f"roles.{role}={beaver}"])
    assert [problem.where for problem in problems] == [f"recipe.yaml: roles.{role}"]
    assert "is roles.scorer too" in problems[0].what
    assert with_set(tmp_path, f"roles.{role}={beaver}").roles.scorer.model != beaver


def test_a_score_model_refuses_keys_that_its_training_would_ignore(tmp_path: Path) -> None:
    for section in ("reward", "cost", "scorer"):
        _, problems = loaded(tmp_path, RECIPE, overrides=[f"{section}.training.keep_steps=[3]"])
        assert "has no keep_steps" in problems[0].what
