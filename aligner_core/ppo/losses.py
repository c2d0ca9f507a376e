"""The losses of PPO and the figures that watch it. Pure functions of right-padded tensors.

A loss is the mean over a rollout's tokens, and then over the rollouts of the global batch, so that each rollout counts
the same whatever its length (as in Safe RLHF). The functions return one mean per rollout; adding them up over
micro-batches and processes and dividing by the number of rollouts gives the loss, however the batch is cut.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rollout_means(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of each row's true values: (batch, tokens) -> (batch,)."""
    return torch.where(mask, values, 0.0).sum(1) / mask.sum(1)


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, mask: Tensor, clip_ratio: float
) -> tuple[Tensor, Tensor]:
    """The clipped surrogate (Schulman et al. 2017, equation 7), negated.

    -min(ratio * A, clip(ratio, 1 - clip_ratio, 1 + clip_ratio) * A), ratio = pi(a) / pi_old(a)

    Args:
        log_probs, old_log_probs, advantages, mask: (batch, tokens).

    Returns:
        (batch,) losses; and the share of each rollout's tokens where the clipped term was the lesser.
    """
    ratio = torch.where(mask, log_probs - old_log_probs, 0.0).exp()
    plain, clipped = ratio * advantages, ratio.clamp(1 - clip_ratio, 1 + clip_ratio) * advantages
    share = rollout_means((clipped < plain).to(log_probs.dtype), mask)
    return -rollout_means(torch.minimum(plain, clipped), mask), share


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_value: float
) -> tuple[Tensor, Tensor]:
    """Squared error of a value that may move by `clip_value` at most, the worse of clipped and not, halved.

    0.5 * max((V - R)^2, (clip(V, V_old - clip_value, V_old + clip_value) - R)^2)

    Args:
        values, old_values, returns, mask: (batch, tokens).

    Returns:
        (batch,) losses; and the share of each rollout's tokens where the clipped term was the greater.
    """
    near = torch.clamp(values, old_values - clip_value, old_values + clip_value)
    plain, clipped = (values - returns).square(), (near - returns).square()
    share = rollout_means((clipped > plain).to(values.dtype), mask)
    return 0.5 * rollout_means(torch.maximum(plain, clipped), mask), share


def kl_estimates(log_probs: Tensor, reference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Two estimates of a rollout's divergence from the reference in nats, summed over its tokens, (batch,) each.

    k1 = log pi - log pi_ref is unbiased; k3 = pi_ref / pi - 1 - log(pi_ref / pi) is too, has less variance and is
    never negative (Schulman 2020).
    """
    difference = torch.where(mask, log_probs - reference, 0.0)
    return difference.sum(1), (torch.expm1(-difference) + difference).sum(1)


def entropies(logits: Tensor) -> Tensor:
    """Entropy in nats of the distributions that logits (..., vocabulary) stand for: -sum(p * log p)."""
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)
