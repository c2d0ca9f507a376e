"""How the data is split, and what becomes a weak label."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.recipe import WeakLabels
from aligner_core.records import Correction, question_key
from w2s.prepare import by_hash, split, without
from w2s.weak_labels import drop_reason


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


def test_case_and_spacing_do_not_hide_an_evaluated_question() -> None:
    assert without([record("What  is rain?")], {question_key("what is RAIN?")}) == []


def test_a_limit_takes_the_same_sample_in_whatever_order_records_come() -> None:
    records = [record(f"question {number}") for number in range(20)]
    assert by_hash(records)[:5] == by_hash(records[::-1])[:5]


@pytest.mark.parametrize(
    ("row", "rules", "reason"),
    [
        ({"answer": "a", "correction": "b", "finished": True}, WeakLabels(), None),
        ({"answer": "a", "correction": " ", "finished": True}, WeakLabels(), "empty"),
        ({"answer": "a", "correction": "b", "finished": False}, WeakLabels(), "unfinished"),
        ({"answer": "a", "correction": "b", "finished": False}, WeakLabels(drop_unfinished=False), None),
        ({"answer": "a", "correction": "a"}, WeakLabels(), None),
        ({"answer": "a", "correction": "a"}, WeakLabels(drop_identical=True), "identical"),
    ],
)
def test_a_correction_is_dropped_for_a_named_reason(
    row: dict[str, object], rules: WeakLabels, reason: str | None
) -> None:
    assert drop_reason(row, rules) == reason
