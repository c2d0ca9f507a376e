"""The order of training records: a fresh random sample per step, sorted by length inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import Trainer, TrainingArguments

from aligner_core.training.loop import LengthSortedBatches

LENGTHS = st.lists(st.integers(1, 2000), min_size=1, max_size=60)
LONG = [(7 * index) % 101 for index in range(200)]


def epoch_of(lengths: list[int], batch: int, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = LengthSortedBatches(lengths, batch, seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def batches(order: list[int], size: int) -> list[list[int]]:
    return [order[start : start + size] for start in range(0, len(order), size)]


@given(LENGTHS, st.integers(1, 70), st.integers(0, 2**31), st.integers(0, 3))
def test_an_epoch_visits_every_record_once(lengths: list[int], batch: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_of(lengths, batch, seed, epoch)) == list(range(len(lengths)))
    assert len(LengthSortedBatches(lengths, batch, seed)) == len(lengths)


@given(LENGTHS, st.integers(1, 70), st.integers(0, 9))
def test_each_global_batch_is_sorted_by_length(lengths: list[int], batch: int, seed: int) -> None:
    for chosen in batches(epoch_of(lengths, batch, seed), batch):
        assert [lengths[index] for index in chosen] == sorted(lengths[index] for index in chosen)


@given(LENGTHS, st.integers(1, 70), st.integers(0, 9))
def test_which_records_share_a_step_does_not_depend_on_their_lengths(
    lengths: list[int], batch: int, seed: int
) -> None:
    unsorted = epoch_of(lengths, 1, seed)  # batches of one are the bare permutation
    found = [set(chosen) for chosen in batches(epoch_of(lengths, batch, seed), batch)]
    assert found == [set(chosen) for chosen in batches(unsorted, batch)]


def test_epochs_and_seeds_differ_and_the_same_ones_agree() -> None:
    orders = {(seed, epoch): tuple(epoch_of(LONG, 16, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(set(orders.values())) == len(orders)
    assert all(order == tuple(epoch_of(LONG, 16, *key)) for key, order in orders.items())


def test_reading_an_epoch_twice_gives_the_same_order() -> None:
    sampler = LengthSortedBatches(LONG, 16, 0)
    assert list(sampler) == list(sampler)


def test_the_global_random_state_plays_no_part() -> None:
    torch.manual_seed(1)
    first = epoch_of(LONG, 16)
    torch.manual_seed(2)
    assert epoch_of(LONG, 16) == first


def test_a_step_is_a_uniform_sample_of_all_lengths() -> None:
    lengths = list(range(400))
    means = [sum(chosen) / 20 for epoch in range(25) for chosen in batches(epoch_of(lengths, 20, 3, epoch), 20)]
    expected, spread = 199.5, (400**2 / 12 / 20) ** 0.5
    assert max(abs(mean - expected) for mean in means) < 4.5 * spread
    assert abs(sum(means[::20]) / 25 - expected) < 4 * spread / 5


class _Recorder(torch.nn.Module):
    """Notes the records it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[int] = []

    def forward(self, record: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += record.tolist()
        return {"loss": (self.weight * record).mean()}


def test_the_trainer_tells_the_order_its_epoch(tmp_path: Path) -> None:
    class Ordered(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> LengthSortedBatches:
            return LengthSortedBatches(LONG[:12], 6, 0)

    network = _Recorder()
    rows: Any = [{"record": index} for index in range(12)]
    arguments = TrainingArguments(
        str(tmp_path), num_train_epochs=3, per_device_train_batch_size=3, gradient_accumulation_steps=2,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, remove_unused_columns=False,
    )  # fmt: skip
    Ordered(network, arguments, train_dataset=rows).train()
    assert batches(network.seen, 12) == [epoch_of(LONG[:12], 6, 0, epoch) for epoch in range(3)]
