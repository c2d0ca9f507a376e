"""Attention for a batch of sequences of unequal length, without padding: all new tokens lie in one row.

The linear layers, which are nearly all of the work, see each new token once, be it of a prompt or of an answer and
whosever it is. Only attention needs to know the sequences. Each has a slot in a preallocated key-value store; what
lies beyond its length is masked, so a token is taken back by forgetting it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from aligner_core.errors import Problem, UserError

NAME = "packed"
GROWTH = 1.5
GRID = 4  # sequences with at most so many new tokens share one call; padding costs less there than further calls


@dataclass(frozen=True)
class Span:
    """New tokens of one sequence: where they lie in the packed row, and where in the sequence."""

    slot: int
    first: int
    count: int
    stored: int

    @property
    def end(self) -> int:
        return self.stored + self.count


@dataclass(frozen=True)
class Step:
    """Where the packed tokens of one forward pass belong.

    Attributes:
        positions: (tokens,) place of each token in its sequence.
        written: (tokens,) its place in a layer's store, flattened over slots.
        alone: sequences with many new tokens; each has its own attention call.
        grid: (slots, up to GRID) packed index of the new tokens of the others; 0 in padding.
        reach: like grid, the last position that each may see; 0 in padding.
        packed, padded: the packed tokens of the grid, and where each lies in it, flattened.
        longest: positions of the longest sequence in the grid.
    """

    positions: torch.Tensor
    written: torch.Tensor
    alone: list[Span]
    grid: torch.Tensor
    reach: torch.Tensor
    packed: torch.Tensor
    padded: torch.Tensor
    longest: int
    masks: dict[tuple[int | None, int | None], torch.Tensor] = field(default_factory=dict)

    def grid_mask(self, window: int | None, groups: int) -> torch.Tensor:
        """(slots, 1, groups * most, longest): what each token of the grid may see; made once for all like layers."""
        if (None, window) not in self.masks:
            self.masks[None, window] = _seen(self.reach, self.longest, window).repeat(1, groups, 1)[:, None]
        return self.masks[None, window]

    def mask(self, span: Span, window: int | None, groups: int) -> torch.Tensor:
        """(groups * count, end): what each token of a lone sequence may see."""
        if (span.slot, window) not in self.masks:
            reach = self.positions[span.first : span.first + span.count]
            self.masks[span.slot, window] = _seen(reach, span.end, window).repeat(groups, 1)
        return self.masks[span.slot, window]


def _seen(reach: torch.Tensor, keys: int, window: int | None) -> torch.Tensor:
    places = torch.arange(keys, device=reach.device)
    seen = places <= reach[..., None]
    return seen if window is None else seen & (places > reach[..., None] - window)


class KeyValueStore:
    """Keys and values of up to `slots` sequences; sequence i of a step has slot i."""

    def __init__(self, slots: int, device: str) -> None:
        self.slots = slots
        self._device = device
        self._capacity = 0
        self._layers: dict[int, list[torch.Tensor]] = {}  # keys and values, each (slots, capacity, heads, width)

    def plan(self, stored: Sequence[int], new: Sequence[int]) -> Step:
        """The step in which sequence i, of which `stored[i]` tokens are held, gets `new[i]` more."""
        firsts = [0]
        for count in new:
            firsts.append(firsts[-1] + count)
        spans = [Span(slot, *place) for slot, place in enumerate(zip(firsts[:-1], new, stored, strict=True))]
        self._reserve(max(span.end for span in spans))
        laid = [span for span in spans if span.count <= GRID]
        most = max((span.count for span in laid), default=0)
        grid = [[0] * most for _ in spans]
        reach = [[0] * most for _ in spans]
        for span in laid:
            grid[span.slot][: span.count] = range(span.first, span.first + span.count)
            reach[span.slot][: span.count] = range(span.stored, span.end)
        return Step(
            positions=self._tensor([place for span in spans for place in range(span.stored, span.end)]),
            written=self._tensor(
                [span.slot * self._capacity + place for span in spans for place in range(span.stored, span.end)]
            ),
            alone=[span for span in spans if span.count > GRID],
            grid=self._tensor(grid),
            reach=self._tensor(reach),
            packed=self._tensor([place for span in laid for place in range(span.first, span.first + span.count)]),
            padded=self._tensor([span.slot * most + place for span in laid for place in range(span.count)]),
            longest=max((span.end for span in laid), default=0),
        )

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot `target` the first `length` tokens of slot `source`."""
        for stores in self._layers.values():
            for store in stores:
                store[target, :length] = store[source, :length]

    def write(self, layer: int, step: Step, key: torch.Tensor, value: torch.Tensor) -> list[torch.Tensor]:
        """Add a layer's new keys and values, (tokens, heads, width) each; returns its stores."""
        if layer not in self._layers:
            self._layers[layer] = [self._empty(key), self._empty(value)]
        for store, new in zip(self._layers[layer], (key, value), strict=True):
            store.view(-1, *new.shape[1:]).index_copy_(0, step.written, new)
        return self._layers[layer]

    def _reserve(self, length: int) -> None:
        if length <= self._capacity:
            return
        before, self._capacity = self._capacity, max(length, int(self._capacity * GROWTH))
        for layer, stores in self._layers.items():
            self._layers[layer] = [self._empty(store[0]) for store in stores]
            for larger, store in zip(self._layers[layer], stores, strict=True):
                larger[:, :before] = store

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        # Zeros, for what is masked is still multiplied by zero, and must be finite.
        return like.new_zeros(self.slots, self._capacity, *like.shape[1:])

    def _tensor(self, values: list[Any]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)


