"""The numbers that describe a data set."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.data_statistics import data_statistics, distribution
from aligner_core.records import Answer, Correction, Question, Turn
from aligner_core.text_tables import histogram, text_histogram, text_table


def record(answer: str, correction: str, **extra: object) -> Correction:
    return Correction.model_validate({"question": "one two", "answer": answer, "correction": correction, **extra})


def test_copies_edits_blanks_and_groups_are_counted() -> None:
    found = data_statistics(
        [record("a b c d", "a b c e", category="x"), record("a", "a", category="x"), record(" ", "b", category="y")]
    )
    assert (found["records"], found["blank_answers"]) == (3, 1)
    assert found["copy_rate"] == pytest.approx(1 / 3)
    assert found["edit_ratio"]["mean"] == pytest.approx((0.25 + 0 + 1) / 3)
    assert found["lengths"]["answer"]["words"]["max"] == 4
    assert found["lengths"]["question"]["characters"]["mean"] == 7
    assert {name: group["records"] for name, group in found["groups"]["category"].items()} == {"x": 2, "y": 1}
    assert found["groups"]["category"]["y"]["copy_rate"] == 0
    assert "upstream" not in found["groups"]  # nobody says who answered


def test_tokens_are_counted_by_the_given_measure() -> None:
    found = data_statistics([record("a", "bb")], count_tokens=lambda text: 10 * len(text))
    assert found["lengths"]["correction"]["tokens"]["median"] == 20


def test_questions_and_answers_have_no_copy_rate() -> None:
    history = [Turn(role="user", content="a"), Turn(role="assistant", content="b")]
    found = data_statistics([Question(question="q", history=history)])
    assert found["with_history"] == 1
    assert "copy_rate" not in found
    assert data_statistics([Answer(question="q", answer="")])["blank_answers"] == 1


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=200), st.integers(1, 15))
def test_a_histogram_counts_every_value_once_in_adjoining_bins(values: list[int], bins: int) -> None:
    rows = histogram(values, bins)
    assert len(rows) <= bins
    assert [sum(low <= value <= high for value in values) for low, high, _ in rows] == [count for *_, count in rows]
    assert sum(count for *_, count in rows) == len(values)
    assert len(text_histogram(rows).splitlines()) == len(rows)


def test_a_distribution_shows_its_tail() -> None:
    assert distribution([1, 2, 3, 4, 100]) == {
        "mean": 22,
        "min": 1,
        "median": 3,
        "p95": pytest.approx(80.8),
        "max": 100,
    }


def test_a_table_is_aligned() -> None:
    assert text_table(["name", "n"], [["a", 1], ["bcdef", 100]]).splitlines() == [
        "name     n", "----------", "a        1", "bcdef  100",
    ]  # fmt: skip
