"""Whether records survive the way to the trainer: template round trip, label masks, length in tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from aligner_core.errors import Problem
from aligner_core.records import Answer, Correction, Question
from aligner_core.templates import CorrectionTemplate, conversation, prompt_ids, target_ids
from aligner_core.training.examples import IGNORED, Example, build_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass
class TokenCheck:
    """`tokens` of each record, in order; ids of those over the limit; `problems` of the others."""

    tokens: list[int] = field(default_factory=list)
    over_long: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def check_tokens(
    records: Sequence[Question],
    tokenizer: PreTrainedTokenizerBase,
    template: CorrectionTemplate,
    max_length: int | None,
    where: str,
) -> TokenCheck:
    """Lay every record out as the Aligner's training does and look at the result.

    Args:
        where: the file, for the problems' locations.
    """
    result = TokenCheck()
    for record in records:
        prompt, asked = _prompt(record, tokenizer, template)
        target = target_ids(tokenizer, record.correction) if isinstance(record, Correction) else []
        example = build_example(prompt, target, tokenizer.eos_token_id, record.id)
        faults = [prompt_fault(tokenizer, prompt, asked)]
        if isinstance(record, Correction):
            faults.append(label_fault(tokenizer, example, len(prompt), record.correction))
        fix = "choose another template or model, or remove the record"
        result.problems += [Problem(f"{where}: record {record.id}", fault, fix) for fault in faults if fault]
        result.tokens.append(len(example) if isinstance(record, Correction) else len(prompt))
        if max_length and result.tokens[-1] > max_length:
            result.over_long.append(record.id)
    return result


def _prompt(
    record: Question, tokenizer: PreTrainedTokenizerBase, template: CorrectionTemplate
) -> tuple[list[int], list[str]]:
    """Token ids before the text to learn, and the texts that must be readable in them."""
    history = [turn.content for turn in record.history or ()]
    if isinstance(record, Answer):
        ids = prompt_ids(tokenizer, template.messages(record.question, record.answer, record.history))
        return ids, [*history, template.fill(record.question, record.answer)]
    return prompt_ids(tokenizer, conversation(record.question, record.history)), [*history, record.question]


def prompt_fault(tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int], asked: Sequence[str]) -> str | None:
    """What is wrong with a prompt: it must read, decoded, as what was laid out (frames may trim the ends)."""
    text = decoded(tokenizer, prompt)
    if all(part.strip() in text for part in asked):
        return None
    return "does not survive the template: its prompt decodes to another text"


def label_fault(
    tokenizer: PreTrainedTokenizerBase, example: Example, prompt_length: int, correction: str
) -> str | None:
    """What is wrong with an example's labels: exactly the correction and one EOS are to be supervised."""
    supervised = [label for label in example.labels if label != IGNORED]
    if example.labels[:prompt_length] != [IGNORED] * prompt_length:
        return "has supervised tokens before the correction"
    if len(supervised) <= 1:
        return "has no text to learn"
    if supervised[-1] != tokenizer.eos_token_id or tokenizer.eos_token_id in supervised[:-1]:
        return "does not end with its only EOS"
    if decoded(tokenizer, supervised[:-1]).strip() != correction.strip():
        return "is supervised on another text than its correction"
    return None


def decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