def packed_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Any = None,
    store: KeyValueStore | None = None,
    step: Step | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """A layer's attention over packed tokens: query (1, heads, tokens, width) -> (1, tokens, heads, width).

    The query heads that share a key-value head are laid beside each other as if they were further tokens, so that no
    key is copied.
    """
    assert store is not None
    assert step is not None
    require_plain("generation.engine", "set generation.engine: vllm", softcap, s_aux)
    query, key, value = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))
    keys, values = store.write(module.layer_idx, step, key, value)
    groups = query.shape[1] // key.shape[1]
    output = torch.empty_like(query)
    for span in step.alone:
        part, own = slice(span.first, span.first + span.count), slice(span.slot, span.slot + 1)
        mask = step.mask(span, sliding_window, groups)
        output[part] = _attend(query[part][None], keys[own, : span.end], values[own, : span.end], mask, scaling)[0]
    if len(step.packed):
        rows, most = step.grid.shape
        laid = query[step.grid.flatten()].view(rows, most, *query.shape[1:])
        mask = step.grid_mask(sliding_window, groups)
        seen = _attend(laid, keys[:rows, : step.longest], values[:rows, : step.longest], mask, scaling)
        output[step.packed] = seen.flatten(0, 1)[step.padded]
    return output[None], None


def require_plain(where: str, fix: str, softcap: float | None, sinks: Any, window: int | None = None) -> None:
    """
    Raises:
        UserError: if a model's attention has what the code here would leave out.
    """
    features = {"soft cap": softcap, "sinks": sinks, "sliding window": window}
    if unknown := [name for name, value in features.items() if value is not None]:
        raise UserError(Problem(where, f"this model's attention is not known here ({', '.join(unknown)})", fix))


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scaling: float | None
) -> torch.Tensor:
    """(rows, tokens, heads, width) over (rows, places, key-value heads, width)."""
    rows, tokens, heads, width = query.shape
    shared = keys.shape[2]
    folded = query.view(rows, tokens, shared, heads // shared, width).permute(0, 2, 3, 1, 4)
    seen = scaled_dot_product_attention(
        folded.reshape(rows, shared, -1, width), keys.transpose(1, 2), values.transpose(1, 2), attn_mask=mask,
        scale=scaling,
    )  # fmt: skip
    return seen.view(rows, shared, heads // shared, tokens, width).permute(0, 3, 1, 2, 4).flatten(2, 3)


AttentionInterface.register(NAME, packed_attention)
