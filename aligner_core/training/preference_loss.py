"""The mathematics of learning from pairs: log-probabilities of texts, and losses on their ratios to a reference."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from aligner_core.training.examples import IGNORED

Loss = Literal["sigmoid", "sigmoid_norm", "apo_zero"]


def text_log_probs(model: Any, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Summed log-probability, in nats, of each row's supervised tokens, and their number.

    The output layer runs only at positions where some row is supervised, and the fp32 softmax over the vocabulary
    only on supervised tokens. Rows are padded on the right, where no true position looks: no mask is needed.

    Args:
        input_ids, labels: (rows, longest); labels are IGNORED where nothing is counted.

    Returns:
        (rows,) sums in fp32 and (rows,) counts.
    """
    targets = labels[:, 1:]
    kept = (targets != IGNORED).any(0).nonzero().flatten()
    targets = targets[:, kept]
    counted = targets != IGNORED
    logits = model(input_ids=input_ids, logits_to_keep=kept, use_cache=False).logits
    each = -cross_entropy(logits[counted].float(), targets[counted], reduction="none")
    return torch.zeros_like(counted, dtype=each.dtype).masked_scatter(counted, each).sum(-1), counted.sum(-1)


def preference_loss(kind: Loss, better: Tensor, worse: Tensor, beta: float) -> Tensor:
    """Loss of preferring one text over another.

    * sigmoid: -log sigmoid(beta (better - worse)), DPO (Rafailov et al. 2023, equation 7);
    * sigmoid_norm: the same, with log-ratios per token (Lambert et al. 2024, equation 6);
    * apo_zero: 1 - sigmoid(beta better) + sigmoid(beta worse) (D'Oosterlinck et al. 2024, equation 7).

    Args:
        better, worse: (pairs,) log-probability under the policy less that under the reference; per token for
            sigmoid_norm.
    """
    if kind == "apo_zero":
        return 1 - torch.sigmoid(beta * better) + torch.sigmoid(beta * worse)
    return -logsigmoid(beta * (better - worse))


def expected_loss(kind: Loss, chosen: Tensor, rejected: Tensor, beta: float, confidence: Tensor) -> Tensor:
    """Expected loss, if the chosen text is the better one with probability `confidence`, and else the rejected.

    With the sigmoid losses this is DPO on soft labels (Mitchell 2023): the margin that minimises it is
    logit(confidence) and not infinite, so a doubtful pair is not pushed apart without end, and one at 1/2 is held at
    the reference. A mere weight would push it as far, only more slowly.
    """
    forward = preference_loss(kind, chosen, rejected, beta)
    return confidence * forward + (1 - confidence) * preference_loss(kind, rejected, chosen, beta)
