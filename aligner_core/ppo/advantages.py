"""From scores of whole rollouts to advantages of single tokens. Pure functions of right-padded tensors.

Shapes: `(batch,)` holds one value per rollout, `(batch, tokens)` one per response token. `mask` is True at true
tokens, which begin each row; what is padding in an input may be anything, and is 0 in an output.
"""

from __future__ import annotations

import torch
from torch import Tensor

TINY = 1e-8


def sequence_scores(
    rewards: Tensor, costs: Tensor, finished: Tensor, cost_weight: float, unfinished_penalty: float, clip: float
) -> Tensor:
    """clip(reward - cost_weight * cost - unfinished_penalty * [not finished], -clip, clip), each (batch,)."""
    scores = rewards - cost_weight * costs - unfinished_penalty * (~finished).to(rewards.dtype)
    return scores.clamp(-clip, clip)


def token_rewards(scores: Tensor, log_probs: Tensor, reference: Tensor, mask: Tensor, kl: float) -> Tensor:
    """Every token pays for its divergence, and the last true one earns the score of the whole (Ziegler et al. 2019).

    r_t = -kl * (log pi(a_t) - log pi_ref(a_t)) + [t is the last true token] * score

    Args:
        scores: (batch,).
        log_probs, reference, mask: (batch, tokens); each row has at least one true token.

    Returns:
        (batch, tokens).
    """
    rewards = torch.where(mask, -kl * (log_probs - reference), 0.0)
    rows = torch.arange(len(rewards), device=rewards.device)
    rewards[rows, mask.sum(1) - 1] += scores
    return rewards


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al. 2016, equation 16), and the returns that values learn.

    delta_t = r_t + gamma * V_{t+1} - V_t, with V = 0 after the last true token
    A_t = delta_t + gamma * gae_lambda * A_{t+1}
    R_t = A_t + V_t

    Args:
        rewards, values, mask: (batch, tokens); V_t is the value of what stood before token t was written.

    Returns:
        advantages and returns, (batch, tokens) each.
    """
    rewards, values = torch.where(mask, rewards, 0.0), torch.where(mask, values, 0.0)
    advantages = torch.zeros_like(values)
    later = torch.zeros_like(values[:, 0])
    next_value = later
    for token in reversed(range(values.shape[1])):
        delta = rewards[:, token] + gamma * next_value - values[:, token]
        later = delta + gamma * gae_lambda * later
        next_value = values[:, token]
        advantages[:, token] = later
    # A padding position has delta 0 and nothing after it, so that the recursion begins at the last true token.
    return advantages, torch.where(mask, advantages + values, 0.0)


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """(count, sum, sum of squares) of the true values: to be added up over micro-batches and processes."""
    true = values[mask].double()
    return torch.stack([torch.full_like(true.sum(), true.numel()), true.sum(), true.square().sum()])


def mean_and_spread(totals: Tensor) -> tuple[float, float]:
    """Mean and standard deviation (of the population) from `moments`."""
    count, total, squares = totals.tolist()
    mean = total / count
    return mean, max(squares / count - mean**2, 0.0) ** 0.5


def whitened(values: Tensor, mask: Tensor, totals: Tensor) -> Tensor:
    """(value - mean) / spread at true positions, by the moments `totals` of all that belong together."""
    mean, spread = mean_and_spread(totals)
    return torch.where(mask, (values - mean) / (spread + TINY), 0.0)
