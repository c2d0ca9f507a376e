"""The main table: a stage per cell, and a report that sets its omegas beside the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.configuration import find_profile, load, read_yaml
from aligner_core.data_sources import EMBEDDED
from aligner_core.errors import UserError
from aligner_core.evaluation_sets import set_name
from aligner_core.files import read_json, read_jsonl, write_jsonl
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import Recipe
from aligner_core.stage_context import StageContext
from aligner_core.stages import Stage
from aligner_core.work import GenerationWork, Steps
from tests.command_line import w2s
from w2s.main_table import GivenAnswers
from w2s.pipeline import build


@pytest.fixture
def sets(tmp_path: Path) -> list[str]:
    """Two small evaluation sets, and a file that answers the questions of both."""
    questions = [row["question"] for row in read_jsonl(EMBEDDED / "eval.jsonl")]
    write_jsonl(tmp_path / "first.jsonl", ({"question": text} for text in questions[:6]))
    write_jsonl(tmp_path / "harmfulqa.jsonl", ({"question": text} for text in questions[6:10]))
    write_jsonl(tmp_path / "given.jsonl", ({"question": text.upper(), "answer": "No."} for text in questions))
    names = ", ".join(str(tmp_path / f"{name}.jsonl") for name in ("first", "harmfulqa"))
    return [f"data.evaluation=[{names}]", "data.limits.evaluation=3", "seeds=[42]"]


def given(folder: Path, more: str = "") -> str:
    return f"upstreams={{GPT-4: {{answers: {folder / 'given.jsonl'}}}, Alpaca-7B: embedded:tiny-random{more}}}"


def stages(*overrides: str) -> dict[str, Stage]:
    checked, profile, problems = load(Recipe, "main_table", "smoke", overrides)
    assert problems == []
    return {stage.name: stage for stage in build(checked, profile)}


def test_every_cell_is_stages_of_its_own_and_a_further_upstream_adds_its_cells_alone(
    sets: list[str], tmp_path: Path
) -> None:
    two, three = stages(*sets, given(tmp_path)), stages(*sets, given(tmp_path, ", new: embedded:tiny-random"))
    added = {f"{kind}-new-{of}" for kind in ("answers", "aligned", "scores") for of in ("first", "harmfulqa")}
    assert {name.removesuffix("-s42") for name in set(three) - set(two)} == added
    assert all(three[name].identity == stage.identity for name, stage in two.items())
    assert [name for name in two if name.startswith(("warm-up", "aligner", "scorer"))] == [
        "warm-up-s42", "aligner-s42", "scorer",
    ]  # fmt: skip
    assert len(two) == 3 + 1 + 2 + 2 * 2 * 3


def test_further_aligners_correct_the_same_answers(sets: list[str], tmp_path: Path) -> None:
    plain = stages(*sets, given(tmp_path))
    more = stages(*sets, given(tmp_path), "arms={bare: {warm_up.fraction: 0}}", "compared={same: identity}")
    scores = more["scores-GPT-4-first-s42"]
    assert list(scores.inputs)[:4] == ["upstream@GPT-4", "aligned@GPT-4", "aligned_bare@GPT-4", "by_same@GPT-4"]
    assert more["aligned-bare-GPT-4-first-s42"].inputs["answers"] == plain["aligned-GPT-4-first-s42"].inputs["answers"]
    assert more["aligned-GPT-4-first-s42"].identity == plain["aligned-GPT-4-first-s42"].identity


def test_answers_of_an_upstream_do_not_depend_on_the_training_data(sets: list[str], tmp_path: Path) -> None:
    before, after = stages(*sets, given(tmp_path)), stages(*sets, given(tmp_path), "data.limits.corrections=4")
    assert before["aligner-s42"].identity != after["aligner-s42"].identity
    for name in ("answers-GPT-4-first", "answers-Alpaca-7B-harmfulqa"):
        assert before[name].identity == after[name].identity


def test_each_cell_is_planned_with_the_questions_of_its_set(sets: list[str], tmp_path: Path) -> None:
    graph = stages(*sets, given(tmp_path), "data.limits.evaluation=null")
    for upstream in ("GPT-4", "Alpaca-7B"):
        for name, size in (("first", 6), ("harmfulqa", 4)):
            work = graph[f"aligned-{upstream}-{name}-s42"].work
            assert isinstance(work, Steps)
            assert [step.rows for step in work.steps if isinstance(step, GenerationWork)] == [size]


def test_given_answers_stay_cut_and_the_first_to_a_question_counts(tmp_path: Path) -> None:
    rows = {
        "questions": [{"question": "Why?"}, {"question": "How?"}, {"question": "Who?"}],
        "answers": [
            {"id": "a", "question": "why?", "answer": "Because", "finished": False},
            {"id": "b", "question": "why?", "answer": "Because of it.", "finished": True},
            {"id": "c", "question": "How?", "answer": "So."},
            # The correction was cut, not the answer.
            {"id": "d", "question": "Who?", "answer": "I.", "correction": "It is", "finished": False},
        ],
    }  # fmt: skip
    inputs = {name: {"location": str(tmp_path / f"given-{name}.jsonl")} for name in rows}
    for name, content in rows.items():
        write_jsonl(tmp_path / f"given-{name}.jsonl", content)
    profile = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}})
    stage = StageContext(tmp_path, inputs, profile, Progress(tmp_path), MetricLog(tmp_path, "test", None))
    GivenAnswers(upstream="x").run(stage)
    found = [(row["answer"], row["finished"]) for row in read_jsonl(tmp_path / "answers.jsonl")]
    assert found == [("Because", False), ("So.", True), ("I.", True)]


def test_the_shipped_recipe_is_the_papers_eleven_upstreams_on_a_cluster() -> None:
    result = w2s("plan", "main_table", "--profile", "a800x8", "--runs", "nowhere")
    assert result.returncode == 0, result.stderr
    assert "left to do: 174 of 174 stages" in result.stdout  # data, three trainings, 5 sets, 11 x 5 cells of three
    assert "answers-Llama2-70B-Chat-truthfulqa" in result.stdout


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("upstreams={x: {answers: no.jsonl}, y: {answers: none.jsonl}}", 'there is no data "no.jsonl"'),
        ("upstreams={x: some/model}", 'dimensions of "some/model" are not known'),
        ("upstreams={x: {}}", "give a model, or a file of its answers"),
        ("data.answers=given", "give upstreams.NAME.answers a file each"),
        ("data.evaluation=[{source: embedded:eval, weight: 2}]", "a main table asks every set by itself"),
        ("data.evaluation=[embedded:eval, set:embedded=a/eval.jsonl, ./b/eval.jsonl]", "there is no data"),
    ],
)
def test_what_cannot_be_a_main_table_is_told(override: str, message: str) -> None:
    result = w2s("plan", "main_table", "--profile", "smoke", "--runs", "nowhere", "--set", override)
    assert result.returncode == 2, result.stdout
    assert message in result.stderr


def test_a_main_table_has_no_student(sets: list[str], tmp_path: Path) -> None:
    overrides = [*sets, given(tmp_path), "student={}", "data.weak_share=0.5"]
    with pytest.raises(UserError, match="a main table has no student"):
        load(Recipe, "main_table", "smoke", overrides)


def test_sets_of_one_name_are_told_apart_by_the_user(sets: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match='two evaluation sets are called "first"'):
        stages(*sets, given(tmp_path), f"data.evaluation=[{tmp_path / 'first.jsonl'}, {tmp_path / 'first.jsonl'}]")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("set:beavertails", "beavertails"),
        ("set:harmfulqa=copy.json", "harmfulqa"),
        ("embedded:eval", "eval"),
        ("hub:org/My-Set@main:config:test", "My-Set"),
        ("some/folder/my set.v2.jsonl", "my_set.v2"),
    ],
)
def test_a_set_is_called_by_the_last_name_in_its_source(source: str, name: str) -> None:
    assert set_name(source) == name


@pytest.mark.slow
def test_a_main_table_runs_to_a_report_with_a_row_per_cell_and_axis(sets: list[str], tmp_path: Path) -> None:
    overrides = [argument for value in [*sets, given(tmp_path)] for argument in ("--set", value)]
    result = w2s("run", "main_table", "--profile", "smoke", "--runs", tmp_path, *overrides)
    assert result.returncode == 0, result.stderr + result.stdout
    run = tmp_path / "main_table"
    report = read_json(run / "report.json")
    assert [(row["upstream"], row["set"], row["axis"]) for row in report["main_table"]] == [
        (upstream, of, axis) for of in ("first", "harmfulqa") for upstream in ("GPT-4", "Alpaca-7B")
        for axis in ("helpful", "harmless")
    ]  # fmt: skip
    assert all(row["win"] + row["tie"] + row["lose"] == row["n"] == 3 for row in report["main_table"])
    assert (run / "figures" / "main_table_aligned.svg").is_file()
    assert "<h2>Main table</h2>" in (run / "report.html").read_text()
    (folder,) = (run / "stages").glob("answers-GPT-4-first-*")
    assert {row["answer"] for row in read_jsonl(folder / "answers.jsonl")} == {"No."}
    # What a file does not answer is told, and the cells that are done stay done.
    write_jsonl(tmp_path / "few.jsonl", [{"question": "Who?", "answer": "I."}])
    more = given(tmp_path, f", few: {{answers: {tmp_path / 'few.jsonl'}}}")
    result = w2s("run", "main_table", "--profile", "smoke", "--runs", tmp_path, *overrides[:-1], more)
    assert result.returncode == 2
    assert "answers 0 of 3 questions; the first without: first/" in result.stderr + result.stdout
    assert (
        "left to do: 6 of 24"
        in w2s("plan", "main_table", "--profile", "smoke", "--runs", tmp_path, *overrides[:-1], more).stdout
    )
