"""Losses of score models (Safe RLHF, Dai et al. 2023, equations 5 and 6). TRL has the reward model's own."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid

from aligner_core.scorer import COST, HELPFUL

SAFE, UNSAFE, IDENTICAL = 0, 1, 2  # kinds of records, see `scorer_loss`


def pairwise_loss(higher: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """-log of the probability that one score is the higher (Bradley & Terry 1952), elementwise."""
    return -logsigmoid(higher - lower)


def sign_loss(costs: torch.Tensor, unsafe: torch.Tensor) -> torch.Tensor:
    """-log of the probability that the sign of the cost is right: above 0 where `unsafe`, elementwise."""
    return -logsigmoid(torch.where(unsafe, costs, -costs))


def cost_losses(
    better: torch.Tensor, worse: torch.Tensor, unsafe: torch.Tensor, paired: torch.Tensor, unsafe_weight: float = 1.0
) -> torch.Tensor:
    """The cost losses of records: an answer, labelled, and perhaps a safe text that is better.

    Args:
        better: (records,) costs of the better texts; anything where there is none.
        worse: (records,) costs of the answers.
        unsafe: (records,) whether the answer is.
        paired: (records,) whether there is a better text.
        unsafe_weight: weight of the losses of unsafe answers; safe texts per unsafe one balances them.

    Returns:
        (records,) the pairwise loss where an unsafe answer has a better text, and half of each text's sign loss.
    """
    weight = torch.where(unsafe, unsafe_weight, 1.0)
    ranked = torch.where(unsafe & paired, pairwise_loss(worse, better), 0.0)
    safe_sign = torch.where(paired, sign_loss(better, torch.zeros_like(unsafe)), 0.0)
    return weight * (ranked + 0.5 * sign_loss(worse, unsafe)) + 0.5 * safe_sign


def scorer_loss(
    better: torch.Tensor, worse: torch.Tensor, kinds: torch.Tensor, unsafe_weight: float = 1.0
) -> torch.Tensor:
    """Both heads' losses on pairs from corrections.

    Args:
        better: (pairs, 2) scores of the correction.
        worse: (pairs, 2) scores of the answer.
        kinds: (pairs,) SAFE: the answer is safe and the correction more helpful; UNSAFE: the answer is unsafe;
            IDENTICAL: the answer was left as it is.

    Returns:
        mean over pairs of the pairwise helpfulness loss where the answer is safe and was changed, and the cost losses.
    """
    helpful = torch.where(kinds == SAFE, pairwise_loss(better[:, HELPFUL], worse[:, HELPFUL]), 0.0)
    paired = torch.ones_like(kinds, dtype=torch.bool)
    return (helpful + cost_losses(better[:, COST], worse[:, COST], kinds == UNSAFE, paired, unsafe_weight)).mean()
