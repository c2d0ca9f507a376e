"""Training examples as token ids: the target and one EOS are supervised, and nothing else. No torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from aligner_core.errors import Problem, UserError
from aligner_core.records import Question
from aligner_core.templates import conversation, prompt_ids, target_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """`labels` is `input_ids` where loss is taken, and -100 elsewhere. `record` names the record it came from.

    `weight` is what a token's loss counts, beside 1 for that of an example that nothing is known of.
    """

    input_ids: list[int]
    labels: list[int]
    record: str
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def supervised(self) -> int:
        return sum(label != IGNORED for label in self.labels)


def build_example(prompt: Sequence[int], target: Sequence[int], eos: int, record: str, weight: float = 1.0) -> Example:
    """Concatenate; the mask follows from the lengths, never from comparing ids (pad may equal EOS)."""
    return Example([*prompt, *target, eos], [IGNORED] * len(prompt) + [*target, eos], record, weight)


def reply_example(tokenizer: PreTrainedTokenizerBase, record: Question, text: str, weight: float = 1.0) -> Example:
    """The record's question, with the conversation before it, as the prompt, and `text` as its reply."""
    prompt = prompt_ids(tokenizer, conversation(record.question, record.history))
    return build_example(prompt, target_ids(tokenizer, text), int(tokenizer.eos_token_id), record.id, weight)


def longest_fitting(text: str, fits: Callable[[str], bool]) -> str | None:
    """The longest beginning of `text`, in characters, that fits; None if not even one character does."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(text[:middle].rstrip()):
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() or None


def length_histogram(examples: Iterable[Example]) -> dict[str, int]:
    """How many examples have how many tokens, in bins of powers of two."""
    bins = Counter(max(0, len(example) - 1).bit_length() for example in examples)
    return {f"{2 ** (size - 1) + 1 if size else 1}-{2**size}": bins[size] for size in sorted(bins)}


def within_length(
    examples: Iterable[Example], max_length: int, over_long: Literal["drop", "raise", "truncate_answer"]
) -> tuple[list[Example], list[str]]:
    """Apply the policy for over-long examples: nothing is cut here, and what a cut answer leaves too long is dropped.

    Returns:
        the examples that fit, and the records of those that were dropped.

    Raises:
        UserError: under `raise`, or if an example has no supervised token or nothing is left.
    """
    kept: list[Example] = []
    dropped: list[Example] = []
    for example in examples:
        if example.supervised <= 1:  # EOS alone
            raise UserError(Problem(f"record {example.record}", "has no text to learn", "remove it from the data"))
        (kept if len(example) <= max_length else dropped).append(example)
    fix = "raise training.max_length, or shorten the records"
    if dropped and over_long == "raise":
        raise UserError(
            Problem(f"record {item.record}", f"has {len(item)} tokens, over max_length {max_length}", fix)
            for item in dropped[:20]
        )
    if not kept:
        raise UserError(Problem("training data", f"no example is within max_length {max_length}", fix))
    return kept, [item.record for item in dropped]
