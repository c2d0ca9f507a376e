"""Preference pairs as token ids, and which of them are worth learning from. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from aligner_core.edits import edit_ratio
from aligner_core.errors import Problem, UserError
from aligner_core.records import Pair
from aligner_core.templates import conversation, prompt_ids, target_ids
from aligner_core.training.examples import Example, build_example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PairExample:
    """One prompt, continued by the better and by the worse text, each with one EOS.

    `confidence` is the belief that the chosen one is the better.
    """

    chosen: Example
    rejected: Example
    confidence: float = 1.0

    def __len__(self) -> int:
        """Tokens of the longer text with its prompt."""
        return max(len(self.chosen), len(self.rejected))

    @property
    def record(self) -> str:
        return self.chosen.record

    @property
    def tokens(self) -> int:
        return len(self.chosen) + len(self.rejected)

    @property
    def supervised(self) -> int:
        return self.chosen.supervised + self.rejected.supervised


@dataclass
class Selection:
    """The pairs to learn from, and the records of those left out, by reason."""

    pairs: list[PairExample] = field(default_factory=list)
    identical: list[str] = field(default_factory=list)
    near_copies: list[str] = field(default_factory=list)
    over_long: list[str] = field(default_factory=list)


def build_pair(tokenizer: PreTrainedTokenizerBase, record: Pair) -> PairExample:
    """The prompt is made into ids once, so that both texts begin at the same place."""
    prompt = prompt_ids(tokenizer, conversation(record.question, record.history))
    eos = int(tokenizer.eos_token_id)
    chosen, rejected = (
        build_example(prompt, target_ids(tokenizer, text), eos, record.id) for text in (record.chosen, record.rejected)
    )
    return PairExample(chosen, rejected, record.confidence)


def select_pairs(
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Pair],
    max_length: int,
    over_long: Literal["drop", "raise", "truncate_answer"],
    min_edit: float = 0.0,
) -> Selection:
    """Leave out identical pairs, near-copies and over-long ones; nothing is ever cut.

    Args:
        min_edit: least edit distance in words, as a share of the rejected text's words.

    Raises:
        UserError: if a pair is too long and `over_long` does not say drop, or if nothing is left.
    """
    found = Selection()
    for record in records:
        pair = build_pair(tokenizer, record)
        if pair.chosen.input_ids == pair.rejected.input_ids:
            found.identical.append(record.id)
        elif edit_ratio(record.rejected, record.chosen) < min_edit:
            found.near_copies.append(record.id)
        elif len(pair) > max_length:
            found.over_long.append(record.id)
        else:
            found.pairs.append(pair)
    fix = "raise training.max_length, or shorten the records"
    if found.over_long and over_long != "drop":
        what = f"is over max_length {max_length}"
        raise UserError(Problem(f"pair {name}", what, fix) for name in found.over_long[:20])
    if not found.pairs:
        what = (
            f"none of {len(records)} is left: {len(found.identical)} identical, {len(found.near_copies)} under "
            f"min_edit, {len(found.over_long)} over max_length {max_length}"
        )
        raise UserError(Problem("pairs", what, "lower min_edit, raise training.max_length, or give other pairs"))
    return found
