"""The order of questions and labels, and learning rates: functions of the step alone, so that resuming is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from aligner_core.training.order import passes


def warm_up(step: int, steps: int, share: float) -> float:
    """The factor that rises to 1 over the first `share` of the steps; step counts from 0."""
    rising = math.ceil(share * steps)
    return min(1.0, (step + 1) / (rising + 1))


def cosine(step: int, steps: int, share: float) -> float:
    """`warm_up`, and then a half cosine down to 0 after the last step."""
    rising = math.ceil(share * steps)
    if step < rising:
        return warm_up(step, steps, share)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def repeated(rows: int, wanted: int, seed: int) -> list[int]:
    """`wanted` row numbers: passes over all rows, each in a new random order."""
    return passes(range(rows), wanted / rows, torch.Generator().manual_seed(seed))


def own_share(rows: Sequence[int], rank: int, processes: int) -> list[int]:
    """The part of a batch that one of the processes works on; all parts are of one size."""
    assert len(rows) % processes == 0
    return list(rows[rank::processes])
