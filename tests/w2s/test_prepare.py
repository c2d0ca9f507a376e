"""How the data is split, and what becomes a weak label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.data_sources import EMBEDDED
from aligner_core.errors import UserError
from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.leakage import EvaluationQuestions
from aligner_core.metrics import MetricLog
from aligner_core.mixing import by_hash
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import Leakage, Limits
from aligner_core.records import Correction, Question, question_key
from aligner_core.stage_context import StageContext
from tests.command_line import w2s
from w2s.prepare import (
    DROPPED,
    EVALUATION,
    PREFERENCES,
    SAFETY,
    STRONG,
    WEAK,
    Dropped,
    PrepareData,
    SourceUse,
    split,
    without_leaks,
    without_questions,
)


def record(question: str, number: int = 0) -> Correction:
    return Correction(id=f"{question}-{number}", question=question, answer="a", correction="c")


@given(st.lists(st.text(min_size=1).filter(lambda text: bool(text.strip())), min_size=1, max_size=30, unique=True))
def test_records_of_one_question_stay_on_one_side(questions: list[str]) -> None:
    records = [record(question, number) for question in questions for number in range(2)]
    weak, strong = split(records, 0.5)
    assert len(weak) + len(strong) == len(records)
    sides = [{question_key(item.question) for item in side} for side in (weak, strong)]
    assert not sides[0] & sides[1]


def test_the_side_of_a_record_does_not_depend_on_the_others() -> None:
    records = [record(f"question {number}") for number in range(200)]
    weak, _ = split(records, 0.6)
    again, _ = split(records[50:], 0.6)
    assert [item for item in weak if item in records[50:]] == again
    assert 90 < len(weak) < 150


def test_a_limit_takes_the_same_sample_in_whatever_order_records_come() -> None:
    records = [record(f"question {number}") for number in range(20)]
    assert by_hash(records)[:5] == by_hash(records[::-1])[:5]


def prepared(folder: Path, inputs: dict[str, Path], **settings: Any) -> StageContext:
    """The data stage, run on files."""
    folder.mkdir(exist_ok=True)
    defaults: dict[str, Any] = {
        "weak_share": 0.5, "limits": Limits(), "leakage": Leakage(), "on_invalid": "raise", "answers": "sampled",
        "sources": {name: SourceUse(weight=None, columns={}) for name in inputs},
    }  # fmt: skip
    profile = Profile.model_validate(read_yaml(find_profile("cpu")))
    locations = {name: {"location": str(path)} for name, path in inputs.items()}
    stage = StageContext(folder, locations, profile, Progress(folder), MetricLog(folder, "data"))
    PrepareData(**{**defaults, **settings}).run(stage)
    return stage


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Sixty corrections, and evaluation questions of which three are in them: the same, changed a little, quoted."""
    topics = ["tea", "rain", "bread", "snow", "glass", "salt"]
    rows = [
        record(
            f"Why do people in the {number}th street of our town talk so much about {topics[number % 6]} lately "
            f"and what could one say to them about it in house {number * 7}?",
            number,
        )
        for number in range(60)
    ]
    asked = [rows[3].question.upper(), rows[7].question.replace("lately", "now"), rows[11].question[:-20]]
    evaluation = [Question(id=f"e{place}", question=text) for place, text in enumerate(asked)]
    rows[11].question = "My neighbour wonders and so do I and half the family besides. " + rows[11].question
    for name, records in (("corrections", rows), ("evaluation", evaluation)):
        write_jsonl(tmp_path / f"{name}.jsonl", (row.row() for row in records))
    return {name: tmp_path / f"{name}.jsonl" for name in ("corrections", "evaluation")}


