"""What a stage will need on a given place: memory per device, operations, time and disk. Pure arithmetic.

Training states follow from mixed-precision Adam: 16 bytes a parameter (bf16 weight and gradient, fp32 weight and two
moments), of which ZeRO shards optimizer states (stage 1), gradients (2) and weights (3) over the processes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter

from aligner_core.profile import Profile
from aligner_core.shapes import (
    adapter_parameters,
    kv_bytes_per_token,
    layer_parameters,
    matrix_parameters,
    parameters,
)
from aligner_core.work import EndpointWork, GenerationWork, Light, ScoringWork, Steps, TrainingWork, Work

GIB = 2**30
BASE_GIB = 1.0  # Python, torch and the libraries
USABLE = 0.92  # of a device's memory; the rest is lost to fragments and buffers
DECODE_EFFICIENCY = 0.5
START_SECONDS = 8.0  # process start and imports
LOAD_BYTES_PER_SECOND = 2e9
FEWEST_SEQUENCES = 4
SERVED_TOKENS_PER_SECOND = 30.0  # of one request; what hosted models of 7B to 70B give


@dataclass(frozen=True)
class Estimate:
    """`memory_gib` is per device (for the CPU: the whole machine), `seconds` the wall time."""

    processes: int
    memory_gib: float
    tokens: int
    flops: float
    disk_gib: float
    seconds: float
    micro_batch: int | None = None
    too_large: str | None = None  # which knob to turn


def estimate(work: Work, profile: Profile) -> Estimate:
    if isinstance(work, TrainingWork):
        return _training(work, profile)
    if isinstance(work, GenerationWork):
        return _generation(work, profile)
    if isinstance(work, EndpointWork):
        return _served(work, profile)
    if isinstance(work, ScoringWork):
        return _scoring(work, profile)
    if isinstance(work, Steps):
        return _together([estimate(step, profile) for step in work.steps] or [estimate(Light(), profile)])
    return Estimate(1, 0.1, 0, 0.0, 0.0, 1.0)


def fits(memory_gib: float, profile: Profile) -> bool:
    return memory_gib <= USABLE * profile.device.memory_gib


def bytes_per_value(profile: Profile) -> int:
    return 2 if profile.precision == "bfloat16" else 4


def training_state_bytes(work: TrainingWork, profile: Profile) -> float:
    """Weights, gradients and optimizer states on one device, in bytes."""
    count = parameters(work.shape)
    trained = _trained_parameters(work)
    over = profile.processes
    stage = profile.zero.stage
    weights = count * bytes_per_value(profile) / (over if stage >= 3 else 1)
    gradients = trained * bytes_per_value(profile) / (over if stage >= 2 else 1)
    optimizer = trained * (12 if profile.precision == "bfloat16" else 8) / (over if stage >= 1 else 1)
    return weights + gradients + (0 if profile.zero.offload and profile.device.kind == "cuda" else optimizer)


def _trained_parameters(work: TrainingWork) -> float:
    if work.lora_rank:
        return adapter_parameters(work.shape, work.lora_rank)
    return parameters(work.shape) * work.trainable_share


def _flops_per_token(work: TrainingWork) -> float:
    """A weight's products: one forward, backward one for its input and one for itself, which adapters spare."""
    backward = 2.0 if work.lora_rank else 4.0 * work.trainable_share
    return (2.0 + backward) * matrix_parameters(work.shape)


def activation_bytes(work: TrainingWork, micro_batch: int, profile: Profile) -> float:
    """Activations kept for the backward pass, and the logits of the supervised positions."""
    shape, size = work.shape, bytes_per_value(profile)
    tokens = micro_batch * min(work.max_length, _longest(work.tokens_each))
    per_layer = tokens * size * (10 * shape.hidden + 2 * shape.head_dim * shape.kv_heads + 4 * shape.intermediate)
    kept = shape.layers * tokens * size * shape.hidden + per_layer if profile.gradient_checkpointing else 0
    supervised = micro_batch * _longest(work.supervised_each) * shape.vocabulary * 4 * 2
    return (kept or shape.layers * per_layer * work.trainable_share) + supervised


