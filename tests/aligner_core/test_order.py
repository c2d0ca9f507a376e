"""The order of training records: passes, mixtures, and random samples sorted by length inside each step."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.training.order import LengthSortedOrder, interleaved, passes

LENGTHS = st.lists(st.integers(1, 2000), min_size=1, max_size=60)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batches(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


@given(st.integers(1, 50), st.integers(1, 4), st.integers(0, 2**31))
def test_each_pass_visits_every_record_once(records: int, epochs: int, seed: int) -> None:
    order = passes(range(records), epochs, generator(seed))
    assert all(sorted(part) == list(range(records)) for part in batches(order, records))
    assert len(order) == epochs * records


@given(st.integers(1, 50), st.floats(0.1, 3.0))
def test_a_part_pass_visits_no_record_more_often_than_the_whole_ones_and_once(records: int, epochs: float) -> None:
    times = Counter(passes(range(records), epochs, generator()))
    assert sum(times.values()) == round(epochs * records)
    assert max(times.values(), default=0) - min((times[index] for index in range(records)), default=0) <= 1


def test_passes_and_seeds_differ_and_the_same_ones_agree() -> None:
    orders = [tuple(part) for seed in range(5) for part in batches(passes(range(200), 5, generator(seed)), 200)]
    assert len(set(orders)) == len(orders)
    assert passes(range(200), 5, generator(3)) == passes(range(200), 5, generator(3))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 99))
def test_a_mixture_holds_both_and_keeps_the_order_of_each(first: int, second: int, seed: int) -> None:
    order = interleaved(range(first), range(100, 100 + second), generator(seed))
    assert [index for index in order if index < 100] == list(range(first))
    assert [index for index in order if index >= 100] == list(range(100, 100 + second))


def test_a_mixture_is_even() -> None:
    order = interleaved(range(300), range(1000, 2000), generator())
    shares = [sum(index < 1000 for index in part) / len(part) for part in batches(order, 130)]
    assert max(abs(share - 300 / 1300) for share in shares) < 5 * (0.23 * 0.77 / 130) ** 0.5


@given(LENGTHS, st.integers(1, 70))
def test_each_global_batch_holds_its_records_sorted_by_length(lengths: list[int], batch: int) -> None:
    order = passes(range(len(lengths)), 2, generator())
    sampler = LengthSortedOrder(order, lengths, batch)
    assert len(sampler) == len(order)
    for given_, found in zip(batches(order, batch), batches(list(sampler), batch), strict=True):
        assert sorted(given_) == sorted(found)
        assert [lengths[index] for index in found] == sorted(lengths[index] for index in given_)