def test_the_same_the_similar_and_the_quoted_question_are_left_out_and_kept_apart(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    stage = prepared(tmp_path / "data", files, leakage=Leakage(jaccard=0.75))
    assert stage.facts["dropped"] == {"corrections": {"exact": 1, "near-duplicate": 1, "overlap": 1}}
    assert stage.facts["weak"] + stage.facts["strong"] == 57
    found = {row["dropped"]["reason"]: row for row in read_jsonl(stage.folder / DROPPED)}
    assert {reason: row["dropped"]["partner"] for reason, row in found.items()} == {
        "exact": "e0", "near-duplicate": "e1", "overlap": "e2",
    }  # fmt: skip
    assert 0.75 <= found["near-duplicate"]["dropped"]["similarity"] < 1
    assert found["exact"]["correction"] == "c"


def test_a_limit_leaves_the_gate_as_it_is(tmp_path: Path, files: dict[str, Path]) -> None:
    least = Leakage(jaccard=0.75)
    whole = prepared(tmp_path / "whole", files, leakage=least)
    limited = prepared(tmp_path / "limited", files, leakage=least, limits=Limits(evaluation=1))
    assert limited.facts["evaluation"] == 1
    assert limited.facts["dropped"] == whole.facts["dropped"]


def test_nothing_of_the_embedded_data_is_left_out(tmp_path: Path) -> None:
    inputs = {name: EMBEDDED / f"{file}.jsonl" for name, file in
              (("corrections", "corrections"), ("evaluation", "eval"), ("queries", "queries"))}  # fmt: skip
    stage = prepared(tmp_path / "data", inputs, weak_share=0.6)
    assert stage.facts["dropped"] == {}
    assert stage.facts["weak"] + stage.facts["strong"] == 968
    assert (stage.facts["evaluation"], stage.facts["queries"]) == (458, 462)


def test_malformed_records_stop_the_run_or_are_dropped_as_they_stood(tmp_path: Path, files: dict[str, Path]) -> None:
    faulty = '{"question": "a \\ud800 b", "answer": "a", "correction": "c"}\n{"question": \n'
    with files["corrections"].open("a") as stream:
        stream.write(faulty)
    with pytest.raises(UserError) as caught:
        prepared(tmp_path / "data", files)
    assert [problem.where for problem in caught.value.problems] == [f"{files['corrections']}:{n}" for n in (61, 62)]
    stage = prepared(tmp_path / "data", files, on_invalid="drop", leakage=Leakage(jaccard=0.9))
    assert stage.facts["dropped"]["corrections"]["invalid"] == 2
    first, second = [row for row in read_jsonl(stage.folder / DROPPED) if row["dropped"]["reason"] == "invalid"]
    assert json.loads(first["row"])["question"] == "a \ud800 b"
    assert second["dropped"]["where"] == f"{files['corrections']}:62"
    assert "is not JSON" in second["dropped"]["faults"][0]


def test_a_source_without_one_good_record_is_an_error_even_where_faults_are_dropped(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    files["corrections"].write_text("{\n")
    with pytest.raises(UserError, match="is not JSON"):
        prepared(tmp_path / "data", files, on_invalid="drop")


def test_sources_are_mixed_by_weight_each_with_its_columns(tmp_path: Path, files: dict[str, Path]) -> None:
    other = tmp_path / "other.jsonl"
    write_jsonl(
        other, ({"id": str(n), "prompt": f"Is {n} even?", "answer": "a", "correction": "c"} for n in range(90))
    )
    uses = {
        "corrections-1": SourceUse(weight=2, columns={}),
        "corrections-2": SourceUse(weight=1, columns={"prompt": "question"}),
        "evaluation": SourceUse(weight=None, columns={}),
    }
    inputs = {"corrections-1": files["corrections"], "corrections-2": other, "evaluation": files["evaluation"]}
    stage = prepared(tmp_path / "data", inputs, sources=uses, leakage=Leakage(jaccard=1, overlap=1))
    rows = [row for part in ("weak", "strong", "dropped") for row in read_jsonl(stage.folder / f"{part}.jsonl")]
    assert [sum(row["id"].startswith(f"{source}/") for row in rows) for source in (1, 2)] == [60, 30]


def test_given_answers_must_be_there_and_are_kept(tmp_path: Path) -> None:
    corrections = tmp_path / "corrections.jsonl"
    write_jsonl(corrections, ({"question": f"Q{n}", "answer": "a", "correction": "c"} for n in range(20)))
    evaluation = tmp_path / "evaluation.jsonl"
    write_jsonl(evaluation, [{"question": "Is it?", "answer": "It is.", "reference": "Yes."}])
    inputs = {"corrections": corrections, "evaluation": evaluation}
    stage = prepared(tmp_path / "given", inputs, answers="given")
    (row,) = read_jsonl(stage.folder / EVALUATION)
    assert (row["answer"], row["reference"]) == ("It is.", "Yes.")
    write_jsonl(evaluation, [{"question": "Is it?", "reference": "Yes."}])
    with pytest.raises(UserError, match='field "answer" is missing'):
        prepared(tmp_path / "missing", inputs, answers="given")


def test_without_a_student_all_questions_may_go_to_w(tmp_path: Path) -> None:
    corrections = tmp_path / "corrections.jsonl"
    write_jsonl(corrections, ({"question": f"Q{n}", "answer": "a", "correction": "c"} for n in range(20)))
    inputs = {"corrections": corrections, "evaluation": EMBEDDED / "eval.jsonl"}
    stage = prepared(tmp_path / "all", inputs, weak_share=1)
    assert (stage.facts["weak"], stage.facts["strong"]) == (20, 0)


def test_where_all_is_evaluated_the_error_says_so(tmp_path: Path, files: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"every record was left out: ..exact.: 60"):
        prepared(tmp_path / "data", {**files, "evaluation": files["corrections"]})


def test_case_and_spacing_do_not_hide_an_evaluated_question() -> None:
    held_out = EvaluationQuestions([Question(id="e", question="what is RAIN?")], 0.5, 0.8)
    assert without_leaks([record("What  is rain?")], held_out, "corrections", Dropped()) == []


def test_the_same_words_after_another_conversation_are_another_question() -> None:
    def asked(before: str) -> Question:
        turns = [{"role": "user", "content": before}, {"role": "assistant", "content": "Because of that, I think."}]
        return Question.model_validate({"question": "Why?", "history": turns})

    held_out = EvaluationQuestions([asked("Does the sun warm the whole of the earth?")], 0.5, 0.8)
    other = asked("Should bread be kept in a box made of wood?")
    assert without_leaks([other], held_out, "corrections", Dropped()) == [other]
    assert without_leaks([asked("Does the sun warm the whole of the earth?")], held_out, "queries", Dropped()) == []


def test_a_further_question_that_has_a_correction_is_dropped_with_it() -> None:
    dropped = Dropped()
    known = {question_key("tea?"): "c1"}
    assert without_questions([record("Tea?")], known, "queries", "labelled", dropped) == []
    assert dropped.rows[0]["dropped"] == {"part": "queries", "reason": "labelled", "partner": "c1"}


def test_score_models_learn_of_no_question_that_the_student_or_the_evaluation_asks(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    least = Leakage(jaccard=0.75)
    prepared(tmp_path / "plain", files, leakage=least)
    weak, strong, asked = (
        next(iter(read_jsonl(tmp_path / "plain" / part)))["question"] for part in (WEAK, STRONG, EVALUATION)
    )
    further = "Which of these would a further question be about?"
    pairs = [
        {"prompt": [{"role": "user", "content": q}], "chosen": "c", "rejected": "r"}
        for q in (weak, strong, further, asked)
    ]
    labels = [{"question": q, "answer": "a", "safe": True} for q in (strong, weak, further, asked)]
    for name, rows in (("preferences", pairs), ("safety", labels), ("queries", [{"question": further}])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    inputs = {**files, **{name: tmp_path / f"{name}.jsonl" for name in ("preferences", "safety", "queries")}}
    stage = prepared(tmp_path / "data", inputs, leakage=least)
    for part in (PREFERENCES, SAFETY):
        assert [row["question"] for row in read_jsonl(tmp_path / "data" / part)] == [weak]
    assert stage.facts["dropped"]["preferences"] == stage.facts["dropped"]["safety"] == {"exact": 1, "student": 2}


def test_a_recipe_mixes_sources_and_plans_their_sizes(tmp_path: Path, files: dict[str, Path]) -> None:
    mixed = f"[{{source: embedded:corrections, weight: 1}}, {{source: {files['corrections']}, weight: 0.5}}]"
    result = w2s("plan", "quickstart", "--profile", "smoke", "--set", f"data.corrections={mixed}")
    assert result.returncode == 0, result.stderr
    wrong = "[{source: embedded:corrections, wieght: 1}]"
    result = w2s("plan", "quickstart", "--set", f"data.corrections={wrong}")
    assert "data.corrections.0.wieght: unknown key" in result.stderr
    assert 'did you mean "weight"?' in result.stderr
    one = "[{source: embedded:corrections, weight: 1}, embedded:queries]"
    assert "give each a weight, or none" in w2s("plan", "quickstart", "--set", f"data.corrections={one}").stderr
