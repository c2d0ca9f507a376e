"""Log-probabilities of texts and losses of pairs, against plain loops and written-out formulas."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_core.embedded_models import byte_tokenizer
from aligner_core.errors import UserError
from aligner_core.records import Pair
from aligner_core.scorer import pad_right
from aligner_core.training.examples import IGNORED
from aligner_core.training.pairs import build_pair, select_pairs
from aligner_core.training.preference_loss import Loss, expected_loss, preference_loss, text_log_probs

TOKENIZER = byte_tokenizer()
EOS = int(TOKENIZER.eos_token_id)
TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
WORDS = TEXT.filter(str.strip)
RATIO = st.floats(-60, 60)
LOSSES: list[Loss] = ["sigmoid", "sigmoid_norm", "apo_zero"]


def record(chosen: str, rejected: str, name: str = "r", question: str = "Why?") -> Pair:
    return Pair(id=name, question=question, chosen=chosen, rejected=rejected)


@pytest.fixture(scope="module")
def network() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        initializer_range=0.2, pad_token_id=EOS, eos_token_id=EOS,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def plain_sum(network: Any, prompt: list[int], target: list[int]) -> float:
    """One token after another, each row alone and unpadded."""
    logits = network(torch.tensor([prompt + target])).logits[0].double()
    return sum(float(logits[len(prompt) + place - 1].log_softmax(-1)[token]) for place, token in enumerate(target))


@settings(max_examples=25)
@given(st.lists(st.tuples(WORDS, WORDS, TEXT), min_size=1, max_size=4))
def test_log_probabilities_are_those_of_a_plain_loop_over_the_text_and_one_eos(
    network: Any, texts: list[tuple[str, str, str]]
) -> None:
    assert TOKENIZER.pad_token_id == EOS
    pairs = [build_pair(TOKENIZER, record(better, worse, question=question)) for question, better, worse in texts]
    sides = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    input_ids, _ = pad_right([side.input_ids for side in sides], EOS)
    labels, _ = pad_right([side.labels for side in sides], IGNORED)
    with torch.no_grad():
        sums, tokens = text_log_probs(network, input_ids, labels)
    for side, found, counted in zip(sides, sums.tolist(), tokens.tolist(), strict=True):
        prompt, target = side.input_ids[: -side.supervised], side.input_ids[-side.supervised :]
        assert target[-1] == EOS
        assert target.count(EOS) == 1
        assert counted == len(target)
        assert found == pytest.approx(plain_sum(network, prompt, target), abs=1e-3)


def test_the_first_differing_token_counts_even_at_the_very_start_of_the_texts(network: Any) -> None:
    pair = build_pair(TOKENIZER, record("yes", "no"))
    prompt = len(pair.chosen.input_ids) - pair.chosen.supervised
    assert pair.chosen.input_ids[:prompt] == pair.rejected.input_ids[:prompt]
    assert pair.chosen.labels[prompt] != pair.rejected.labels[prompt]
    assert {pair.chosen.labels[prompt], pair.rejected.labels[prompt]} & {IGNORED} == set()


@given(RATIO, RATIO, st.floats(0.01, 5))
def test_each_loss_is_the_written_out_formula(better: float, worse: float, beta: float) -> None:
    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    found = {
        kind: float(preference_loss(kind, *torch.tensor([[better], [worse]], dtype=torch.float64), beta))
        for kind in LOSSES
    }
    softplus = max(0.0, beta * (worse - better)) + math.log1p(math.exp(-abs(beta * (worse - better))))
    anchored = 1 - sigmoid(beta * better) + sigmoid(beta * worse)
    assert found["sigmoid"] == found["sigmoid_norm"] == pytest.approx(softplus, abs=1e-9)
    assert found["apo_zero"] == pytest.approx(anchored, abs=1e-9)


@given(RATIO, RATIO, st.floats(0, 1), st.sampled_from(LOSSES))
def test_a_belief_of_one_is_the_loss_itself_and_a_swapped_pair_has_the_opposite_belief(
    better: float, worse: float, confidence: float, kind: Loss
) -> None:
    one, other = torch.tensor([[better], [worse]], dtype=torch.float64)
    belief = torch.tensor([confidence], dtype=torch.float64)
    certain = expected_loss(kind, one, other, 0.1, torch.ones(1))
    assert torch.equal(certain, preference_loss(kind, one, other, 0.1))
    swapped = expected_loss(kind, other, one, 0.1, 1 - belief)
    torch.testing.assert_close(expected_loss(kind, one, other, 0.1, belief), swapped)


@pytest.mark.parametrize("confidence", [0.5, 0.7, 0.9])
def test_a_doubtful_pair_is_pushed_apart_to_its_belief_and_no_further(confidence: float) -> None:
    margins = torch.linspace(-5, 5, 10_001, dtype=torch.float64)
    losses = expected_loss("sigmoid", margins, torch.zeros(()), 1.0, torch.tensor(confidence))
    assert float(margins[losses.argmin()]) == pytest.approx(math.log(confidence / (1 - confidence)), abs=2e-3)


@given(WORDS, WORDS)
def test_texts_that_differ_in_outer_space_alone_are_identical_and_never_learnt_from(text: str, other: str) -> None:
    records = [record(text, f" {text}\n", "same"), record("kept", "a text", "kept")]
    if other.strip() != text.strip():
        records.append(record(text, other, "different"))
    found = select_pairs(TOKENIZER, records, 4096, "drop")
    assert found.identical == ["same"]
    assert [pair.record for pair in found.pairs] == [item.id for item in records[1:]]


def test_near_copies_and_over_long_pairs_are_left_out_by_name() -> None:
    answer = "one two three four five six seven eight nine ten"
    records = [record(answer.replace("ten", "TEN"), answer, "near"), record("other words", answer, "far"),
               record("x" * 500, answer, "long")]  # fmt: skip
    found = select_pairs(TOKENIZER, records, 300, "drop", min_edit=0.11)
    assert (found.near_copies, found.over_long) == (["near"], ["long"])
    assert [pair.record for pair in found.pairs] == ["far"]
    assert not select_pairs(TOKENIZER, records, 300, "drop", min_edit=0.09).near_copies


def test_an_over_long_pair_stops_the_run_where_the_recipe_says_so() -> None:
    with pytest.raises(UserError, match="pair long: is over max_length 100"):
        select_pairs(TOKENIZER, [record("a", "b"), record("x" * 200, "b", "long")], 100, "raise")


def test_when_no_pair_is_left_the_reasons_are_counted() -> None:
    with pytest.raises(UserError, match="none of 2 is left: 1 identical, 0 under min_edit, 1 over max_length 50"):
        select_pairs(TOKENIZER, [record("a", "a", "1"), record("b" * 99, "b", "2")], 50, "drop")
