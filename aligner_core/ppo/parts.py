"""The four models of PPO, opened where and as the profile and the recipe say, and what the loop needs beside them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from aligner_core.engines.protocol import Sampling, open_engine
from aligner_core.errors import Problem, UserError
from aligner_core.estimates.policy import policy_micro_batch
from aligner_core.ppo.learners import Descent, Learner, OneProcess, Sharded, deepspeed_loading
from aligner_core.ppo.loop import Parts
from aligner_core.ppo.networks import Reference, value_model
from aligner_core.ppo.processes import join, rank, wait
from aligner_core.ppo.rollouts import Asked, EngineSampler, InMemorySampler, RolloutScorer, Sampler
from aligner_core.profile import Profile
from aligner_core.recipe.students import Ppo
from aligner_core.records import Question
from aligner_core.shapes import shape_from_config
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.templates import batch_prompt_ids, conversation
from aligner_core.training.adapters import adapters_inside, merge_adapters, with_adapters
from aligner_core.training.deepspeed_setup import frozen_engine
from aligner_core.training.supervised import attention, load_network
from aligner_core.work import PolicyWork

ROLLOUT_WEIGHTS = "rollout_weights"


def within_room(
    stage: StageContext, questions: Sequence[Question], tokenizer: PreTrainedTokenizerBase, room: int
) -> list[Asked]:
    """The questions whose prompts have at most `room` tokens; the others are left out and noted, none is cut.

    Raises:
        UserError: if none is left.
    """
    prompts = batch_prompt_ids(tokenizer, [conversation(row.question, row.history) for row in questions])
    asked = [Asked(row, tuple(prompt)) for row, prompt in zip(questions, prompts, strict=True)]
    kept = [one for one in asked if len(one.prompt) <= room]
    stage.facts["dropped_over_long"] = [one.question.id for one in asked if len(one.prompt) > room]
    if not kept:
        what = f"no question leaves room for a rollout: the longest prompt may have {room} tokens"
        raise UserError(Problem("student.ppo.max_length", what, "raise it, or lower max_new_tokens"))
    return kept


def open_parts(
    stage: StageContext,
    start: ModelLocation,
    reward: ModelLocation | None,
    tokenizer: PreTrainedTokenizerBase,
    scorer: RolloutScorer,
    section: Ppo,
    new_tokens: int,
    questions: Sequence[Asked],
) -> Parts:
    """Load the networks and make learners of policy and value model.

    Args:
        start: the policy's and the reference's weights.
        reward: what the value model may begin with.
    """
    profile = stage.profile
    device = join(profile)
    sharding = deepspeed_loading(profile)  # must live while models are loaded
    network = load_network(stage, start)
    loading = {"dtype": getattr(torch, profile.precision), "attn_implementation": attention(profile)}
    value, began = value_model(start, reward if section.value_start == "reward" else None, tokenizer, **loading)
    if section.lora:
        network = with_adapters(network, section.lora, profile.gradient_checkpointing)
        adapters_inside(value.trunk, section.lora, profile.gradient_checkpointing)
    del sharding
    for trained in (network, value):
        _prepare(trained, profile.gradient_checkpointing)
    policy_descent = Descent(section.betas, section.weight_decay, section.max_grad_norm)
    policy = _learner(stage, network.to(device), policy_descent)
    value_learner = _learner(stage, value.to(device), Descent(section.betas, 0.0, section.max_grad_norm))
    if section.lora:
        reference = Reference(policy.network, adapted=network)
    else:
        reference = Reference(frozen_engine(profile, lambda: load_network(stage, start))[0])
    micro_batch = _micro_batch(stage, network, value, section, new_tokens, questions)
    stage.facts |= {
        "questions": len(questions),
        "value_start": began,
        "micro_batch": micro_batch,
        "processes": profile.processes,
        "zero_stage": profile.zero.stage,
    }

    def export(folder: Path) -> None:
        _export(policy, network, folder)
        if rank() == 0:
            tokenizer.save_pretrained(folder)
            if section.lora:
                merge_adapters(start, folder, folder.with_name("adapter"), tokenizer)
        wait()

    sampling = Sampling(new_tokens, temperature=section.temperature)
    sampler: Sampler
    if profile.generation.engine == "vllm":
        engine = open_engine(stage, start, drafts=False) if rank() == 0 else None
        sampler = EngineSampler(engine, export, stage.folder / ROLLOUT_WEIGHTS, sampling)
    else:
        sampler = InMemorySampler(policy, tokenizer, profile, sampling, packs=_packs(profile, section))
    return Parts(policy, value_learner, reference, sampler, scorer, export, device, micro_batch)


def _packs(profile: Profile, section: Ppo) -> bool:
    """Whether linear layers are laid out for decoding: not with adapters, which look at the weights inside."""
    low = profile.device.kind == "cpu" and profile.precision == "bfloat16" and not section.lora
    return low and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _prepare(network: torch.nn.Module, gradient_checkpointing: bool) -> None:
    """No dropout, which would make a policy differ from itself; checkpointing works in training mode alone."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if gradient_checkpointing:
        enabled: Any = getattr(network, "trunk", network)
        enabled.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _learner(stage: StageContext, network: torch.nn.Module, descent: Descent) -> Learner:
    if stage.profile.uses_deepspeed:
        return Sharded(network, descent, stage.profile)
    return OneProcess(network, descent)


def _export(policy: Learner, network: Any, folder: Path) -> None:
    """A plain folder (safetensors) that is whole or not there; of a policy with adapters one of adapters."""
    weights = policy.weights()
    if rank() == 0:
        temporary = folder.with_name(folder.name + ".writing")
        network.save_pretrained(temporary, state_dict=weights)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)


def _micro_batch(
    stage: StageContext, policy: Any, value: Any, section: Ppo, new: int, questions: Sequence[Asked]
) -> int:
    """As planned, for these prompts; the score models are taken to be as large as the value model."""
    shapes = [shape_from_config(config.to_dict()) for config in (policy.config, value.trunk.config)]
    lengths = [len(asked.prompt) for asked in questions]
    work = PolicyWork(
        policy=shapes[0], value=shapes[1], scores=(shapes[1], shapes[1]), iterations=1, prompts=section.prompts,
        prompt_tokens=sum(lengths) // len(lengths), new_tokens=new, longest=max(lengths) + new,
        global_batch=section.global_batch, updates=section.updates,
        lora_rank=section.lora.rank if section.lora else None,
    )  # fmt: skip
    return policy_micro_batch(work, stage.profile)
