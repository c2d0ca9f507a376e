"""Memory and time of a training.

States follow from mixed-precision Adam: 16 bytes a parameter (bf16 weight and gradient, fp32 weight and two moments),
of which ZeRO shards optimizer states (stage 1), gradients (2) and weights (3) over the processes. Sizes of buffers are
DeepSpeed's defaults, which the configuration leaves as they are.
"""

from __future__ import annotations

from collections.abc import Callable

from aligner_core.estimates.knobs import knob
from aligner_core.estimates.place import (
    BASE_GIB,
    GIB,
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
from aligner_core.profile import Profile
from aligner_core.recipe import Shape
from aligner_core.shapes import adapter_parameters, matrix_parameters, parameters
from aligner_core.work import TrainingWork

BUCKET = 5e8  # values that are reduced together; twice where that overlaps with computing (a GPU)
LIVE = 1e9  # values of weights that ZeRO-3 keeps gathered, and of which it makes a step together
LOGIT_BYTES = 12  # per logit: its log-softmax, and the gradients before and behind it, in fp32
KEPT_FREE = 1.2  # of the activations: blocks that a CPU's allocator keeps for their next use
HOST_BYTES_PER_SECOND = 1e11
OFFLOADED_STEP_BYTES = 28  # per parameter: an Adam step in host memory reads 16 and writes 12


def trained_parameters(shape: Shape, share: float = 1.0, lora_rank: int | None = None) -> float:
    return adapter_parameters(shape, lora_rank) if lora_rank else parameters(shape) * share


def training_state_bytes(work: TrainingWork, profile: Profile) -> float:
    """Weights, gradients and optimizer states on one device, in bytes."""
    return state_bytes(work.shape, _trained(work), profile)


def state_bytes(shape: Shape, trained: float, profile: Profile) -> float:
    size = bytes_per_value(profile)
    weights = sharded(parameters(shape) * size, 3, profile)
    if offloads(profile):
        return 0.0 if profile.zero.stage == 3 else weights
    # In fp32 the weights themselves are trained, but DeepSpeed copies them all the same.
    optimizer = trained * (12 if profile.precision == "bfloat16" or profile.zero.stage else 8)
    return weights + sharded(trained * size, 2, profile) + sharded(optimizer, 1, profile)


def host_bytes(shape: Shape, trained: float, profile: Profile) -> float:
    """What one process offloads: optimizer states and fp32 gradients, and with ZeRO-3 the weights."""
    if not offloads(profile):
        return 0.0
    weights = sharded(parameters(shape) * bytes_per_value(profile), 3, profile) if profile.zero.stage == 3 else 0.0
    return weights + sharded(16 * trained, 1, profile)


def gathered_bytes(shape: Shape, profile: Profile) -> float:
    """Weights that are whole for a while under ZeRO-3."""
    return min(LIVE, parameters(shape)) * bytes_per_value(profile) if profile.zero.stage == 3 else 0.0


def bucket_bytes(trained: float, profile: Profile) -> float:
    """Buffers in which DeepSpeed collects gradients."""
    if not profile.uses_deepspeed:
        return 0.0
    buffers = 2 if profile.device.kind == "cuda" and profile.zero.stage < 3 else 1
    return buffers * min(BUCKET, trained) * bytes_per_value(profile)


def step_bytes(trained: float, profile: Profile) -> float:
    """The gradients in fp32, which an optimizer step makes when the activations are gone."""
    if offloads(profile) or (profile.precision == "float32" and not profile.uses_deepspeed):
        return 0.0
    own = sharded(trained, 1, profile)
    return 4 * (min(own, LIVE) if profile.zero.stage == 3 else own)


def layer_bytes(shape: Shape, profile: Profile, lora: bool) -> float:
    """What a layer keeps of a token for its backward pass.

    Each norm keeps its input in fp32, attention its queries, keys and values, the MLP three tensors of its inner
    width. Trained matrices keep their inputs, and the norms before them the normalised states. Adapters keep their
    inputs too: in one process these weights are fp32, and each makes a copy of its own.
    """
    size, hidden, inner = bytes_per_value(profile), shape.hidden, shape.intermediate
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    kept = 2 * hidden * 4 + size * (queries + 2 * keys + 3 * inner)
    if lora and size == 2 and not profile.uses_deepspeed:
        return kept + 4 * (5 * hidden + queries + inner)
    inputs = size * (2 * hidden + queries + inner)
    return kept + inputs + (0 if lora else size * 2 * hidden)


def backward_bytes(
    shape: Shape, tokens: float, logits: float, profile: Profile, share: float = 1.0, lora: bool = False
) -> float:
    """Activations of `tokens` tokens that are kept for the backward pass, and the logits of `logits` of them."""
    size = bytes_per_value(profile)
    layer = tokens * layer_bytes(shape, profile, lora)
    if profile.gradient_checkpointing:
        kept = tokens * shape.layers * size * shape.hidden + 2 * layer  # one layer made again, and its gradients
    else:
        kept = shape.layers * layer * share
    slack = KEPT_FREE if profile.device.kind == "cpu" else 1.0
    return kept * slack + logits * shape.vocabulary * LOGIT_BYTES


def gradient_bytes(shape: Shape, profile: Profile, share: float = 1.0, lora: bool = False) -> float:
    """The gradient of the largest matrix, the embeddings, before it is added to what has come together."""
    return 0.0 if lora or share < 1 else shape.vocabulary * shape.hidden * bytes_per_value(profile)


def activation_bytes(work: TrainingWork, micro_batch: int, profile: Profile) -> float:
    """Activations kept for the backward pass, and the logits of the supervised positions."""
    texts = micro_batch * work.sequences
    tokens = texts * min(work.max_length, longest(work.tokens_each))
    logits = texts * min(work.max_length, longest(work.supervised_each))
    return backward_bytes(work.shape, tokens, logits, profile, work.trainable_share, work.lora_rank is not None)


def training_gib(work: TrainingWork, micro_batch: int, profile: Profile) -> float:
    trained = _trained(work)
    lasting = training_state_bytes(work, profile) + bucket_bytes(trained, profile)
    passing = activation_bytes(work, micro_batch, profile) + gathered_bytes(work.shape, profile)
    passing += gradient_bytes(work.shape, profile, work.trainable_share, work.lora_rank is not None)
    return on_device_gib(lasting + max(passing, step_bytes(trained, profile)), profile)


def on_device_gib(per_process: float, profile: Profile) -> float:
    """All processes share the memory of a CPU."""
    count = profile.processes if profile.device.kind == "cpu" else 1
    return count * (BASE_GIB + per_process / GIB)


def on_host_gib(per_process: float, profile: Profile) -> float:
    return per_process * profile.processes / profile.nodes / GIB


def largest_divisor(number: int, at_most: int) -> int:
    return max(size for size in range(1, min(at_most, number) + 1) if number % size == 0)


def largest_that_fits(share: int, profile: Profile, gib: Callable[[int], float]) -> int:
    """The largest divisor of a process's share of the global batch that fits; the profile may fix it."""
    if profile.micro_batch:
        return largest_divisor(share, profile.micro_batch)
    sizes = [size for size in range(share, 0, -1) if share % size == 0]
    return next((size for size in sizes if fits(gib(size), profile)), 1)


def micro_batch_size(work: TrainingWork, profile: Profile) -> int:
    """Examples per process and pass."""
    share = max(1, work.global_batch // profile.processes)
    return largest_that_fits(share, profile, lambda size: training_gib(work, size, profile))


def training_estimate(work: TrainingWork, profile: Profile) -> Estimate:
    trained = _trained(work)
    size = micro_batch_size(work, profile)
    memory = training_gib(work, size, profile)
    host = on_host_gib(host_bytes(work.shape, trained, profile), profile)
    tokens = int(work.examples * work.epochs * work.tokens_each * work.sequences)
    flops = flops_per_token(work.shape, profile, work.trainable_share, work.lora_rank) * tokens
    steps = work.examples * work.epochs / work.global_batch
    saved = parameters(work.shape) * bytes_per_value(profile)
    loading = 2 * saved / LOAD_BYTES_PER_SECOND  # read at the start, written at the end
    computing = flops / matrix_rate(profile) / devices(profile)
    return Estimate(
        processes=profile.processes,
        memory_gib=memory,
        tokens=tokens,
        flops=flops,
        disk_gib=(saved + checkpoint_bytes(work.shape, trained, profile)) / GIB,
        seconds=START_SECONDS + loading + computing + steps * offloaded_step_seconds(trained, profile),
        micro_batch=size,
        too_large=None if fits(memory, profile, host) else knob(profile, lambda place: _fits(work, place)),
        host_gib=host,
    )


def flops_per_token(shape: Shape, profile: Profile, share: float = 1.0, lora_rank: int | None = None) -> float:
    """A weight's products: one forward, backward one for its input and one for itself, which adapters spare."""
    backward = 2.0 if lora_rank else 4.0 * share
    again = 4 / 3 if profile.gradient_checkpointing else 1.0
    return (2.0 + backward) * matrix_parameters(shape) * again


def checkpoint_bytes(shape: Shape, trained: float, profile: Profile) -> float:
    """Weights and optimizer states, as an interrupted training is continued from."""
    return parameters(shape) * bytes_per_value(profile) + 12 * trained


def offloaded_step_seconds(trained: float, profile: Profile) -> float:
    return OFFLOADED_STEP_BYTES * trained / profile.nodes / HOST_BYTES_PER_SECOND if offloads(profile) else 0.0


def longest(mean_tokens: int) -> int:
    """The longest example of a micro-batch is about three times the mean (seen on the published corrections)."""
    return 3 * mean_tokens


def _trained(work: TrainingWork) -> float:
    return trained_parameters(work.shape, work.trainable_share, work.lora_rank)


def _fits(work: TrainingWork, profile: Profile) -> bool:
    memory = training_gib(work, micro_batch_size(work, profile), profile)
    return fits(memory, profile, on_host_gib(host_bytes(work.shape, _trained(work), profile), profile))
