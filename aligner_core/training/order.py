"""The order in which records are trained on: passes, mixtures, and micro-batches of like length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler


def passes(records: Sequence[int], epochs: float, generator: torch.Generator) -> list[int]:
    """The records `epochs` times over, each pass in a new random order; a last part pass is a random part."""
    order: list[int] = []
    left = round(epochs * len(records))
    while left > 0:
        shuffled = [records[index] for index in torch.randperm(len(records), generator=generator).tolist()]
        order += shuffled[:left]
        left -= len(records)
    return order


def interleaved(first: Sequence[int], second: Sequence[int], generator: torch.Generator) -> list[int]:
    """Both in one order, spread evenly at random; each keeps its own order."""
    sources = [iter(first), iter(second)]
    shuffled = torch.randperm(len(first) + len(second), generator=generator).tolist()
    return [next(sources[int(place >= len(first))]) for place in shuffled]


class LengthSortedOrder(Sampler[int]):
    """A given order, sorted by length inside each global batch.

    The records of an optimizer step stay those of the order; only the micro-batches inside it are made of records of
    like length, so little is padded and, with a token-weighted loss, the step's gradient is the same.
    """

    def __init__(self, order: Sequence[int], lengths: Sequence[int], global_batch: int) -> None:
        self._order = order
        self._lengths = lengths
        self._global_batch = global_batch

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[int]:
        for start in range(0, len(self._order), self._global_batch):
            batch = self._order[start : start + self._global_batch]
            yield from sorted(batch, key=lambda index: (self._lengths[index], index))


class InOrder:
    """What makes a trainer take its records in a given order."""

    order: LengthSortedOrder

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthSortedOrder:
        return self.order
