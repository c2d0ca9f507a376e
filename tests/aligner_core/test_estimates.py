"""What a stage needs: Adam's 16 bytes a parameter, how ZeRO shards them, and knobs that really help."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.estimates import (
    activation_bytes,
    bytes_per_value,
    estimate,
    fits,
    micro_batch_size,
    training_state_bytes,
)
from aligner_core.profile import Profile
from aligner_core.recipe import Role, Training
from aligner_core.shapes import parameters, shape_of
from aligner_core.work import GenerationWork, Light, ScoringWork, TrainingWork, Work

NAMES = {"2b": "google/gemma-2b", "7b": "meta-llama/Llama-2-7b-hf", "13b": "meta-llama/Llama-2-13b-hf",
         "70b": "meta-llama/Llama-2-70b-hf"}  # fmt: skip
SHAPES = {name: shape_of(Role(model=model), "x") for name, model in NAMES.items()}
GPU = {"kind": "cuda", "name": "GPU", "memory_gib": 80, "tflops": 900, "bandwidth_gb_s": 3000, "count": 8}
CPU = {"kind": "cpu", "name": "cores", "memory_gib": 24, "tflops": 1, "bandwidth_gb_s": 20}


def place(**changes: Any) -> Profile:
    return Profile.model_validate({"name": "here", "device": GPU, "processes": 8, **changes})


def training(size: str = "70b", global_batch: int = 256, **changes: Any) -> TrainingWork:
    values = {"examples": 20_000, "tokens_each": 300, "supervised_each": 200, "epochs": 3.0, "max_length": 2048}
    return TrainingWork(shape=SHAPES[size], global_batch=global_batch, **{**values, **changes})


def answering(size: str, longest: int = 2048) -> GenerationWork:
    return GenerationWork(SHAPES[size], rows=1000, prompt_tokens=100, new_tokens=200, longest=longest)


def turned(profile: Profile, knob: str) -> Profile:
    """The profile with exactly what the message says, as a person would follow it."""
    document = profile.model_dump()
    for key, value in re.findall(r"([a-z_.]+): ([a-z0-9\"]+)", knob):
        target = document
        *parents, last = key.split(".")
        for parent in parents:
            target = target[parent]
        target[last] = json.loads(value)
    return Profile.model_validate(document)


def test_mixed_precision_adam_takes_16_bytes_a_parameter_so_70b_takes_1100_gb() -> None:
    states = training_state_bytes(training(), place(processes=1))
    assert states == 16 * parameters(SHAPES["70b"])
    assert states == pytest.approx(1.1e12, rel=0.01)


def test_fp32_training_takes_16_bytes_as_well() -> None:
    assert training_state_bytes(training("7b"), place(precision="float32")) == 16 * parameters(SHAPES["7b"])


@pytest.mark.parametrize(("stage", "whole", "sharded"), [(0, 16, 0), (1, 4, 12), (2, 2, 14), (3, 0, 16)])
@pytest.mark.parametrize("processes", [1, 8, 64])
def test_each_zero_stage_shards_its_part(stage: int, whole: int, sharded: int, processes: int) -> None:
    states = training_state_bytes(training("7b"), place(processes=processes, zero={"stage": stage}))
    assert states == pytest.approx((whole + sharded / processes) * parameters(SHAPES["7b"]))


@pytest.mark.parametrize(("stage", "on_device", "in_host"), [(2, 2, 16), (3, 0, 18)])
def test_offload_moves_states_and_gradients_to_the_host_and_with_zero_3_the_weights(
    stage: int, on_device: int, in_host: int
) -> None:
    profile = place(nodes=2, processes=16, zero={"stage": stage, "offload": True})
    assert training_state_bytes(training("7b"), profile) == pytest.approx(on_device * parameters(SHAPES["7b"]))
    assert estimate(training("7b"), profile).host_gib * 2**30 == pytest.approx(in_host / 2 * parameters(SHAPES["7b"]))


def test_frozen_weights_have_neither_gradients_nor_optimizer_states() -> None:
    states = training_state_bytes(training("7b", trainable_share=0.25), place())
    assert states == pytest.approx((2 + 14 * 0.25) * parameters(SHAPES["7b"]))


def test_checkpointing_keeps_fewer_activations_and_more_records_need_more() -> None:
    plain, saving = place(), place(gradient_checkpointing=True)
    assert activation_bytes(training(), 4, saving) < activation_bytes(training(), 4, plain) / 4
    assert activation_bytes(training(), 8, plain) == pytest.approx(2 * activation_bytes(training(), 4, plain))


SITUATIONS: list[tuple[str, Work, Profile]] = [
    (f"train {size} {processes}p zero{stage} micro={micro} {'offload' if offload else ''}{'saving' if saving else ''}",
     training(size), place(processes=processes, nodes=max(1, processes // 8), micro_batch=micro,
                           zero={"stage": stage, "offload": offload}, gradient_checkpointing=saving))
    for size in ("7b", "13b", "70b") for processes in (1, 8, 16) for stage in (0, 2, 3)
    for micro in (None, 16) for offload in (False, True) for saving in (False, True)
] + [
    (f"generate {size} tp{parallel} batch{batch} {memory}GiB", answering(size, longest),
     place(device={**GPU, "memory_gib": memory}, generation={"tensor_parallel": parallel, "batch": batch}))
    for size in ("7b", "13b", "70b") for parallel in (1, 2, 8) for batch in (32, 512) for memory in (16, 24, 80)
    for longest in (2048, 8192)
]  # fmt: skip
MISFITS = [case for case in SITUATIONS if estimate(case[1], case[2]).too_large]


def test_a_knob_is_named_exactly_where_a_stage_does_not_fit() -> None:
    for name, work, profile in SITUATIONS:
        found = estimate(work, profile)
        assert (found.too_large is not None) == (not fits(found.memory_gib, profile)), name
    assert 20 < len(MISFITS) < len(SITUATIONS) - 20


@pytest.mark.parametrize("kind", ["train", "generate"])
def test_the_named_knob_when_turned_makes_it_fit(kind: str) -> None:
    unhelpful = []
    for name, work, profile in MISFITS:
        knob = str(estimate(work, profile).too_large)
        if not name.startswith(kind) or "smaller" in knob:
            continue
        after = estimate(work, turned(profile, knob))
        if after.too_large:
            unhelpful.append(f"{name}: {knob} -> still {after.memory_gib:.0f} GiB")
    assert unhelpful == []


def test_a_smaller_model_is_asked_for_only_where_the_largest_place_is_too_small() -> None:
    for name, work, profile in MISFITS:
        if isinstance(work, TrainingWork) and "smaller model" in str(estimate(work, profile).too_large):
            most = {"stage": 3, "offload": True}
            best = turned(profile, "micro_batch: 1, nodes: 32, processes: 256, gradient_checkpointing: true")
            assert estimate(work, best.model_copy(update={"zero": type(best.zero)(**most)})).too_large, name


def test_adapters_for_seventy_billion_fit_where_all_weights_do_not() -> None:
    node = place(zero={"stage": 3}, gradient_checkpointing=True)
    everything, adapters = training(), training(lora_rank=16)
    assert estimate(everything, node).too_large
    assert not estimate(adapters, node).too_large
    assert estimate(adapters, node).flops == pytest.approx(estimate(everything, node).flops * 4 / 6)


def test_seventy_billion_train_on_eight_nodes_of_eight_and_not_on_one_gpu() -> None:
    eight = place(nodes=8, processes=64, zero={"stage": 3}, gradient_checkpointing=True)
    assert estimate(training(), eight).too_large is None
    assert estimate(training(), place(processes=1)).too_large


@given(
    st.sampled_from(sorted(SHAPES)), st.integers(0, 6), st.integers(1, 64), st.none() | st.integers(1, 40),
    st.sampled_from([0, 3]), st.booleans(),
)  # fmt: skip
def test_micro_batch_times_accumulation_times_processes_is_the_global_batch(
    size: str, doublings: int, per_process: int, wanted: int | None, stage: int, saving: bool
) -> None:
    processes = 2**doublings
    profile = place(processes=processes, micro_batch=wanted, zero={"stage": stage}, gradient_checkpointing=saving)
    micro = micro_batch_size(training(size, global_batch=processes * per_process), profile)
    assert micro * (per_process // micro) * processes == processes * per_process
    assert wanted is None or micro <= wanted


def test_the_micro_batch_is_the_largest_divisor_that_fits() -> None:
    profile = place(nodes=2, processes=16, zero={"stage": 3}, gradient_checkpointing=True)
    size = micro_batch_size(training(), profile)
    larger = profile.model_copy(update={"micro_batch": 2 * size})
    assert 1 < size < 16
    assert not estimate(training(), profile).too_large
    assert estimate(training(), larger).too_large


def test_tokens_and_operations_follow_from_the_work() -> None:
    found = estimate(training("7b"), place())
    assert found.tokens == 20_000 * 3 * 300
    assert found.flops == pytest.approx(6 * 6.6e9 * found.tokens, rel=0.02)
    saving = estimate(training("7b"), place(gradient_checkpointing=True))
    assert saving.flops == pytest.approx(found.flops * 4 / 3)


def test_twice_the_devices_take_half_the_time_but_for_start_and_loading() -> None:
    one, two, four = (estimate(training("7b"), place(processes=processes)).seconds for processes in (8, 16, 32))
    assert one - two == pytest.approx(2 * (two - four))


def test_generation_holds_weights_and_cache_spread_over_devices() -> None:
    one, four = (estimate(answering("70b"), place(generation={"tensor_parallel": n, "batch": 16})) for n in (1, 4))
    weights_and_cache = (2 * parameters(SHAPES["70b"]) + 16 * 2048 * 327_680) / 2**30
    assert one.memory_gib - 1 == pytest.approx(weights_and_cache)
    assert four.memory_gib - 1 == pytest.approx(weights_and_cache / 4)


def test_scoring_needs_the_weights_and_light_stages_next_to_nothing() -> None:
    scoring = estimate(ScoringWork((SHAPES["7b"],), 100, 300), place(device=CPU, processes=1))
    assert scoring.memory_gib == pytest.approx(1 + 2 * 6.738e9 / 2**30, rel=0.01)
    assert estimate(ScoringWork((SHAPES["70b"],), 100, 300), place(device=CPU, processes=1)).too_large
    assert estimate(Light(), place(device=CPU)).memory_gib < 1


def test_models_that_score_together_are_in_memory_together() -> None:
    one, both = (
        estimate(ScoringWork(shapes, 100, 300), place(device=CPU, processes=1))
        for shapes in ((SHAPES["7b"],), (SHAPES["7b"], SHAPES["2b"]))
    )
    assert both.memory_gib - one.memory_gib == pytest.approx(2 * parameters(SHAPES["2b"]) / 2**30)
    assert both.tokens == 2 * one.tokens
    assert both.flops > one.flops


def test_the_recipes_default_training_is_planned_for_every_size() -> None:
    batch = Training().global_batch
    for size, shape in SHAPES.items():
        found = estimate(training(size, global_batch=batch), place(nodes=8, processes=64, zero={"stage": 3}))
        assert found.disk_gib * 2**30 == pytest.approx(16 * parameters(shape))
        assert bytes_per_value(place()) == 2
