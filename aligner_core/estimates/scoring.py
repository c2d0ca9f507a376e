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
from aligner_core.recipe import Shape
from aligner_core.shapes import layer_parameters, matrix_parameters, parameters
from aligner_core.work import ScoringWork

TOGETHER = 8  # texts of a forward pass
LOGIT_BYTES = 10  # per logit: bf16, fp32, and its log-softmax


def scoring(work: ScoringWork, profile: Profile) -> Estimate:
    """On every process a share of the texts, with the weights whole, or sharded under ZeRO-3."""
    tokens = work.rows * work.tokens_each
    passed = matrix_parameters if work.logits_each else _trunk
    flops = 2.0 * sum(map(passed, work.shapes)) * tokens
    loading = _weights(work, profile) / LOAD_BYTES_PER_SECOND
    return Estimate(
        processes=profile.processes,
        memory_gib=_gib(work, profile),
        tokens=len(work.shapes) * tokens,
        flops=flops,
        disk_gib=0.0,
        seconds=START_SECONDS + loading + flops / matrix_rate(profile) / devices(profile),
        too_large=None if _fits(work, profile) else _knob(work, profile),
        host_gib=_host_gib(work, profile),
    )


def _trunk(shape: Shape) -> int:
    return shape.layers * layer_parameters(shape)


def _weights(work: ScoringWork, profile: Profile) -> float:
    return sum(map(parameters, work.shapes)) * bytes_per_value(profile)


def _gib(work: ScoringWork, profile: Profile) -> float:
    held = 0.0 if _host_gib(work, profile) else sharded(_weights(work, profile), 3, profile)
    logits = TOGETHER * longest(work.logits_each) * max(shape.vocabulary for shape in work.shapes) * LOGIT_BYTES
    gathered = max(gathered_bytes(shape, profile) for shape in work.shapes)
    return on_device_gib(held + gathered + logits, profile)


def _host_gib(work: ScoringWork, profile: Profile) -> float:
    if not offloads(profile) or profile.zero.stage < 3:
        return 0.0
    return on_host_gib(sharded(_weights(work, profile), 3, profile), profile)


def _fits(work: ScoringWork, profile: Profile) -> bool:
    return fits(_gib(work, profile), profile, _host_gib(work, profile))


def _knob(work: ScoringWork, profile: Profile) -> str:
    """A reference is asked by all processes; other scores are one process's work, which cannot shard them."""
    if work.logits_each:
        return knob(profile, lambda place: _fits(work, place))
    return "choose a smaller model for the role that scores: roles.scorer, roles.reward, roles.cost"
