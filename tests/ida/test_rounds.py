"""IDA's graph of rounds, and a whole run with tiny models."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aligner_core.command import Experiment
from aligner_core.configuration import load
from aligner_core.errors import UserError
from aligner_core.files import read_json, read_jsonl
from aligner_core.stages import Artifact, Stage
from analysis.comparisons import pairs
from analysis.systems import system_of
from ida.pipeline import build, build_rounds
from ida.progress import ROUNDS, rounds_of
from ida.recipe import IdaRecipe, Rounds, Stop
from tests.command_line import ida


def stages(*overrides: str) -> dict[str, Stage]:
    recipe, profile, problems = load(IdaRecipe, "ida_quickstart", "smoke", overrides)
    assert not problems
    return {stage.name: stage for stage in build(recipe, profile)}


def needs(stage: Stage) -> set[str]:
    return {source.stage.name for source in stage.inputs.values() if isinstance(source, Artifact)}


def test_each_round_learns_from_corrections_of_the_round_before() -> None:
    graph = stages()
    assert needs(graph["round1-corrections-s42"]) == {"aligner-s42", "upstream-labels"}
    assert needs(graph["round2-corrections-s42"]) == {"aligner-s42", "round1-labels-s42"}
    assert needs(graph["round1-labels-s42"]) == {"round1-student-s42", "data"}
    assert needs(graph["round2-student-s42"]) == {"round2-weak-labels-s42", "round1-student-s42"}


def test_a_round_can_start_from_the_upstream_instead() -> None:
    assert needs(stages("rounds.start=base")["round2-student-s42"]) == {"round2-weak-labels-s42"}


def test_more_rounds_leave_the_identities_of_the_first_ones_alone() -> None:
    two, three = stages(), stages("rounds.count=3")
    assert two["round2-student-s42"].identity == three["round2-student-s42"].identity
    assert "round3-student-s42" in three


def test_a_retrained_aligner_learns_from_the_current_models_answers_to_w() -> None:
    graph = stages("rounds.aligner=retrained")
    assert needs(graph["round1-corrections-s42"]) == {"aligner-s42", "upstream-labels"}
    assert needs(graph["round2-corrections-s42"]) == {"round2-aligner-s42", "round1-labels-s42"}
    assert needs(graph["round2-aligner-s42"]) == {"round2-warm-up-s42", "round1-weak-answers-s42"}
    assert needs(graph["round1-weak-answers-s42"]) == {"round1-student-s42", "data"}
    assert needs(graph["round1-aligned-eval-s42"]) == {"round2-aligner-s42", "round1-eval-s42"}
    assert graph["scorer"].identity == stages()["scorer"].identity


def test_fresh_questions_are_another_share_each_round() -> None:
    graph = stages("rounds.questions=fresh", "data.queries=embedded:queries")
    shares = [graph[f"round{number}-questions"] for number in (1, 2)]
    assert [stage.task.model_dump() for stage in shares] == [{"share": 1, "of": 2}, {"share": 2, "of": 2}]
    assert needs(graph["upstream-labels"]) == {"round1-questions"}
    assert needs(graph["round1-labels-s42"]) == {"round2-questions", "round1-student-s42"}


def test_further_questions_are_asked_beside_s() -> None:
    graph = stages("data.queries=embedded:queries")
    assert set(graph["questions"].inputs) == {"questions", "questions_queries"}
    assert needs(graph["round1-labels-s42"]) == {"questions", "round1-student-s42"}


def test_earlier_rounds_and_ground_truth_are_learnt_again_where_the_recipe_says_so() -> None:
    graph = stages("rounds.replay=0.5", "rounds.replay_ground_truth=0.1", "rounds.count=3")
    assert needs(graph["round1-weak-labels-s42"]) == {"round1-corrections-s42", "round1-ground-truth-s42"}
    assert needs(graph["round3-weak-labels-s42"]) == {
        "round3-corrections-s42", "round3-replay-1-s42", "round3-replay-2-s42", "round3-ground-truth-s42"
    }  # fmt: skip
    assert needs(graph["round3-replay-2-s42"]) == {"round2-corrections-s42"}
    assert needs(graph["round3-ground-truth-s42"]) == {"data"}


def test_several_corrections_of_an_answer_are_drawn_apart() -> None:
    graph = stages("rounds.samples=2", "generation.preset=published")
    drawn = [graph[name].task.model_dump()["seed"] for name in ("round1-corrections-s42", "round1-corrections-2-s42")]
    assert len(set(drawn)) == 2
    assert needs(graph["round1-weak-labels-s42"]) == {"round1-corrections-s42", "round1-corrections-2-s42"}
    with pytest.raises(UserError, match="greedy decoding draws the same correction every time"):
        load(IdaRecipe, "ida_quickstart", "smoke", ["rounds.samples=2"])


@pytest.mark.parametrize("corrector", ["stack:[best_of, identity]", "{kind: gate, of: best_of}"])
def test_a_best_of_inside_another_corrector_draws_several_corrections_too(corrector: str) -> None:
    graph = stages("rounds.samples=2", f"corrector={corrector}")
    drawn = [graph[name].task.model_dump()["seed"] for name in ("round1-corrections-s42", "round1-corrections-2-s42")]
    assert len(set(drawn)) == 2


def test_each_round_distils_by_one_method() -> None:
    _, _, problems = load(IdaRecipe, "ida_quickstart", "smoke", ["student.methods=[sft, dpo]"])
    assert "each round distils into one student" in str(problems[0])


def test_the_scorer_that_stop_rules_read_is_not_the_one_that_evaluates() -> None:
    graph = stages()
    assert "selector" in needs(graph["round1-scores-by-w-s42"])
    assert "scorer" not in needs(graph["round1-scores-by-w-s42"])
    assert "scorer" in needs(graph["scores-round1-s42"])
    assert needs(graph["selector"]) == {"data"}


def test_rounds_are_built_one_after_the_other() -> None:
    recipe, profile, _ = load(IdaRecipe, "ida_quickstart", "smoke", ["seeds=[1, 2]"])
    assert isinstance(recipe, IdaRecipe)
    grown = [[stage.folder_name for stage in build_rounds(recipe, profile, last)] for last in range(3)]
    assert grown[1][: len(grown[0])] == grown[0]
    assert grown[2] == [stage.folder_name for stage in build(recipe, profile)]
    assert not any("round2" in name or "round1-labels" in name for name in grown[1])


def test_letters_are_compared_as_in_the_sources_table() -> None:
    assert pairs(["A", "B", "C", "D"]) == [("B", "A"), ("C", "B"), ("D", "C"), ("C", "A"), ("D", "B")]
    assert system_of("C").meaning == "the model after round 1"
    assert system_of("D").meaning == "the model after round 1, its answers corrected by the Aligner"


def test_correctors_to_compare_are_refused_as_rounds_are_compared() -> None:
    _, _, problems = load(IdaRecipe, "ida_quickstart", "smoke", ["compared={cai: cai}"])
    assert "compared: belongs to weak-to-strong recipes" in str(problems[0])


def test_two_rounds_run_to_their_report(ida_run: Path) -> None:
    report = read_json(ida_run / "report.json")
    assert [row["system"] for row in report["systems"]] == ["A", "B", "C", "D", "E", "F"]


def test_the_docs_tell_of_every_key_of_rounds() -> None:
    docs = Path("docs/ida.md").read_text()
    missing = [key for kind in (Rounds, Stop) for key in kind.model_fields if key not in docs]
    assert missing == []


PLACES = [("ida_7b", "h100x8"), ("ida_13b", "h100x8"), ("ida_70b", "h100x8x8")]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_the_sources_experiments_fit_where_they_say_and_stay_the_same_everywhere(name: str, place: str) -> None:
    for profile in (place, "a800x8" if name != "ida_70b" else place, "cpu"):
        result = ida("plan", name, "--profile", profile)
        assert result.returncode == 0, result.stderr
        assert "left to do: 26 of 26 stages" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, _ in PLACES])
def test_the_sources_experiments_run_to_their_report_with_tiny_models(name: str, tmp_path: Path) -> None:
    result = ida("run", name, "--profile", "smoke", "--runs", tmp_path, "--set", "rounds.count=1")
    assert result.returncode == 0, result.stderr + result.stdout
    assert (tmp_path / name / "report.html").is_file()


@pytest.mark.slow
def test_every_means_against_loss_runs_to_the_report(tmp_path: Path) -> None:
    changes = {
        "corrector": "{kind: best_of, n: 2, of: {kind: stack, of: [aligner, aligner]}}",
        "rounds": "{aligner: retrained, questions: fresh, samples: 2, replay: 0.5, replay_ground_truth: 0.5, "
        "start: base}",
        "data.queries": "embedded:queries",
        "seeds": "[1, 2]",
    }
    options = [part for key, value in changes.items() for part in ("--set", f"{key}={value}")]
    arguments: list[str | Path] = ["ida_quickstart", "--profile", "smoke", "--runs", tmp_path, *options]
    result = ida("run", *arguments)
    assert result.returncode == 0, result.stderr + result.stdout
    labels = [read_jsonl(path) for path in tmp_path.glob("*/stages/round2-weak-labels-s1-*/labels.jsonl")]
    inputs = {row["id"].partition("/")[0] for row in labels[0]}
    assert {"corrections-2", "corrections-round1", "corrections-truth"} <= inputs
    assert ida("lineage", *arguments, "--check").returncode == 0


def test_which_rounds_are_done_is_told_when_the_last_one_is_and_not_while_they_are_gone_over(
    ida_run: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(ida_run, tmp_path / "ida_quickstart"))
    before = read_json(run / ROUNDS)
    assert before == {"planned": 2, "finished": 2, "stopped": None}
    recipe, profile, _ = load(IdaRecipe, "ida_quickstart", "smoke")
    (run / ROUNDS).unlink()
    for _ in rounds_of(Experiment(recipe, profile, [], [], run)):
        assert not (run / ROUNDS).exists()
    assert read_json(run / ROUNDS) == before


def test_a_stop_rule_ends_the_rounds_and_the_report_says_why(ida_run: Path, tmp_path: Path) -> None:
    shutil.copytree(ida_run, tmp_path / "ida_quickstart")
    arguments = ["ida_quickstart", "--profile", "smoke", "--runs", tmp_path, "--set", "rounds.stop.max_tokens=1"]
    result = ida("run", *arguments)
    assert result.returncode == 0, result.stderr
    report = read_json(tmp_path / "ida_quickstart" / "report.json")
    assert [row["system"] for row in report["systems"]] == ["A", "B", "C", "D"]
    assert any(said.startswith("Stopped after round 1 of 2: budget") for said in report["words"])
    assert "round2-student-s42" in ida("plan", *arguments).stdout
