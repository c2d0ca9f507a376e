"""How much a stage has to do, for planning: sizes known before anything runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from aligner_core.recipe import Shape


@dataclass(frozen=True)
class Light:
    """Reading, splitting, reporting: seconds, and little memory."""


@dataclass(frozen=True)
class TrainingWork:
    """Training of `shape` on `examples` of `tokens_each` tokens (of which `supervised_each` carry loss).

    `trainable_share` is the share of the layers, from the last, that is trained; `lora_rank` that of adapters instead.
    """

    sequences: ClassVar[int] = 1  # of an example
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
class PreferenceWork(TrainingWork):
    """DPO. An example is a pair: two sequences of `tokens_each` tokens, both in one step.

    The reference's log-probabilities are a stage of their own (`ScoringWork` with logits), so no second model is held.
    """

    sequences: ClassVar[int] = 2


@dataclass(frozen=True)
class PolicyWork:
    """PPO: `policy` and `value` are trained; the reference, which has the policy's shape, and `scores` (the reward
    and cost models) are frozen.

    An iteration answers `prompts` questions and passes `updates` times over the rollouts in steps of `global_batch`.
    A rollout has `prompt_tokens` and `new_tokens` on average, and at most `longest` together. `label_tokens` are
    those of a weak label in the PTX mix, 0 without one. `lora_rank` is that of the policy's adapters.
    """

    policy: Shape
    value: Shape
    scores: tuple[Shape, ...]
    iterations: int
    prompts: int
    prompt_tokens: int
    new_tokens: int
    longest: int
    global_batch: int
    updates: int = 1
    label_tokens: int = 0
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
    """Forward passes over `rows` sequences by each of the models, all in memory, with logits for `logits_each` tokens
    of each sequence."""

    shapes: tuple[Shape, ...]
    rows: int
    tokens_each: int
    logits_each: int = 0


Step = Light | TrainingWork | PolicyWork | GenerationWork | EndpointWork | ScoringWork


@dataclass(frozen=True)
class Steps:
    """One after another in one stage, each with its own model."""

    steps: tuple[Step, ...]


Work = Step | Steps
