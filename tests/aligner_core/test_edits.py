"""Edit distance and what follows from it."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.edits import edit_distance, edit_facts, edit_ratio

TEXTS = st.text("abc", max_size=12)


def by_definition(first: str, second: str) -> int:
    @cache
    def distance(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        change = distance(i - 1, j - 1) + (first[i - 1] != second[j - 1])
        return min(change, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(first), len(second))


@given(TEXTS, TEXTS)
def test_the_distance_is_levenshteins(first: str, second: str) -> None:
    assert edit_distance(first, second) == by_definition(first, second)


def test_the_distance_of_long_texts_is_the_number_of_changed_words() -> None:
    first = [str(number) for number in range(1000)]
    second = [word + "x" if int(word) % 10 == 0 else word for word in first]
    assert edit_distance(first, second) == 100


def test_a_copy_has_ratio_0_and_a_new_text_more() -> None:
    assert edit_ratio("Rain is wet.", "Rain is wet.") == 0
    assert edit_ratio("Rain is wet.", "Rain is very wet.") == pytest.approx(1 / 4)
    assert edit_ratio("", "new text") == 2


def test_facts_tell_copies_edits_and_length() -> None:
    facts = edit_facts(["a b", "a b"], ["a b", "a b c d"])
    assert facts == {"copy_rate": 0.5, "edit_ratio": 0.5, "length_ratio": 1.5}
