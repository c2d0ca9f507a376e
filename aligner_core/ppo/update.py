"""One optimizer step of policy and value model on a mini-batch of experience, with a supervised term beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from torch import Tensor

from aligner_core.ppo.experience import Experience, Sums
from aligner_core.ppo.learners import Learner
from aligner_core.ppo.losses import policy_loss, rollout_means, value_loss
from aligner_core.ppo.networks import response_log_probs, response_values
from aligner_core.recipe.students import Ppo
from aligner_core.training.examples import Example
from aligner_core.training.processes import count
from aligner_core.training.supervised import collate_examples, supervised_loss


def accumulate_policy(policy: Learner, found: Sequence[Experience], section: Ppo, sums: Sums) -> None:
    """Gradients of the clipped surrogate, averaged over the rollouts of all processes."""
    rollouts = sum(len(item.batch.rollouts) for item in found) * count()
    for item in found:
        log_probs = response_log_probs(policy.network, item.batch, section.temperature)
        losses, clipped = policy_loss(log_probs, item.log_probs, item.advantages, item.batch.mask, section.clip_ratio)
        policy.backward(_share(losses.sum(), rollouts))
        moved = rollout_means(item.log_probs - log_probs, item.batch.mask)
        sums.add(policy_loss=losses, policy_clipped=clipped, moved=moved)


def accumulate_value(value: Learner, found: Sequence[Experience], section: Ppo, sums: Sums) -> None:
    """Gradients of the clipped value loss, averaged over the rollouts of all processes."""
    rollouts = sum(len(item.batch.rollouts) for item in found) * count()
    for item in found:
        values = response_values(value.network, item.batch)
        losses, clipped = value_loss(values, item.values, item.returns, item.batch.mask, section.clip_value)
        value.backward(_share(losses.sum(), rollouts))
        sums.add(value_loss=losses, value_clipped=clipped)


def accumulate_ptx(
    policy: Learner, own: Sequence[Example], tokens: float, weight: float, micro_batch: int, device: torch.device
) -> Tensor:
    """Gradients of `weight` x cross-entropy on this process's examples, per token of all processes' examples.

    Args:
        tokens: supervised tokens of the examples of all processes, each counted with its example's weight.

    Returns:
        this process's part of the cross-entropy.
    """
    ordered = sorted(own, key=len)
    whole = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, len(ordered), micro_batch):
        chosen = ordered[start : start + micro_batch]
        inputs = collate_examples([asdict(example) for example in chosen])
        total, _ = supervised_loss(policy.network, *(tensor.to(device) for tensor in inputs.values()))
        policy.backward(_share(weight * total, tokens))
        whole += total.detach().double() / tokens
    return whole


def _share(total: Tensor, over: float) -> Tensor:
    """A part of a sum over all processes, as a part of its mean; a step averages the gradients over the processes."""
    return total / over * count()
