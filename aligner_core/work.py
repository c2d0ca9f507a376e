"""How much a stage has to do, for planning: sizes known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from aligner_core.recipe import Shape


@dataclass(frozen=True)
class Light:
    """Reading, splitting, reporting: seconds, and little memory."""


@dataclass(frozen=True)
class TrainingWork:
    """Training of `shape` on `examples` of `tokens_each` tokens (of which `supervised_each` carry loss).

    `trainable_share` is the share of the layers, from the last, that is trained; `lora_rank` that of adapters instead.
    """

    shape: Shape
    examples: int
    tokens_each: int
    supervised_each: int
    epochs: float
    global_batch: int
    max_length: int
    trainable_share: float = 1.0
    lora_rank: int | None = None


@dataclass(frozen=True)
class GenerationWork:
    """Decoding of `rows` sequences."""

    shape: Shape
    rows: int
    prompt_tokens: int
    new_tokens: int
    longest: int


@dataclass(frozen=True)
class EndpointWork:
    """Decoding of `rows` sequences by a model that others serve."""

    rows: int
    prompt_tokens: int
    new_tokens: int


@dataclass(frozen=True)
class ScoringWork:
    """One forward pass over `rows` sequences."""

    shape: Shape
    rows: int
    tokens_each: int


Step = Light | TrainingWork | GenerationWork | EndpointWork | ScoringWork


@dataclass(frozen=True)
class Steps:
    """One after another in one stage, each with its own model."""

    steps: tuple[Step, ...]


Work = Step | Steps
