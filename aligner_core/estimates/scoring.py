"""Memory and time of forward passes: scores, and log-probabilities of a reference."""

from __future__ import annotations

from aligner_core.estimates.knobs import knob
from aligner_core.estimates.place import (
    LOAD_BYTES_PER_SECOND,
    START_SECONDS,
    Estimate,
    bytes_per_value,
    devices,
    fits,
    matrix_rate,
    offloads,
    sharded,
)
from aligner_core.estimates.training import gathered_bytes, longest, on_device_gib, on_host_gib
from aligner_core.profile import Profile
from aligner_core.shapes import layer_parameters, matrix_parameters, parameters
from aligner_core.work import ScoringWork

TOGETHER = 8  # texts of a forward pass
LOGIT_BYTES = 10  # per logit: bf16, fp32, and its log-softmax


def scoring(work: ScoringWork, profile: Profile) -> Estimate:
    """On every process a share of the texts, with the weights whole, or sharded under ZeRO-3."""
    shape = work.shape
    tokens = work.rows * work.tokens_each
    passed = matrix_parameters(shape) if work.logits_each else shape.layers * layer_parameters(shape)
    flops = 2.0 * passed * tokens
    loading = parameters(shape) * bytes_per_value(profile) / LOAD_BYTES_PER_SECOND
    return Estimate(
        processes=profile.processes,
        memory_gib=_gib(work, profile),
        tokens=tokens,
        flops=flops,
        disk_gib=0.0,
        seconds=START_SECONDS + loading + flops / matrix_rate(profile) / devices(profile),
        too_large=None if _fits(work, profile) else _knob(work, profile),
        host_gib=_host_gib(work, profile),
    )


def _gib(work: ScoringWork, profile: Profile) -> float:
    weights = parameters(work.shape) * bytes_per_value(profile)
    held = 0.0 if _host_gib(work, profile) else sharded(weights, 3, profile)
    logits = TOGETHER * longest(work.logits_each) * work.shape.vocabulary * LOGIT_BYTES
    return on_device_gib(held + gathered_bytes(work.shape, profile) + logits, profile)


def _host_gib(work: ScoringWork, profile: Profile) -> float:
    if not offloads(profile) or profile.zero.stage < 3:
        return 0.0
    return on_host_gib(sharded(parameters(work.shape) * bytes_per_value(profile), 3, profile), profile)


def _fits(work: ScoringWork, profile: Profile) -> bool:
    return fits(_gib(work, profile), profile, _host_gib(work, profile))


def _knob(work: ScoringWork, profile: Profile) -> str:
    """A reference is asked by all processes; other scores are one process's work, which cannot shard them."""
    if work.logits_each:
        return knob(profile, lambda place: _fits(work, place))
    return "choose a smaller model for roles.scorer"
