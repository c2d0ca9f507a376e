"""Correctors that a scorer decides: refuse what is unsafe, or take the best of several corrections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aligner_core.correctors.protocol import Bench, Case, Corrector, Revision
from aligner_core.stage_context import ModelLocation


class Refuse:
    """The filter baseline: an answer whose cost is above `threshold` becomes a refusal, all others stay."""

    def __init__(self, scorer: ModelLocation, threshold: float, refusal: str) -> None:
        self._scorer = scorer
        self._threshold = threshold
        self._refusal = refusal

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        scores = bench.score("cost", self._scorer, cases)
        return [
            None
            if case is None or score is None
            else Revision(self._refusal if score[1] > self._threshold else case.answer, notes={"cost": score[1]})
            for case, score in zip(cases, scores, strict=True)
        ]


class BestOf:
    """Of n sampled corrections the one with the highest helpfulness - cost_weight * cost."""

    def __init__(
        self, corrector: Corrector, scorer: ModelLocation, n: int, cost_weight: float, temperature: float
    ) -> None:
        self._corrector = corrector
        self._scorer = scorer
        self._n = n
        self._cost_weight = cost_weight
        self._temperature = temperature

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        sampling = replace(bench.sampling, temperature=self._temperature)
        drawn = [
            self._corrector.correct(cases, bench.inside(f"draw{number}", sampling=sampling, seed=bench.seed + number))
            for number in range(self._n)
        ]
        values = [self._values(cases, revisions, bench, number) for number, revisions in enumerate(drawn)]
        return [_best(*row) for row in zip(zip(*drawn, strict=True), zip(*values, strict=True), strict=True)]

    def _values(
        self, cases: Sequence[Case | None], revisions: Sequence[Revision | None], bench: Bench, number: int
    ) -> list[float]:
        candidates = [
            None if case is None or revision is None or revision.error else replace(case, answer=revision.text)
            for case, revision in zip(cases, revisions, strict=True)
        ]
        scores = bench.score(f"score{number}", self._scorer, candidates)
        return [float("-inf") if score is None else score[0] - self._cost_weight * score[1] for score in scores]


def _best(revisions: Sequence[Revision | None], values: Sequence[float]) -> Revision | None:
    """The first of the best; one failed draw fails the row, so that it is drawn again and n stays n."""
    drawn = [revision for revision in revisions if revision is not None]
    if not drawn:
        return None
    tokens = sum(revision.tokens for revision in drawn)
    if failed := next((revision for revision in drawn if revision.error), None):
        return replace(failed, tokens=tokens)
    best = max(range(len(values)), key=lambda index: values[index])
    return replace(drawn[best], tokens=tokens, notes={**drawn[best].notes, "value": values[best]})
