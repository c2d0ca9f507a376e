"""The four models of PPO, opened where and as the profile and the recipe say, and what the loop needs beside them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from aligner_core.engines.cpu_linear import packing_helps
from aligner_core.engines.protocol import Room, Sampling, open_engine
from aligner_core.errors import Problem, UserError
from aligner_core.estimates.policy import engine_cache_bytes, policy_micro_batch
from aligner_core.files import open_folder
from aligner_core.ppo.learners import Descent, Learner, OneProcess, Sharded, deepspeed_loading
from aligner_core.ppo.loop import Parts
from aligner_core.ppo.networks import Reference, ValueModel, value_model
from aligner_core.ppo.rollouts import Asked, EngineSampler, InMemorySampler, Sampler
from aligner_core.profile import Profile
from aligner_core.recipe.students import Ppo
from aligner_core.records import Question
from aligner_core.score_models import RewardAndCost
from aligner_core.shapes import shape_from_config
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.templates import batch_prompt_ids, conversation
from aligner_core.training.adapters import adapters_inside, merge_adapters, with_adapters
from aligner_core.training.deepspeed_setup import frozen_engine
from aligner_core.training.processes import join, rank, wait
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
    stage: StageContext, tokenizer: PreTrainedTokenizerBase, section: Ppo, new_tokens: int, questions: Sequence[Asked]
) -> Parts:
    """The stage's models, opened on this process's device, and what samples.

    Its inputs are `model` (where policy and reference begin), `reward` (which the value model may begin with) and,
    where there is one, `cost`.
    """
    profile = stage.profile
    device = join(profile)  # first: what opens a model on "cuda" means the device that this chooses
    start, reward = stage.model("model"), stage.model("reward")
    scorer = RewardAndCost(reward, stage.model("cost") if "cost" in stage.inputs else None, profile)
    network, value = _networks(stage, start, reward, tokenizer, section)
    policy = _learner(profile, network.to(device), section, section.weight_decay)
    value_learner = _learner(profile, value.to(device), section, 0.0)
    reference = _reference(stage, start, policy, network if section.lora else None)
    work = _work(network, value, section, new_tokens, questions)
    micro_batch = policy_micro_batch(work, profile)
    stage.facts |= {
        "questions": len(questions),
        "micro_batch": micro_batch,
        "processes": profile.processes,
        "zero_stage": profile.zero.stage,
    }
    export = partial(_export, policy, network, tokenizer, start if section.lora else None)
    sampling = Sampling(new_tokens, temperature=section.temperature)
    sampler = _sampler(stage, start, policy, tokenizer, sampling, work, export)
    return Parts(policy, value_learner, reference, sampler, scorer, export, device, micro_batch)


def _networks(
    stage: StageContext, start: ModelLocation, reward: ModelLocation, tokenizer: PreTrainedTokenizerBase, section: Ppo
) -> tuple[Any, ValueModel]:
    """Policy and value model, ready to be trained; notes what the value model began with."""
    profile = stage.profile
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
    stage.facts["value_start"] = began
    return network, value


def _prepare(network: torch.nn.Module, gradient_checkpointing: bool) -> None:
    """No dropout, which would make a policy differ from itself; checkpointing works in training mode alone."""
    network.train()
    for module in network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if gradient_checkpointing:
        enabled: Any = getattr(network, "trunk", network)
        enabled.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def _learner(profile: Profile, network: torch.nn.Module, section: Ppo, weight_decay: float) -> Learner:
    descent = Descent(section.betas, weight_decay, section.max_grad_norm)
    return Sharded(network, descent, profile) if profile.uses_deepspeed else OneProcess(network, descent)


def _reference(stage: StageContext, start: ModelLocation, policy: Learner, adapted: Any | None) -> Reference:
    """The policy without its adapters, where it has any (`adapted`), else the start once more."""
    if adapted is not None:
        return Reference(policy.network, adapted)
    return Reference(frozen_engine(stage.profile, lambda: load_network(stage, start))[0])


def _sampler(
    stage: StageContext,
    start: ModelLocation,
    policy: Learner,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
    work: PolicyWork,
    export: Callable[[Path], None],
) -> Sampler:
    profile = stage.profile
    if profile.generation.engine == "vllm":
        shares = profile.device.kind == "cuda"
        room = Room(int(engine_cache_bytes(work, profile)), work.longest) if shares else None
        engine = open_engine(stage, start, drafts=False, room=room) if rank() == 0 else None
        return EngineSampler(engine, export, stage.folder / ROLLOUT_WEIGHTS, sampling)
    packs = packing_helps(profile) and not work.lora_rank  # adapters look at the weights inside
    return InMemorySampler(policy, tokenizer, profile, sampling, packs)


def _export(
    policy: Learner, network: Any, tokenizer: PreTrainedTokenizerBase, base: ModelLocation | None, folder: Path
) -> None:
    """A plain folder (safetensors) that is whole or not there; a policy's adapters are merged into their `base`."""
    weights = policy.weights()
    if rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)  # the rollouts' before: the plan has room for one on the disk
        with open_folder(folder) as writing:
            network.save_pretrained(writing, state_dict=weights)
            tokenizer.save_pretrained(writing)
        if base:
            merge_adapters(base, folder, folder.with_name("adapter"), tokenizer)
    wait()


def _work(policy: Any, value: ValueModel, section: Ppo, new: int, questions: Sequence[Asked]) -> PolicyWork:
    """As planned, for these prompts; the score models are taken to be as large as the value model."""
    shapes = [shape_from_config(config.to_dict()) for config in (policy.config, value.trunk.config)]
    lengths = [len(asked.prompt) for asked in questions]
    return PolicyWork(
        policy=shapes[0], value=shapes[1], scores=(shapes[1], shapes[1]), iterations=1, prompts=section.prompts,
        prompt_tokens=sum(lengths) // len(lengths), new_tokens=new, longest=max(lengths) + new,
        global_batch=section.global_batch, updates=section.updates,
        lora_rank=section.lora.rank if section.lora else None,
    )  # fmt: skip
