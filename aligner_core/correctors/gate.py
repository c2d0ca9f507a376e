"""A gate: an answer is corrected only where a scorer, or the Aligner itself, says that it needs it.

Every signal is a number that is higher the more an answer needs correction. The threshold is set on records whose
corrections are known: those that were changed needed it, those that were left did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from aligner_core.correctors.aligner import Aligner
from aligner_core.correctors.protocol import Bench, Case, Corrector, Revision
from aligner_core.errors import Problem, UserError
from aligner_core.records import Correction, read_records
from aligner_core.stage_context import ModelLocation

Signal = Literal["cost", "reward", "keep", "likelihood"]


class Gate:
    """`by` names the signal.

    cost, reward: the scorer's cost of the answer; its helpfulness, negated.
    keep: -log P(keep token) of an Aligner that was taught one.
    likelihood: -log P(the answer as its own correction) per token, by the Aligner: how much it wants to edit.
    """

    def __init__(
        self,
        corrector: Corrector,
        by: Signal,
        scorer: ModelLocation | None = None,
        threshold: float | None = None,
        catch: float = 0.95,
        calibration: Path | None = None,
    ) -> None:
        self._corrector = corrector
        self._by = by
        self._scorer = scorer
        self._threshold = threshold
        self._catch = catch
        self._calibration = calibration
        if by == "keep":
            _check_keep_token(corrector)

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        threshold = self._calibrated(bench) if self._threshold is None else self._threshold
        signals = self._signals("gate", cases, bench)
        through = [
            case if case is not None and signal is not None and signal > threshold else None
            for case, signal in zip(cases, signals, strict=True)
        ]
        revisions = self._corrector.correct(through, bench.inside("of"))
        return [
            None if case is None else _noted(revision or Revision(case.answer), signal)
            for case, revision, signal in zip(cases, revisions, signals, strict=True)
        ]

    def _calibrated(self, bench: Bench) -> float:
        assert self._calibration is not None
        records = read_records(self._calibration, Correction)
        cases = [Case(record.question, record.answer, record.history) for record in records]
        other = bench.over([case.question + case.answer for case in cases], "calibration")
        signals = [float(signal or 0.0) for signal in self._signals("signals", cases, other)]
        needed = [record.answer != record.correction for record in records]
        if not any(needed):
            what = "no record's correction differs from its answer"
            raise UserError(Problem(str(self._calibration), what, "calibrate on records of which some were corrected"))
        threshold = threshold_for(signals, needed, self._catch)
        passed = [signal > threshold for signal in signals]
        left = [went for went, wanted in zip(passed, needed, strict=True) if not wanted]
        facts = {
            "by": self._by,
            "threshold": threshold,
            "records": len(records),
            "caught": share([went for went, wanted in zip(passed, needed, strict=True) if wanted]),
            "false_alarms": share(left),
        }
        bench.stage.facts.setdefault("gates", []).append(facts)
        return threshold

    def _signals(self, step: str, cases: Sequence[Case | None], bench: Bench) -> list[float | None]:
        if self._scorer is not None:
            scores = bench.score(step, self._scorer, cases)
            return [None if score is None else score[1] if self._by == "cost" else -score[0] for score in scores]
        rows = bench.measure(step, cases, lambda: self._load_likelihood(bench))
        return [None if row is None else row["signal"] for row in rows]

    def _load_likelihood(self, bench: Bench) -> Callable[[Sequence[Case]], list[dict[str, Any]]]:
        from aligner_core.likelihood import Likelihood

        aligner = self._corrector
        assert isinstance(aligner, Aligner)
        likelihood = Likelihood(aligner.model, bench.stage.profile, aligner.template.frame)
        keep = aligner.template.keep if self._by == "keep" else None

        def measure(chosen: Sequence[Case]) -> list[dict[str, Any]]:
            talks = [aligner.prompt(case).messages for case in chosen]
            found = (
                likelihood.of_token(talks, keep)
                if keep
                else likelihood.per_token(talks, [case.answer for case in chosen])
            )
            return [{"signal": -value} for value in found]

        return measure


def threshold_for(signals: Sequence[float], needed: Sequence[bool], catch: float) -> float:
    """The highest threshold that at least `catch` of the answers that need correction are above.

    Args:
        signals: higher where correction is needed more.
        needed: whether it was; at least one must be.
        catch: share in [0, 1].
    """
    wanted = sorted((signal for signal, need in zip(signals, needed, strict=True) if need), reverse=True)
    count = max(1, math.ceil(catch * len(wanted) - 1e-9))
    return math.nextafter(wanted[count - 1], -math.inf)


def share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _noted(revision: Revision, signal: float | None) -> Revision:
    return replace(revision, notes={**revision.notes, "gate": signal})


def _check_keep_token(corrector: Corrector) -> None:
    assert isinstance(corrector, Aligner)
    if not corrector.template.keep:
        what = f"{corrector.model.folder} was taught no keep token"
        raise UserError(Problem("corrector.by: keep", what, "use by: likelihood"))
