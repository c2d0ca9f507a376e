"""Training examples: the target and one EOS are supervised, and nothing else."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from aligner_core.embedded_models import byte_tokenizer
from aligner_core.errors import UserError
from aligner_core.templates import conversation, correction_template, prompt_ids, target_ids
from aligner_core.training.examples import IGNORED, Example, build_example, within_length

TOKENIZER = byte_tokenizer()
EOS = int(TOKENIZER.eos_token_id)
TEXT = st.text(st.characters(codec="utf-8"))
WORDS = TEXT.filter(str.strip)


def answered(question: str, target: str) -> Example:
    return build_example(prompt_ids(TOKENIZER, conversation(question)), target_ids(TOKENIZER, target), EOS, "r")


def of_length(length: int, record: str = "r") -> Example:
    return build_example(range(length - 3), [7, 8], EOS, record)


@given(TEXT, TEXT, WORDS)
@example("", "", "0")
@example("né {x}", "a\n\nb", "  日本 \U0001f600\n")
def test_exactly_the_correction_and_one_eos_are_supervised(question: str, answer: str, correction: str) -> None:
    prompt = prompt_ids(TOKENIZER, correction_template("chat@1").messages(question, answer))
    item = build_example(prompt, target_ids(TOKENIZER, correction), EOS, "r")
    supervised = [label for label in item.labels if label != IGNORED]
    assert TOKENIZER.decode(supervised[:-1]) == correction.strip()
    assert supervised[-1] == EOS
    assert supervised.count(EOS) == 1
    assert item.supervised == len(supervised)
    assert len(item) == len(item.labels) == len(item.input_ids)
    assert item.input_ids[: len(prompt)] == prompt
    assert item.labels[: len(prompt)] == [IGNORED] * len(prompt)
    assert item.labels[len(prompt) :] == item.input_ids[len(prompt) :]


@given(st.lists(st.integers(0, 9)), st.lists(st.integers(0, 9)), st.integers(0, 9))
def test_the_mask_follows_from_lengths_whatever_the_ids(prompt: list[int], target: list[int], eos: int) -> None:
    item = build_example(prompt, target, eos, "r")
    assert item.input_ids == [*prompt, *target, eos]
    assert item.labels == [IGNORED] * len(prompt) + [*target, eos]


@settings(max_examples=30)
@given(st.lists(st.tuples(TEXT, WORDS), min_size=1, max_size=4))
def test_padding_a_batch_with_eos_hides_no_eos_and_adds_none(texts: list[tuple[str, str]]) -> None:
    assert TOKENIZER.pad_token_id == EOS
    items = [answered(question, target) for question, target in texts]
    collate = DataCollatorForLanguageModeling(pad_token_id=EOS)
    batch = collate([{"input_ids": item.input_ids, "labels": item.labels} for item in items])
    for item, labels, mask in zip(items, batch["labels"].tolist(), batch["attention_mask"].tolist(), strict=True):
        assert [label for label in labels if label != IGNORED] == item.labels[-item.supervised :]
        assert sum(mask) == len(item)


def test_an_over_long_example_is_dropped_whole_and_named() -> None:
    items = [of_length(10, "a"), of_length(11, "b"), of_length(4, "c"), of_length(99, "d")]
    kept, dropped = within_length(items, 10, "drop")
    assert kept == [items[0], items[2]]
    assert dropped == ["b", "d"]


def test_an_over_long_example_stops_the_run_where_the_recipe_says_so() -> None:
    items = [of_length(10, "a"), of_length(11, "b"), of_length(99, "d")]
    with pytest.raises(UserError) as caught:
        within_length(items, 10, "raise")
    assert [str(problem).splitlines()[0] for problem in caught.value.problems] == [
        "record b: has 11 tokens, over max_length 10",
        "record d: has 99 tokens, over max_length 10",
    ]
    assert all("training.max_length" in problem.fix for problem in caught.value.problems)


@pytest.mark.parametrize("over_long", ["drop", "raise"])
def test_what_fits_is_kept_in_order_under_both_policies(over_long: Literal["drop", "raise"]) -> None:
    items = [of_length(length, str(length)) for length in (9, 4, 10)]
    assert within_length(items, 10, over_long) == (items, [])


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(UserError, match="no example is within max_length 10"):
        within_length([of_length(11), of_length(12)], 10, "drop")


@pytest.mark.parametrize("target", ["", "  \n"])
@pytest.mark.parametrize("over_long", ["drop", "raise"])
def test_an_empty_target_is_refused_by_name(target: str, over_long: Literal["drop", "raise"]) -> None:
    empty = build_example([1, 2], target_ids(TOKENIZER, target), EOS, "row-7")
    with pytest.raises(UserError, match="row-7: has no text to learn"):
        within_length([of_length(9), empty], 10, over_long)
