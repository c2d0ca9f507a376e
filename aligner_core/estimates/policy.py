"""Memory and time of PPO: two models that are trained, a frozen reference, frozen score models, and rollouts."""

from __future__ import annotations

from aligner_core.estimates.decoding import cache_bytes, concurrent, decoding_seconds, weight_bytes
from aligner_core.estimates.knobs import Saving, knob
from aligner_core.estimates.place import (
    GIB,
    LOAD_BYTES_PER_SECOND,
    START_SECONDS,
    USABLE,
    Estimate,
    devices,
    fits,
    matrix_rate,
    offloads,
    sharded,
)
from aligner_core.estimates.training import (
    backward_bytes,
    bucket_bytes,
    checkpoint_bytes,
    flops_per_token,
    gathered_bytes,
    gradient_bytes,
    host_bytes,
    largest_that_fits,
    offloaded_step_seconds,
    on_device_gib,
    on_host_gib,
    state_bytes,
    step_bytes,
    trained_parameters,
)
from aligner_core.profile import Profile
from aligner_core.recipe import Shape
from aligner_core.shapes import layer_parameters, matrix_parameters
from aligner_core.work import GenerationWork, PolicyWork


def policy_estimate(work: PolicyWork, profile: Profile) -> Estimate:
    size = policy_micro_batch(work, profile)
    memory, host = policy_gib(work, size, profile), _host_gib(work, profile)
    tokens = work.iterations * work.prompts * (work.prompt_tokens + work.new_tokens)
    mixed = work.iterations * work.prompts * work.updates * work.label_tokens
    forward, trained = _flops(work, tokens, mixed, profile)
    rollouts = GenerationWork(
        work.policy, work.iterations * work.prompts, work.prompt_tokens, work.new_tokens, work.longest
    )
    seconds, decoded = _rollout_seconds(work, rollouts, profile)
    steps = work.iterations * work.updates * -(-work.prompts // work.global_batch)
    offloaded = steps * offloaded_step_seconds(sum(_trained(work)), profile)
    saved = weight_bytes(work.policy, profile)
    loading = (2 * saved + sum(weight_bytes(shape, profile) for shape in work.scores)) / LOAD_BYTES_PER_SECOND
    computing = (forward + trained) / matrix_rate(profile) / devices(profile)
    checkpoints = sum(
        checkpoint_bytes(shape, count, profile)
        for shape, count in zip((work.policy, work.value), _trained(work), strict=True)
    )
    return Estimate(
        processes=profile.processes,
        memory_gib=memory,
        tokens=tokens + mixed,
        flops=forward + trained + decoded,
        disk_gib=(saved * (2 if _by_vllm(profile) else 1) + checkpoints) / GIB,  # vLLM reads the policy from the disk
        seconds=START_SECONDS + loading + seconds + computing + offloaded,
        micro_batch=size,
        too_large=None if fits(memory, profile, host) else _knob(work, profile),
        host_gib=host,
    )


def policy_micro_batch(work: PolicyWork, profile: Profile) -> int:
    share = max(1, min(work.global_batch, work.prompts) // profile.processes)
    return largest_that_fits(share, profile, lambda size: policy_gib(work, size, profile))


def policy_gib(work: PolicyWork, micro_batch: int, profile: Profile) -> float:
    """What lasts, and the largest of what passes. vLLM's cache lasts: it is not given back for an update."""
    rollouts, passing = _rollout_bytes(work, profile), _update_bytes(work, micro_batch, profile)
    together = rollouts + passing if _by_vllm(profile) else max(rollouts, passing)
    return on_device_gib(lasting_bytes(work, profile) + together, profile)


def _update_bytes(work: PolicyWork, micro_batch: int, profile: Profile) -> float:
    """A backward pass, or a step."""
    tokens, logits = micro_batch * work.longest, micro_batch * (work.longest - work.prompt_tokens)
    lora = work.lora_rank is not None
    backward = (
        backward_bytes(shape, tokens, scored, profile, lora=lora)
        + gradient_bytes(shape, profile, lora=lora)
        + gathered_bytes(shape, profile)
        for shape, scored in ((work.policy, logits), (work.value, 0))
    )
    return max(*backward, *(step_bytes(trained, profile) for trained in _trained(work)))


def lasting_bytes(work: PolicyWork, profile: Profile) -> float:
    """Two models under training, the reference, the score models (whole on every process), vLLM's weights.

    Adapters are switched off to get the reference, so that it takes no memory then.
    """
    total = sum(weight_bytes(shape, profile) for shape in work.scores)
    for shape, trained in zip((work.policy, work.value), _trained(work), strict=True):
        total += state_bytes(shape, trained, profile) + bucket_bytes(trained, profile)
    if not work.lora_rank and not (offloads(profile) and profile.zero.stage == 3):
        total += sharded(weight_bytes(work.policy, profile), 3, profile)
    if _by_vllm(profile):
        total += weight_bytes(work.policy, profile) / profile.generation.tensor_parallel
    return total


def _rollout_bytes(work: PolicyWork, profile: Profile) -> float:
    """vLLM's cache; or, with the policy's own network, its cache and under ZeRO-3 all of its weights."""
    if _by_vllm(profile):
        return engine_cache_bytes(work, profile)
    whole = weight_bytes(work.policy, profile) if profile.zero.stage == 3 and profile.processes > 1 else 0.0
    return whole + _concurrent(work, profile) * cache_bytes(work.policy, work.longest, profile)


def engine_cache_bytes(work: PolicyWork, profile: Profile) -> float:
    """Keys and values that vLLM keeps on each device: of one sequence more than it decodes at once, because it deals
    memory out in blocks, and keeps one of them back."""
    cache = cache_bytes(work.policy, work.longest, profile)
    return (_concurrent(work, profile) + 1) * cache / profile.generation.tensor_parallel


def _concurrent(work: PolicyWork, profile: Profile) -> int:
    """Sequences that are decoded at once by each copy of the policy: in vLLM as many as half of the memory holds that
    the smallest micro-batch leaves, so that there is room for a larger one."""
    wanted = min(profile.generation.batch, -(-work.prompts // _copies(profile)))
    room = USABLE * profile.device.memory_gib * GIB - lasting_bytes(work, profile) - _update_bytes(work, 1, profile)
    return concurrent(wanted, room / 2, 0.0, cache_bytes(work.policy, work.longest, profile), profile)


def _copies(profile: Profile) -> int:
    """Copies of the policy that decode: each process has its own, or vLLM as many as the first node's devices hold."""
    return profile.copies if _by_vllm(profile) else profile.processes


def _by_vllm(profile: Profile) -> bool:
    return profile.generation.engine == "vllm"


def _rollout_seconds(work: PolicyWork, rollouts: GenerationWork, profile: Profile) -> tuple[float, float]:
    """Seconds, and operations."""
    copies = _copies(profile) if profile.device.kind == "cuda" else 1
    flops = 2.0 * matrix_parameters(work.policy) * rollouts.rows * (work.prompt_tokens + work.new_tokens)
    return decoding_seconds(rollouts, _concurrent(work, profile), copies, profile), flops


def _flops(work: PolicyWork, tokens: float, mixed: float, profile: Profile) -> tuple[float, float]:
    """Operations of forward passes (scores, log-probabilities of policy and reference, values), and of the updates."""
    trunks = [shape.layers * layer_parameters(shape) for shape in (*work.scores, work.value)]
    forward = 2.0 * tokens * (2 * matrix_parameters(work.policy) + sum(trunks))
    policy = flops_per_token(work.policy, profile, lora_rank=work.lora_rank) * (work.updates * tokens + mixed)
    value = flops_per_token(work.value, profile, lora_rank=work.lora_rank) * work.updates * tokens
    return forward, policy + value


def _host_gib(work: PolicyWork, profile: Profile) -> float:
    both = sum(host_bytes(shape, count, profile) for shape, count in zip(_pair(work), _trained(work), strict=True))
    if offloads(profile) and profile.zero.stage == 3 and not work.lora_rank:
        both += sharded(weight_bytes(work.policy, profile), 3, profile)
    return on_host_gib(both, profile)


def _pair(work: PolicyWork) -> tuple[Shape, Shape]:
    return work.policy, work.value


def _trained(work: PolicyWork) -> tuple[float, float]:
    policy, value = (trained_parameters(shape, lora_rank=work.lora_rank) for shape in _pair(work))
    return policy, value


def _fits(work: PolicyWork, profile: Profile) -> bool:
    memory = policy_gib(work, policy_micro_batch(work, profile), profile)
    return fits(memory, profile, _host_gib(work, profile))


def _knob(work: PolicyWork, profile: Profile) -> str:
    place = profile.generation
    savings: list[Saving] = []
    if place.batch > 1:
        savings.append({"generation": place.model_copy(update={"batch": max(1, place.batch // 4)})})
    if profile.device.kind == "cuda" and place.tensor_parallel < profile.device.count:
        over_all = {"engine": "vllm", "tensor_parallel": profile.device.count}
        savings.append({"generation": place.model_copy(update=over_all)})
    return knob(profile, lambda trial: _fits(work, trial), savings)
