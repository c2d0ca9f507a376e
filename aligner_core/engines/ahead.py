"""Tokenising ahead: the prompts that come next become token ids while others are decoded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

from aligner_core.engines.protocol import Prompt
from aligner_core.templates import batch_prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Ahead:
    """One thread with a tokenizer of its own: a fast tokenizer must not be used by two at once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._thread = ThreadPoolExecutor(1)
        self._coming: list[tuple[Sequence[Prompt], Future[list[list[int]]]]] = []

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Begin with these prompts."""
        conversations = [prompt.messages for prompt in prompts]
        self._coming.append((prompts, self._thread.submit(batch_prompt_ids, self._tokenizer, conversations)))

    def take(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The ids of these prompts, and room for the next ones; prompts that were not prepared are made now."""
        if not any(coming is prompts for coming, _ in self._coming):
            self.prepare(prompts)
        place = next(index for index, (coming, _) in enumerate(self._coming) if coming is prompts)
        return self._coming.pop(place)[1].result()
