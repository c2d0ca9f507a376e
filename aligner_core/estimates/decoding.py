"""Memory and time of decoding: by an engine of our own, or behind an endpoint."""

from __future__ import annotations

from aligner_core.estimates.place import (
    BASE_GIB,
    GIB,
    LOAD_BYTES_PER_SECOND,
    START_SECONDS,
    USABLE,
    Estimate,
    bytes_per_value,
    fits,
    matrix_rate,
)
from aligner_core.profile import Profile
from aligner_core.recipe import Shape
from aligner_core.shapes import kv_bytes_per_token, matrix_parameters, parameters
from aligner_core.work import EndpointWork, GenerationWork

DECODE_EFFICIENCY = 0.5
FEWEST_SEQUENCES = 4
SERVED_TOKENS_PER_SECOND = 30.0  # of one request; what hosted models of 7B to 70B give
BYTES_PER_ROW = 2000


def decoding(work: GenerationWork, profile: Profile) -> Estimate:
    place = profile.generation
    weights, cache = weight_bytes(work.shape, profile), cache_bytes(work.shape, work.longest, profile)
    batch = concurrent(place.batch, USABLE * profile.device.memory_gib * GIB, weights, cache, profile)
    memory = BASE_GIB + (weights + batch * cache) / place.tensor_parallel / GIB
    return Estimate(
        processes=place.tensor_parallel,
        memory_gib=memory,
        tokens=work.rows * (work.prompt_tokens + work.new_tokens),
        flops=2.0 * matrix_parameters(work.shape) * work.rows * (work.prompt_tokens + work.new_tokens),
        disk_gib=work.rows * BYTES_PER_ROW / 1e9,
        seconds=START_SECONDS + weights / LOAD_BYTES_PER_SECOND + decoding_seconds(work, batch, 1, profile),
        too_large=None if fits(memory, profile) else _knob(weights + batch * cache, profile),
    )


def weight_bytes(shape: Shape, profile: Profile) -> float:
    return float(parameters(shape) * bytes_per_value(profile))


def cache_bytes(shape: Shape, longest: int, profile: Profile) -> float:
    """Keys and values of one sequence."""
    return float(longest * kv_bytes_per_token(shape, bytes_per_value(profile)))


def concurrent(batch: int, room: float, weights: float, cache: float, profile: Profile) -> int:
    """Sequences decoded at once: vLLM takes as many as have room, transformers the batch that it is given.

    Args:
        room: bytes that weights and cache may take on each device.
    """
    if profile.generation.engine == "transformers":
        return batch
    free = room * profile.generation.tensor_parallel - weights
    return min(batch, max(FEWEST_SEQUENCES, int(free / cache * 0.9)))


def decoding_seconds(work: GenerationWork, batch: int, copies: int, profile: Profile) -> float:
    """Every step reads the weights once for all sequences of a batch; the products come on top."""
    devices = profile.generation.tensor_parallel
    flops = 2.0 * matrix_parameters(work.shape) * work.rows * (work.prompt_tokens + work.new_tokens)
    bandwidth = profile.device.bandwidth_gb_s * 1e9 * devices
    reading = work.rows / batch * work.new_tokens * weight_bytes(work.shape, profile) / bandwidth
    return (reading + flops / matrix_rate(profile) / devices) / copies / DECODE_EFFICIENCY


def served(work: EndpointWork, profile: Profile) -> Estimate:
    """Nothing is held here; the time is that of a server that decodes as many at once as are sent."""
    tokens = work.rows * (work.prompt_tokens + work.new_tokens)
    seconds = work.rows * work.new_tokens / (profile.endpoints.concurrency * SERVED_TOKENS_PER_SECOND)
    return Estimate(1, BASE_GIB, tokens, 0.0, work.rows * BYTES_PER_ROW / 1e9, START_SECONDS + seconds)


def _knob(held: float, profile: Profile) -> str:
    everywhere = BASE_GIB + held / GIB / profile.device.count
    if profile.generation.tensor_parallel < profile.device.count and fits(everywhere, profile):
        return f"set generation.tensor_parallel: {profile.device.count} in the profile"
    return "set a smaller generation.batch in the profile, or choose a smaller model for this role"
