"""The one thing every engine does, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aligner_core.recipe import Generation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from aligner_core.stage_context import ModelLocation, StageContext


@dataclass(frozen=True)
class Sampling:
    """Decoding settings; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


@dataclass(frozen=True)
class Completion:
    """Generated ids without EOS; `finished` is False where the length limit cut the text."""

    token_ids: tuple[int, ...]
    finished: bool


class Engine(Protocol):
    """Generates one completion per prompt, in order. The same prompts in the same order and seed give the same."""

    tokenizer: PreTrainedTokenizerBase

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]: ...

    def close(self) -> None: ...


def sampling_of(generation: Generation) -> Sampling:
    """The recipe's preset (paper, Table 19 for `published`)."""
    if generation.preset == "greedy":
        return Sampling(generation.max_new_tokens)
    return Sampling(generation.max_new_tokens, temperature=0.5, top_k=10, top_p=0.95, repetition_penalty=1.1)


def open_engine(stage: StageContext, model: ModelLocation) -> Engine:
    """The engine that the profile names, with the model loaded."""
    if stage.profile.generation.engine == "vllm":
        from aligner_core.engines.vllm_engine import VllmEngine

        return VllmEngine(model, stage.profile)
    from aligner_core.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, stage.profile)