def micro_batch_size(work: TrainingWork, profile: Profile) -> int:
    """The largest divisor of a process's share of the global batch that fits; the profile may fix it."""
    share = max(1, work.global_batch // profile.processes)
    if profile.micro_batch:
        return largest_divisor(share, profile.micro_batch)
    sizes = [size for size in range(share, 0, -1) if share % size == 0]
    return next((size for size in sizes if fits(_training_gib(work, size, profile), profile)), 1)


def largest_divisor(number: int, at_most: int) -> int:
    return max(size for size in range(1, min(at_most, number) + 1) if number % size == 0)


def _training_gib(work: TrainingWork, micro_batch: int, profile: Profile) -> float:
    per_process = training_state_bytes(work, profile) + activation_bytes(work, micro_batch, profile)
    on_device = profile.processes if profile.device.kind == "cpu" else 1
    return BASE_GIB * on_device + on_device * per_process / GIB


def _training(work: TrainingWork, profile: Profile) -> Estimate:
    size = micro_batch_size(work, profile)
    memory = _training_gib(work, size, profile)
    tokens = int(work.examples * work.epochs * work.tokens_each)
    flops = _flops_per_token(work) * tokens * (4 / 3 if profile.gradient_checkpointing else 1)
    rate = _devices(profile) * profile.device.tflops * 1e12 * profile.utilisation
    saved = parameters(work.shape) * bytes_per_value(profile)
    checkpoint = saved + _trained_parameters(work) * 12
    loading = 2 * saved / LOAD_BYTES_PER_SECOND  # read at the start, written at the end
    return Estimate(
        processes=profile.processes,
        memory_gib=memory,
        tokens=tokens,
        flops=flops,
        disk_gib=(saved + checkpoint) / GIB,
        seconds=START_SECONDS + loading + flops / rate,
        micro_batch=size,
        too_large=None if fits(memory, profile) else _training_knob(work, profile),
    )


def _training_knob(work: TrainingWork, profile: Profile) -> str:
    """The least change to the profile that makes it fit, in the order in which a person would try."""
    for trial in _cheaper_profiles(profile):
        if _fits_training(work, trial):
            return f"set {_changes(profile, trial)} in the profile"
    return "choose a smaller model for this role"


def _cheaper_profiles(profile: Profile) -> Iterator[Profile]:
    """Each saving alone, then all of them, then all of them on more nodes."""
    sharded = profile.zero.model_copy(update={"stage": 3})
    on_gpu = profile.device.kind == "cuda"
    savings: list[dict[str, object]] = [{"micro_batch": 1}] if profile.micro_batch else []
    savings.append({"gradient_checkpointing": True})
    savings.append({"zero": sharded} if profile.processes > 1 else {})
    savings.append({"zero": sharded.model_copy(update={"offload": True})} if on_gpu else {})
    together = profile
    for saving in savings:
        yield profile.model_copy(update=saving)
        together = together.model_copy(update=saving)
        yield together
    for nodes in (2, 4, 8, 16, 32, 64) if on_gpu else ():
        if nodes > profile.nodes:
            more = {"nodes": nodes, "processes": nodes * profile.device.count}
            zero = together.zero.model_copy(update={"offload": profile.zero.offload})
            yield together.model_copy(update={**more, "zero": zero})
            yield together.model_copy(update=more)


def _changes(profile: Profile, trial: Profile) -> str:
    """What to write into the profile to make it the other."""
    keys = ("micro_batch", "gradient_checkpointing", "zero.stage", "zero.offload", "nodes", "processes")
    values = [(key, attrgetter(key)(profile), attrgetter(key)(trial)) for key in keys]
    return ", ".join(f"{key}: {json.dumps(after)}" for key, before, after in values if before != after)


def _fits_training(work: TrainingWork, profile: Profile) -> bool:
    return fits(_training_gib(work, micro_batch_size(work, profile), profile), profile)


def _generation(work: GenerationWork, profile: Profile) -> Estimate:
    place = profile.generation
    weights = parameters(work.shape) * bytes_per_value(profile)
    cache = work.longest * kv_bytes_per_token(work.shape, bytes_per_value(profile))
    batch = _concurrent(place.batch, weights, cache, profile)
    per_device = (weights + batch * cache) / place.tensor_parallel
    memory = BASE_GIB + per_device / GIB
    tokens = work.rows * (work.prompt_tokens + work.new_tokens)
    flops = 2.0 * matrix_parameters(work.shape) * tokens
    copies = max(1, profile.device.count // place.tensor_parallel)
    bandwidth = profile.device.bandwidth_gb_s * 1e9 * place.tensor_parallel
    decode = work.rows / batch * work.new_tokens * weights / bandwidth
    compute = flops / (profile.device.tflops * 1e12 * place.tensor_parallel * profile.utilisation)
    seconds = (decode + compute) / copies / DECODE_EFFICIENCY
    knob = None
    if not fits(memory, profile):
        over_all = BASE_GIB + (weights + batch * cache) / GIB / profile.device.count
        if place.tensor_parallel < profile.device.count and fits(over_all, profile):
            knob = f"set generation.tensor_parallel: {profile.device.count} in the profile"
        else:
            knob = "set a smaller generation.batch in the profile, or choose a smaller model for this role"
    return Estimate(
        processes=place.tensor_parallel * copies,
        memory_gib=memory,
        tokens=tokens,
        flops=flops,
        disk_gib=work.rows * 2e-6,
        seconds=START_SECONDS + weights / LOAD_BYTES_PER_SECOND + seconds,
        too_large=knob,
    )


def _served(work: EndpointWork, profile: Profile) -> Estimate:
    """Nothing is held here; the time is that of a server that decodes as many at once as are sent."""
    tokens = work.rows * (work.prompt_tokens + work.new_tokens)
    seconds = work.rows * work.new_tokens / (profile.endpoints.concurrency * SERVED_TOKENS_PER_SECOND)
    return Estimate(1, BASE_GIB, tokens, 0.0, work.rows * 2e-6, START_SECONDS + seconds)


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
    )


def _concurrent(batch: int, weights: float, cache: float, profile: Profile) -> int:
    """vLLM decodes as many sequences at once as have room; transformers decodes the batch it is given."""
    if profile.generation.engine == "transformers":
        return batch
    room = USABLE * profile.device.memory_gib * GIB * profile.generation.tensor_parallel - weights
    return min(batch, max(FEWEST_SEQUENCES, int(room / cache * 0.9)))


def _scoring(work: ScoringWork, profile: Profile) -> Estimate:
    tokens = work.rows * work.tokens_each
    flops = 2.0 * work.shape.layers * layer_parameters(work.shape) * tokens
    weights = parameters(work.shape) * bytes_per_value(profile)
    memory = BASE_GIB + weights / GIB
    seconds = START_SECONDS + flops / (profile.device.tflops * 1e12 * profile.utilisation)
    knob = None if fits(memory, profile) else "choose a smaller model for roles.scorer"
    return Estimate(1, memory, tokens, flops, 0.0, seconds, too_large=knob)


def _devices(profile: Profile) -> int:
    return 1 if profile.device.kind == "cpu" else profile.processes


def _longest(mean_tokens: int) -> int:
    """The longest example of a micro-batch is about three times the mean (seen on the published corrections)."""
    return 3 * mean_tokens
