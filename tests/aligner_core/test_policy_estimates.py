"""What DPO, its reference pass and PPO need: the models that each holds, and where."""

from __future__ import annotations

from typing import Any

import pytest

from aligner_core.configuration import load_profile
from aligner_core.estimates import activation_bytes, estimate, fits, lasting_bytes, micro_batch_size
from aligner_core.estimates.decoding import cache_bytes
from aligner_core.estimates.policy import engine_cache_bytes, policy_gib
from aligner_core.profile import Profile
from aligner_core.recipe import Shape
from aligner_core.shapes import kv_bytes_per_token, parameters
from aligner_core.work import PolicyWork, PreferenceWork, ScoringWork, TrainingWork
from tests.aligner_core.test_estimates import SHAPES, place, turned

GIB = 2**30


def policy(
    size: str = "70b", value: str | None = None, scores: tuple[str, ...] | None = None, **changes: Any
) -> PolicyWork:
    values = {"iterations": 100, "prompts": 128, "prompt_tokens": 100, "new_tokens": 200, "longest": 1124,
              "global_batch": 128, "label_tokens": 300}  # fmt: skip
    shapes = tuple(SHAPES[name] for name in (scores if scores is not None else (size,)))
    return PolicyWork(SHAPES[size], SHAPES[value or size], shapes, **{**values, **changes})


def pairs(size: str = "7b", **changes: Any) -> PreferenceWork:
    values = {"examples": 10_000, "tokens_each": 300, "supervised_each": 200, "epochs": 1.0, "max_length": 2048}
    return PreferenceWork(shape=SHAPES[size], global_batch=128, **{**values, **changes})


def whole(**changes: Any) -> Profile:
    """One device, nothing sharded, rollouts by the policy's own network."""
    return place(processes=1, generation={"engine": "transformers", "batch": 16}, **changes)


def test_ppos_four_models_of_one_size_take_36_bytes_a_parameter_so_70b_takes_2500_gb() -> None:
    states = lasting_bytes(policy(), whole())
    assert states == (16 + 16 + 2 + 2) * parameters(SHAPES["70b"])
    assert states == pytest.approx(2.5e12, rel=0.01)


def test_adapters_share_their_weights_with_the_reference_which_is_no_model_of_its_own_then() -> None:
    frozen = parameters(SHAPES["7b"]) * 2
    adapters = lasting_bytes(policy("7b", lora_rank=16), whole())
    assert adapters == pytest.approx(3 * frozen, rel=0.05), "policy, value, reward; hardly anything is trained"


def test_a_llama_2_70b_token_takes_320_kib_of_cache_because_eight_heads_serve_sixty_four() -> None:
    assert kv_bytes_per_token(SHAPES["70b"]) == 2 * 80 * 8 * 128 * 2 == 320 * 1024
    full = SHAPES["70b"].model_copy(update={"kv_heads": 64})
    assert kv_bytes_per_token(full) == 8 * kv_bytes_per_token(SHAPES["70b"])


@pytest.mark.parametrize("tensor_parallel", [1, 2, 4, 8])
def test_vllm_holds_weights_of_its_own_spread_over_the_devices_of_a_copy(tensor_parallel: int) -> None:
    zero = {"stage": 3}
    alone = place(zero=zero, generation={"engine": "transformers"})
    beside = place(zero=zero, generation={"engine": "vllm", "tensor_parallel": tensor_parallel})
    more = lasting_bytes(policy("13b"), beside) - lasting_bytes(policy("13b"), alone)
    assert more == pytest.approx(2 * parameters(SHAPES["13b"]) / tensor_parallel)


def test_vllms_cache_stays_while_the_policy_is_updated() -> None:
    few, many = (place(generation={"engine": "vllm", "batch": batch, "tensor_parallel": 8}) for batch in (1, 3))
    work = policy("7b")
    more = (policy_gib(work, 1, many) - policy_gib(work, 1, few)) * GIB
    assert more == pytest.approx(2 * cache_bytes(work.policy, work.longest, many) / 8, rel=1e-3)


@pytest.mark.parametrize("name", ["h200x1", "a800x8", "h100x8", "h100x8x8"])
def test_vllms_cache_takes_no_more_than_the_training_leaves(name: str) -> None:
    profile = load_profile(name)
    profile = profile.model_copy(update={"generation": profile.generation.model_copy(update={"batch": 100_000})})
    work = policy("7b", prompts=100_000, global_batch=100_000, lora_rank=16)
    assert engine_cache_bytes(work, profile) > 10 * cache_bytes(work.policy, work.longest, profile) / 8
    assert fits(policy_gib(work, 1, profile), profile)
    assert estimate(work, profile).micro_batch > 1


def test_the_policy_that_vllm_reads_lies_on_the_disk_beside_the_one_that_is_left() -> None:
    own, beside = (place(generation={"engine": engine}) for engine in ("transformers", "vllm"))
    more = estimate(policy("7b"), beside).disk_gib - estimate(policy("7b"), own).disk_gib
    assert more * GIB == pytest.approx(2 * parameters(SHAPES["7b"]))


