"""What the processes of a training tell each other, and how they share work; with one process, nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from aligner_core.profile import Profile

Batch = TypeVar("Batch")


def join(profile: Profile) -> torch.device:
    """Meet the other processes, where there are any; returns this process's device."""
    on_gpu = profile.device.kind == "cuda"
    device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if on_gpu else "cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    if profile.uses_deepspeed:
        import deepspeed

        deepspeed.init_distributed(dist_backend="nccl" if on_gpu else "gloo")
    return device


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def added_up(values: Tensor) -> Tensor:
    """The sum over the processes."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def gathered(value: Any) -> list[Any]:
    """The values of all processes, on every process."""
    values = [value] * count()
    if dist.is_initialized():
        dist.all_gather_object(values, value)
    return values


def wait() -> None:
    """Until all processes are here."""
    if dist.is_initialized():
        dist.barrier()


def from_main(value: Any) -> Any:
    """The main process's value, on every process."""
    values = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values)
    return values[0]


def shared_out(batches: Sequence[Batch]) -> Iterator[tuple[Batch, bool]]:
    """This process's share of the batches, and whether each counts.

    Every process gets equally many, since sharded weights are gathered in each forward pass; the last may be there
    for that alone.
    """
    for start in range(0, len(batches), count()):
        place = start + rank()
        yield batches[min(place, len(batches) - 1)], place < len(batches)
