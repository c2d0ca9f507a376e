"""Causal attention for training on a CPU, where torch's own fused kernel spends most of a step in its backward pass.

Queries are taken in blocks, each against the keys up to its end, so that little above the diagonal is computed; the
backward pass makes a block's probabilities again instead of keeping them (Dao et al. 2022). Everything is a few large
matrix products, which CPUs are good at. Batches must be padded on the right: there, no true position looks at padding,
and the causal mask is the only one needed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from aligner_core.engines.packed_attention import require_plain

NAME = "right_padded_causal"
BLOCK = 256


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T) v under a causal mask, with grouped key-value heads; q is already scaled."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """
        Args:
            query: (batch x key-value heads, queries per key-value head, length, width).
            key, value: (batch x key-value heads, length, width).

        Returns:
            the shape of `query`.
        """
        output = torch.empty_like(query)
        for start, end in _blocks(query.shape[2]):
            weights = _probabilities(query, key, start, end)
            output[:, :, start:end] = (weights @ value[:, :end]).view_as(output[:, :, start:end])
        ctx.save_for_backward(query, key, value)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (gradient,) = gradients
        query, key, value = ctx.saved_tensors
        for_query, for_key, for_value = torch.empty_like(query), torch.zeros_like(key), torch.zeros_like(value)
        for start, end in _blocks(query.shape[2]):
            weights = _probabilities(query, key, start, end)
            block = gradient[:, :, start:end].flatten(1, 2)
            for_value[:, :end] += weights.transpose(1, 2) @ block
            for_weights = block @ value[:, :end].transpose(1, 2)
            for_scores = torch._softmax_backward_data(for_weights, weights, -1, weights.dtype)
            for_query[:, :, start:end] = (for_scores @ key[:, :end]).view_as(for_query[:, :, start:end])
            for_key[:, :end] += for_scores.transpose(1, 2) @ query[:, :, start:end].flatten(1, 2)
        return for_query, for_key, for_value


def _blocks(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + BLOCK, length)) for start in range(0, length, BLOCK)]


def _probabilities(query: Tensor, key: Tensor, start: int, end: int) -> Tensor:
    """(batch x key-value heads, queries per head x block, end) attention weights of one block of queries."""
    scores = query[:, :, start:end].flatten(1, 2) @ key[:, :end].transpose(1, 2)
    rows, columns = torch.arange(start, end)[:, None], torch.arange(start, end)
    later = torch.zeros(end - start, end - start, dtype=scores.dtype).masked_fill_(columns > rows, float("-inf"))
    scores.view(len(scores), query.shape[1], end - start, end)[..., start:] += later
    return scores.softmax(-1)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    scaling: float,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """What transformers calls: (batch, heads, length, width) in, (batch, length, heads, width) out.

    Raises:
        UserError: if the model's attention is more than causal.
    """
    batch, heads, length, width = query.shape
    window = sliding_window if sliding_window and sliding_window < length else None
    require_plain("attention", "set attention: eager in the profile", softcap, s_aux, window)
    groups = key.shape[1]
    mixed = CausalAttention.apply(  # type: ignore[no-untyped-call]
        (query * scaling).reshape(batch * groups, heads // groups, length, width),
        key.reshape(batch * groups, length, width),
        value.reshape(batch * groups, length, width),
    )
    return mixed.view(batch, heads, length, width).transpose(1, 2), None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, _no_mask)