def test_rollouts_by_the_policys_own_network_gather_all_weights_of_zero_3_on_every_device() -> None:
    saving = {"zero": {"stage": 3}, "gradient_checkpointing": True}
    own = place(processes=64, nodes=8, generation={"engine": "transformers", "batch": 2}, **saving)
    assert estimate(policy(scores=("2b",)), own).memory_gib > 2 * parameters(SHAPES["70b"]) / GIB
    knob = str(estimate(policy(scores=("2b",)), own).too_large)
    assert 'generation.engine: "vllm"' in knob
    spread = own.model_copy(
        update={"generation": own.generation.model_copy(update={"engine": "vllm", "tensor_parallel": 8})}
    )
    assert estimate(policy(scores=("2b",)), spread).too_large is None


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_each_zero_stage_shards_both_trained_models_and_stage_three_the_reference_but_never_the_scores(
    zero: int,
) -> None:
    shape, count = SHAPES["7b"], 8
    whole_part = {0: 16 + 16 + 2 + 2, 1: 4 + 4 + 2 + 2, 2: 2 + 2 + 2 + 2, 3: 2}[zero]
    parts = {0: 0, 1: 12 + 12, 2: 14 + 14, 3: 16 + 16 + 2}[zero]
    buckets = 2 * (2 if zero < 3 else 1) * 5e8 * 2
    states = lasting_bytes(policy("7b"), place(zero={"stage": zero}, generation={"engine": "transformers"}))
    assert states == pytest.approx((whole_part + parts / count) * parameters(shape) + buckets)


def test_offload_takes_both_models_states_to_the_host_and_is_refused_where_that_is_too_small() -> None:
    zero = {"stage": 3, "offload": True}
    found = estimate(
        policy("13b", scores=("2b",)), place(zero=zero, generation={"engine": "vllm", "tensor_parallel": 8})
    )
    assert found.host_gib * GIB == pytest.approx((18 + 18 + 2) * parameters(SHAPES["13b"]), rel=0.001)
    small = place(zero=zero, generation={"engine": "vllm", "tensor_parallel": 8})
    small = small.model_copy(update={"device": small.device.model_copy(update={"host_memory_gib": 256})})
    refused = estimate(policy("13b", scores=("2b",)), small)
    assert fits(refused.memory_gib, small)
    assert refused.too_large
    assert not estimate(policy("13b", scores=("2b",)), turned(small, refused.too_large)).too_large


@pytest.mark.parametrize("size", ["7b", "13b", "70b"])
@pytest.mark.parametrize("name", ["h200x1", "a800x8", "h100x8", "h100x8x8"])
@pytest.mark.parametrize("method", ["sft", "dpo", "reference", "ppo"])
def test_the_knob_named_for_a_student_helps_when_turned(size: str, name: str, method: str) -> None:
    profile = load_profile(name)
    work = {
        "sft": TrainingWork(SHAPES[size], 20_000, 300, 200, 3.0, 128, 2048),
        "dpo": pairs(size),
        "reference": ScoringWork((SHAPES[size],), 20_000, 300, 200),
        "ppo": policy(size, "7b", ("7b", "7b")),
    }[method]
    found = estimate(work, profile)
    if found.too_large and "smaller" not in found.too_large:
        assert not estimate(work, turned(profile, found.too_large)).too_large, found.too_large


def test_a_pair_is_two_texts_in_one_step_and_no_second_model() -> None:
    profile = place(zero={"stage": 3}, gradient_checkpointing=True)
    texts = TrainingWork(SHAPES["7b"], 20_000, 300, 200, 1.0, 256, 2048)
    assert activation_bytes(pairs(), 4, profile) == activation_bytes(texts, 8, profile)
    assert estimate(pairs(), profile).tokens == estimate(texts, profile).tokens
    assert estimate(pairs(), profile).flops == estimate(texts, profile).flops


def test_half_as_many_pairs_as_texts_have_room_in_one_pass() -> None:
    profile = place(nodes=2, processes=16, zero={"stage": 3}, gradient_checkpointing=True)
    texts = TrainingWork(SHAPES["70b"], 20_000, 300, 200, 1.0, 4096, 2048)
    both = PreferenceWork(SHAPES["70b"], 10_000, 300, 200, 1.0, 4096, 2048)
    size = micro_batch_size(texts, profile)
    assert 1 < size < 4096 // 16
    assert micro_batch_size(both, profile) == size // 2


def test_a_reference_pass_is_shared_by_all_processes_and_sharded_under_zero_three() -> None:
    work = ScoringWork((SHAPES["70b"],), 20_000, 300, 200)
    assert estimate(work, place(processes=1)).too_large
    node = estimate(work, place(zero={"stage": 3}))
    assert node.too_large is None
    two = estimate(work, place(processes=16, nodes=2, zero={"stage": 3}))
    assert two.seconds < node.seconds
    assert two.flops == node.flops


def test_time_and_tokens_of_ppo_grow_with_the_iterations_and_the_mix_costs_its_share() -> None:
    profile = load_profile("h100x8x8")
    once, twice = (estimate(policy("7b", iterations=n, label_tokens=0), profile) for n in (100, 200))
    assert once.tokens == 100 * 128 * 300
    assert twice.flops == pytest.approx(2 * once.flops)
    mixed = estimate(policy("7b", iterations=100), profile)
    assert mixed.tokens == 2 * once.tokens
    # decoding, two passes of the policy and one each of value and reward; then updates of policy and value
    per_token = 2 + 2 * 2 + 2 + 2 + 8 + 8
    assert once.flops == pytest.approx(per_token * parameters(SHAPES["7b"]) * once.tokens, rel=0.03)


def test_the_published_student_of_seventy_billion_fits_on_eight_nodes_by_every_method() -> None:
    profile = load_profile("h100x8x8")
    tiny = Shape.model_validate(SHAPES["2b"].model_dump())
    for work in (
        TrainingWork(SHAPES["70b"], 10_000, 300, 200, 3.0, 128, 2048),
        pairs("70b"),
        ScoringWork((SHAPES["70b"],), 20_000, 300, 200),
        PolicyWork(SHAPES["70b"], tiny, (tiny, tiny), 100, 128, 100, 200, 1124, 128),
    ):
        assert estimate(work, profile).too_large is None
