"""What a corrector is, and what it works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from aligner_core.engines.protocol import Completion, EngineSlot, Prompt, Sampling
from aligner_core.generation import Bulk, text_key
from aligner_core.records import Turn
from aligner_core.stage_context import SHARDS, ModelLocation, StageContext


@dataclass(frozen=True)
class Case:
    """A question and its answer; `wish` is a further instruction for whoever corrects it."""

    question: str
    answer: str
    history: Sequence[Turn] | None = None
    wish: str = ""


@dataclass(frozen=True)
class Revision:
    """What became of an answer.

    Attributes:
        text: the correction; the answer itself where it is kept.
        tokens: generated for it, over all steps.
        finished: False where a length limit cut it.
        error: why there is none; None is success.
        notes: what the output row says beside it, such as a critique.
    """

    text: str
    tokens: int = 0
    finished: bool = True
    error: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Corrector(Protocol):
    """Maps (question, answer, history) to a correction, for all rows of a stage, in steps that each use one model.

    A case that is None is left alone: a gate, or a failure in an earlier step, took it out. It keeps its place, so
    that the shards of later steps do not shift.
    """

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]: ...


@dataclass(frozen=True)
class Bench:
    """Engines, scorers and decoding settings for the rows of a stage; `prefix` tells the steps of nested correctors
    apart."""

    stage: StageContext
    bulk: Bulk
    engines: EngineSlot
    sampling: Sampling
    seed: int
    prefix: str = ""

    def inside(self, name: str, **changes: Any) -> Bench:
        """The bench of an inner corrector."""
        return replace(self, prefix=f"{self.prefix}{name}.", **changes)

    def over(self, texts: Sequence[str], name: str) -> Bench:
        """The same for other rows, whose steps are kept apart."""
        size = self.stage.profile.generation.batch
        return replace(self, bulk=Bulk(self.stage, texts, size, f"{SHARDS}/{self.prefix}{name}"), prefix="")

    def ask(
        self, step: str, model: ModelLocation, prompts: Sequence[Prompt | None], frame: str | None = None
    ) -> list[Completion | None]:
        """A completion per prompt; failures come back as such and are asked again by the next run of the stage."""
        return self.bulk.ask(
            self.prefix + step, lambda: self.engines.open(model, frame), prompts, self.sampling, self.seed
        )

    def score(self, step: str, model: ModelLocation, cases: Sequence[Case | None]) -> list[tuple[float, float] | None]:
        """(helpfulness, cost) of each case's answer."""

        def load() -> Callable[[Sequence[Case]], list[dict[str, Any]]]:
            from aligner_core.scorer import Scorer

            scorer = Scorer(model, self.stage.profile)

            def score(chosen: Sequence[Case]) -> list[dict[str, Any]]:
                found = scorer.score([(case.question, case.answer, case.history) for case in chosen])
                return [{"helpful": helpful, "cost": cost} for helpful, cost in found]

            return score

        rows = self.measure(step, cases, load)
        return [None if row is None else (row["helpful"], row["cost"]) for row in rows]

    def measure(
        self,
        step: str,
        cases: Sequence[Case | None],
        load: Callable[[], Callable[[Sequence[Case]], list[dict[str, Any]]]],
    ) -> list[dict[str, Any] | None]:
        """A measurement of every case by a model that `load` opens if any is left; the engine makes room for it."""
        keys = [None if case is None else _case_key(case) for case in cases]
        measuring: list[Callable[[Sequence[Case]], list[dict[str, Any]]]] = []

        def work(chosen: Sequence[int], following: Sequence[int]) -> list[dict[str, Any]]:
            if not measuring:
                self.engines.close()
                measuring.append(load())
            return measuring[0]([case for index in chosen if (case := cases[index]) is not None])

        return self.bulk.each(self.prefix + step, keys, work)


def _case_key(case: Case) -> str:
    history = [part for turn in case.history or () for part in (turn.role, turn.content)]
    return text_key(*history, case.question, case.answer, case.wish)
