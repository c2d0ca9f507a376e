"""Mixing by weight: the right shares, no record twice, the same every time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.mixing import mix, mixed_counts
from aligner_core.records import Question

COUNTS = st.lists(st.integers(1, 500), min_size=2, max_size=5)


def questions(name: str, count: int) -> list[Question]:
    return [Question(id=str(number), question=f"{name} {number}") for number in range(count)]


@given(COUNTS, st.data())
def test_shares_follow_the_weights_and_the_scarcest_source_is_used_whole(
    available: list[int], data: st.DataObject
) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 10), min_size=len(available), max_size=len(available)))
    counts = mixed_counts(available, list(weights))
    assert all(0 <= count <= most for count, most in zip(counts, available, strict=True))
    assert any(count == most for count, most in zip(counts, available, strict=True))
    per_share = min(most / weight for most, weight in zip(available, weights, strict=True))
    for count, weight in zip(counts, weights, strict=True):
        assert count == pytest.approx(per_share * weight, abs=1 + 1e-6 * per_share * weight)


@given(COUNTS)
def test_without_weights_all_records_are_taken(available: list[int]) -> None:
    assert mixed_counts(available, [None] * len(available)) == available


def test_a_mix_is_the_same_in_whatever_order_records_come_and_ids_stay_apart() -> None:
    first, second = questions("tea", 40), questions("rain", 10)
    mixed = mix([first, second], [1.0, 0.5])
    assert len(mixed) == 30
    assert len({record.id for record in mixed}) == 30
    assert [record.question for record in mixed] == [r.question for r in mix([first[::-1], second], [1.0, 0.5])]
    assert {record.id.split("/")[0] for record in mixed} == {"1", "2"}


def test_a_single_source_is_left_as_it_is() -> None:
    records = questions("tea", 3)
    assert mix([records], [2.0]) == records
