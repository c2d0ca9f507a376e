"""What is known of an iteration's rollouts before the policy is updated: all that the losses compare with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aligner_core.ppo.advantages import (
    generalized_advantages,
    mean_and_spread,
    moments,
    sequence_scores,
    token_rewards,
    whitened,
)
from aligner_core.ppo.learners import Learner
from aligner_core.ppo.losses import kl_estimates, rollout_means
from aligner_core.ppo.networks import Reference, response_statistics, response_values
from aligner_core.ppo.rollouts import Batch
from aligner_core.recipe.students import Ppo
from aligner_core.training.processes import added_up


@dataclass
class Experience:
    """A micro-batch with what the networks said of it when it was sampled; `(batch, tokens)` each."""

    batch: Batch
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


@dataclass
class Sums:
    """Sums over rollouts, by name, which become means over all processes."""

    rollouts: int = 0
    totals: dict[str, Tensor] = field(default_factory=dict)

    def add(self, **values: Tensor) -> None:
        """One value per rollout each."""
        for name, value in values.items():
            self.totals[name] = self.totals.get(name, 0.0) + value.detach().double().sum()

    def means(self) -> dict[str, float]:
        """Means per rollout, the same on every process."""
        device = next(iter(self.totals.values())).device
        counted = torch.tensor([float(self.rollouts)], dtype=torch.float64, device=device)
        together = added_up(torch.cat([counted, torch.stack(list(self.totals.values()))])).tolist()
        return {name: total / together[0] for name, total in zip(self.totals, together[1:], strict=True)}


def experience(
    batches: Sequence[Batch],
    policy: Learner,
    value: Learner,
    reference: Reference,
    section: Ppo,
) -> tuple[list[Experience], dict[str, float]]:
    """Log-probabilities, values, advantages and returns of an iteration's rollouts.

    The log-probabilities are those of the trained network's own forward pass: those of the decoding, by another kernel
    or another engine, differ from them as much as an update does.

    Args:
        batches: this process's rollouts, scored.

    Returns:
        one experience per batch, and the means over all processes that the metrics and the alarms need.
    """
    scores = [_scores(batch, section) for batch in batches]
    every = [torch.ones_like(score, dtype=torch.bool) for score in scores]
    spread = _whole(scores, every)
    sums = Sums()
    found = []
    for batch, score, all_of_it in zip(batches, scores, every, strict=True):
        log_probs, entropy = response_statistics(policy.network, batch, section.temperature)
        reference_log_probs = reference.log_probs(batch, section.temperature)
        with torch.no_grad():
            values = response_values(value.network, batch)
        earned = whitened(score, all_of_it, spread) if section.whiten_scores else score
        token = token_rewards(earned, log_probs, reference_log_probs, batch.mask, section.kl)
        advantages, returns = generalized_advantages(token, values, batch.mask, section.gamma, section.gae_lambda)
        found.append(Experience(batch, log_probs, values, advantages, returns))
        kl, kl_k3 = kl_estimates(log_probs, reference_log_probs, batch.mask)
        sums.rollouts += len(batch.rollouts)
        sums.add(
            reward=_told(batch, "reward"), cost=_told(batch, "cost"), score=score, kl=kl, kl_k3=kl_k3,
            entropy=rollout_means(entropy, batch.mask), value=rollout_means(values, batch.mask),
            length=batch.mask.sum(1), finished=_told(batch, "finished"),
        )  # fmt: skip
    if section.whiten_advantages:
        masks = [item.batch.mask for item in found]
        totals = _whole([item.advantages for item in found], masks)
        for item in found:
            item.advantages = whitened(item.advantages, item.batch.mask, totals)
    return found, {**sums.means(), "score_spread": mean_and_spread(spread)[1], "explained": _explained(found)}


def _scores(batch: Batch, section: Ppo) -> Tensor:
    return sequence_scores(
        _told(batch, "reward"), _told(batch, "cost"), _told(batch, "finished").bool(),
        section.cost_weight, section.unfinished_penalty, section.clip_score,
    )  # fmt: skip


def _told(batch: Batch, name: str) -> Tensor:
    values = [float(getattr(rollout, name)) for rollout in batch.rollouts]
    return torch.tensor(values, device=batch.mask.device)


def _whole(values: Sequence[Tensor], masks: Sequence[Tensor]) -> Tensor:
    """Moments over all micro-batches of all processes."""
    return added_up(torch.stack([moments(*pair) for pair in zip(values, masks, strict=True)]).sum(0))


def _explained(found: Sequence[Experience]) -> float:
    """The share of the returns' variance that the values foresaw: 1 - Var(R - V) / Var(R)."""
    masks = [item.batch.mask for item in found]
    _, error = mean_and_spread(_whole([item.returns - item.values for item in found], masks))
    _, spread = mean_and_spread(_whole([item.returns for item in found], masks))
    return 1 - error**2 / max(spread**2, 1e-12)
