"""What a stage will need on a given place: memory per device, operations, time and disk. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

from aligner_core.estimates.decoding import decoding, served
from aligner_core.estimates.place import BASE_GIB, GIB, Estimate, bytes_per_value, fits
from aligner_core.estimates.policy import lasting_bytes, policy_estimate
from aligner_core.estimates.scoring import scoring
from aligner_core.estimates.training import (
    activation_bytes,
    largest_divisor,
    micro_batch_size,
    training_estimate,
    training_state_bytes,
)
from aligner_core.profile import Profile
from aligner_core.work import EndpointWork, GenerationWork, Light, PolicyWork, ScoringWork, Steps, TrainingWork, Work

__all__ = [
    "BASE_GIB", "GIB", "Estimate", "activation_bytes", "bytes_per_value", "estimate", "fits", "largest_divisor",
    "lasting_bytes", "micro_batch_size", "training_state_bytes",
]  # fmt: skip


def estimate(work: Work, profile: Profile) -> Estimate:
    if isinstance(work, TrainingWork):
        return training_estimate(work, profile)
    if isinstance(work, PolicyWork):
        return policy_estimate(work, profile)
    if isinstance(work, GenerationWork):
        return decoding(work, profile)
    if isinstance(work, EndpointWork):
        return served(work, profile)
    if isinstance(work, ScoringWork):
        return scoring(work, profile)
    if isinstance(work, Steps):
        return _together([estimate(step, profile) for step in work.steps] or [estimate(Light(), profile)])
    return Estimate(1, 0.1, 0, 0.0, 0.0, 1.0)


def _together(parts: Sequence[Estimate]) -> Estimate:
    """Steps that follow each other: the largest is in memory, the rest adds up."""
    return Estimate(
        processes=max(part.processes for part in parts),
        memory_gib=max(part.memory_gib for part in parts),
        tokens=sum(part.tokens for part in parts),
        flops=sum(part.flops for part in parts),
        disk_gib=sum(part.disk_gib for part in parts),
        seconds=sum(part.seconds for part in parts),
        too_large=next((part.too_large for part in parts if part.too_large), None),
        host_gib=max(part.host_gib for part in parts),
    )
