"""IDA's graph of rounds, and a whole run with tiny models."""

from __future__ import annotations

from pathlib import Path

from aligner_core.configuration import load
from aligner_core.files import read_json
from aligner_core.stages import Artifact, Stage
from analysis.comparisons import meaning, pairs
from ida.pipeline import build
from ida.recipe import IdaRecipe


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


def test_letters_are_compared_as_in_the_sources_table() -> None:
    assert pairs(["A", "B", "C", "D"]) == [("B", "A"), ("C", "B"), ("D", "C"), ("C", "A"), ("D", "B")]
    assert meaning("C") == "the model after round 1"
    assert meaning("D") == "the model after round 1, its answers corrected by the Aligner"


def test_correctors_to_compare_are_refused_as_rounds_are_compared() -> None:
    _, _, problems = load(IdaRecipe, "ida_quickstart", "smoke", ["compared={cai: cai}"])
    assert "compared: belongs to weak-to-strong recipes" in str(problems[0])


def test_two_rounds_run_to_their_report(ida_run: Path) -> None:
    report = read_json(ida_run / "report.json")
    assert [row["system"] for row in report["systems"]] == ["A", "B", "C", "D", "E", "F"]
