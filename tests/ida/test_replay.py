"""Which questions a round asks, and what it learns again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.errors import UserError
from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.records import Question, read_records
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task
from ida.questions import QUESTIONS, RoundQuestions, share_of_question
from ida.replay import TAKEN, TakeCorrections

PROFILE = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}})
ROWS = [
    {
        "id": f"q{index}",
        "question": f"question {index}?",
        "answer": "yes",
        "upstream": "x",
        "correction": "no",
        "corrector": "y",
    }
    for index in range(40)
]


def run(task: Task, folder: Path, **inputs: list[dict[str, Any]]) -> StageContext:
    found = {}
    for name, rows in inputs.items():
        write_jsonl(folder / "inputs" / f"{name}.jsonl", rows)
        found[name] = {"location": str(folder / "inputs" / f"{name}.jsonl")}
    stage = StageContext(folder, found, PROFILE, Progress(folder), MetricLog(folder, "test", None))
    task.run(stage)
    return stage


def test_rounds_share_all_questions_without_repeating_one(tmp_path: Path) -> None:
    asked: list[set[str]] = []
    for share in (1, 2, 3):
        folder = tmp_path / str(share)
        folder.mkdir()
        run(RoundQuestions(share=share, of=3), folder, questions=ROWS[:30], questions_queries=ROWS[30:])
        asked.append({row["question"] for row in read_jsonl(folder / QUESTIONS)})
    assert sum(map(len, asked)) == len(set().union(*asked)) == 40
    assert all(asked)


def test_one_share_of_one_is_everything(tmp_path: Path) -> None:
    run(RoundQuestions(share=1, of=1), tmp_path, questions_queries=ROWS[30:], questions=ROWS[:30])
    assert len(read_jsonl(tmp_path / QUESTIONS)) == 40


def test_questions_of_two_parts_may_have_the_same_ids(tmp_path: Path) -> None:
    queries = [{**row, "question": f"further {row['question']}"} for row in ROWS]
    run(RoundQuestions(share=1, of=1), tmp_path, questions=ROWS, questions_queries=queries)
    asked = {record.id: record.question for record in read_records(tmp_path / QUESTIONS, Question)}
    assert len(asked) == 80
    assert (asked["q0"], asked["questions_queries/q0"]) == ("question 0?", "further question 0?")


def test_a_round_without_questions_is_an_error(tmp_path: Path) -> None:
    wrong = 3 - share_of_question(ROWS[0]["question"], 2)
    with pytest.raises(UserError, match=f"leaves round {wrong} of 2 without a question"):
        run(RoundQuestions(share=wrong, of=2), tmp_path, questions=ROWS[:1])


@given(st.text(min_size=1), st.integers(1, 12))
def test_a_question_is_in_one_share_whatever_its_case_and_spacing(question: str, shares: int) -> None:
    found = share_of_question(question, shares)
    assert 1 <= found <= shares
    assert share_of_question(f"  {question} ", shares) == found


def test_a_share_of_corrections_is_taken_in_their_order(tmp_path: Path) -> None:
    stage = run(TakeCorrections(share=0.25, seed=1), tmp_path, records=ROWS)
    rows = read_jsonl(tmp_path / TAKEN)
    assert len(rows) == 10
    assert stage.facts == {"rows": 10, "of": 40, "empty": 0}
    assert rows == [row for row in ROWS if row in rows]


def test_a_correction_that_says_nothing_is_not_learnt_again(tmp_path: Path) -> None:
    stage = run(TakeCorrections(share=1.0, seed=1), tmp_path, records=[{**ROWS[0], "correction": " "}, ROWS[1]])
    assert read_jsonl(tmp_path / TAKEN) == [ROWS[1]]
    assert stage.facts["empty"] == 1


def test_another_seed_takes_others(tmp_path: Path) -> None:
    taken = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        run(TakeCorrections(share=0.25, seed=seed), folder, records=ROWS)
        taken.append({row["id"] for row in read_jsonl(folder / TAKEN)})
    assert taken[0] != taken[1]
