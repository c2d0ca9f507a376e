"""The check finds what would silently spoil a training: a lossy tokenizer, wrong masks, over-long records."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from aligner_core.data_check import check_tokens, label_fault, prompt_fault
from aligner_core.embedded_models import local_folder
from aligner_core.records import Answer, Correction, Question, Turn
from aligner_core.templates import TEMPLATES, prepare_tokenizer, target_ids
from aligner_core.training.examples import IGNORED, build_example

TOKENIZER = prepare_tokenizer(AutoTokenizer.from_pretrained(local_folder("embedded:tiny-random")))
TEMPLATE = TEMPLATES["chat@1"]
EOS = TOKENIZER.eos_token_id
TEXTS = st.text(min_size=1, max_size=60).filter(lambda text: bool(text.strip()))
RECORD = Correction(id="r", question="Is tea safe?", answer="Yes.", correction="Yes, in moderation.")


@settings(max_examples=50)
@given(TEXTS, st.text(max_size=60), TEXTS)
def test_any_text_passes_with_a_tokenizer_of_bytes(question: str, answer: str, correction: str) -> None:
    record = Correction(id="r", question=question, answer=answer, correction=correction)
    assert check_tokens([record], TOKENIZER, TEMPLATE, None, "file").problems == []


def test_control_tokens_in_a_text_and_earlier_turns_pass() -> None:
    history = [Turn(role="user", content="Hi"), Turn(role="assistant", content=f"a{TOKENIZER.eos_token}b")]
    record = RECORD.model_copy(update={"history": history, "correction": f"x{TOKENIZER.eos_token}y"})
    assert check_tokens([record], TOKENIZER, TEMPLATE, None, "file").problems == []


def test_a_tokenizer_that_loses_text_is_found_with_its_record() -> None:
    class LowerCase:
        """Decodes without capitals, as uncased tokenizers do."""

        def __getattr__(self, name: str) -> Any:
            return getattr(TOKENIZER, name)

        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return TOKENIZER(*arguments, **options)

        def decode(self, ids: list[int], **options: Any) -> str:
            return str(TOKENIZER.decode(ids, **options)).lower()

    lossy: Any = LowerCase()
    found = check_tokens([RECORD], lossy, TEMPLATE, None, "data.jsonl")
    assert [problem.where for problem in found.problems] == ["data.jsonl: record r"] * 2
    assert "prompt decodes to another text" in found.problems[0].what
    assert "supervised on another text" in found.problems[1].what


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda labels, start: [labels[start], *labels[1:]], "before the correction"),
        (lambda labels, start: [IGNORED] * len(labels), "no text to learn"),
        (lambda labels, start: [*labels[:-1], IGNORED], "only EOS"),
        (lambda labels, start: [*labels[:-2], EOS, EOS], "only EOS"),
        (lambda labels, start: [*labels[:start], IGNORED, *labels[start + 1 :]], "another text"),
    ],
)
def test_every_wrong_mask_is_named(change: Any, fault: str) -> None:
    target = target_ids(TOKENIZER, RECORD.correction)
    example = build_example([1, 2, 3], target, EOS, "r")
    assert label_fault(TOKENIZER, example, 3, RECORD.correction) is None
    spoilt = replace(example, labels=change(example.labels, 3))
    assert fault in str(label_fault(TOKENIZER, spoilt, 3, RECORD.correction))


def test_a_prompt_that_lost_its_end_is_a_fault() -> None:
    ids = target_ids(TOKENIZER, "Question: Is tea safe?")
    assert prompt_fault(TOKENIZER, ids, ["Is tea safe? "]) is None
    assert prompt_fault(TOKENIZER, ids[:-1], ["Is tea safe? "])


def test_lengths_follow_the_order_and_over_long_records_are_named() -> None:
    records = [RECORD, RECORD.model_copy(update={"id": "long", "correction": "x" * 500})]
    found = check_tokens(records, TOKENIZER, TEMPLATE, 300, "file")
    assert found.over_long == ["long"]
    assert found.tokens[1] - found.tokens[0] == 500 - len(RECORD.correction)


def test_answers_and_questions_are_checked_up_to_their_prompt() -> None:
    records = [Question(id="q", question="Is tea safe?"), Answer(id="a", question="Is tea safe?", answer="Yes.")]
    found = check_tokens(records, TOKENIZER, TEMPLATE, None, "file")
    assert found.problems == []
    assert found.tokens[0] < found.tokens[1]
