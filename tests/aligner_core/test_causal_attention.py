"""Our attention for CPUs gives the outputs and gradients of the textbook's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, Gemma2Config, MistralConfig

from aligner_core.embedded_models import local_folder
from aligner_core.errors import UserError
from aligner_core.training import causal_attention
from aligner_core.training.causal_attention import attend


def textbook(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float) -> torch.Tensor:
    """(batch, length, heads, width), each position over itself and those before it."""
    groups = query.shape[1] // key.shape[1]
    scores = scaling * query @ key.repeat_interleave(groups, 1).transpose(-1, -2)
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(later, float("-inf")).softmax(-1)
    return (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2)


@settings(max_examples=25)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 8))
def test_outputs_and_gradients_are_the_textbooks(batch: int, kv: int, groups: int, length: int, block: int) -> None:
    torch.manual_seed(length)
    shapes = [(batch, kv * groups, length, 5), (batch, kv, length, 5), (batch, kv, length, 5)]
    ours = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causal_attention, "BLOCK", block)
        found, _ = attend(None, *ours, None, 0.3)
        expected = textbook(*theirs, 0.3)
        direction = torch.randn_like(expected)
        found.backward(direction)
    expected.backward(direction)
    torch.testing.assert_close(found, expected)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_a_model_gives_the_same_logits_and_right_padding_changes_none_of_them() -> None:
    folder = local_folder("embedded:tiny-random")
    ours = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=causal_attention.NAME)
    theirs = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    ids = torch.randint(0, 250, (2, 300))
    padded = torch.cat([ids, torch.full((2, 17), 257)], 1)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        torch.testing.assert_close(ours(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours(input_ids=padded).logits[:, :300], expected, rtol=1e-4, atol=1e-4)


TINY = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8,
        "num_attention_heads": 2, "num_key_value_heads": 1}  # fmt: skip


def test_what_is_more_than_causal_is_refused_and_a_window_that_no_text_reaches_is_none() -> None:
    windowed = MistralConfig(**TINY, sliding_window=8)
    ids = torch.arange(9)[None]
    for config, what in ((windowed, "sliding window"), (Gemma2Config(**TINY), "soft cap")):
        network = AutoModelForCausalLM.from_config(config, attn_implementation=causal_attention.NAME)
        with pytest.raises(UserError, match=rf"(?s){what}.*attention: eager"):
            network(input_ids=ids)
    ours = AutoModelForCausalLM.from_config(windowed, attn_implementation=causal_attention.NAME)
    theirs = AutoModelForCausalLM.from_config(windowed, attn_implementation="eager")
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(ours(input_ids=ids[:, :8]).logits, theirs(input_ids=ids[:, :8]).logits)
