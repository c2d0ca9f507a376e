"""Whether another round is begun: pure functions on what the rounds so far have shown and cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligner_core.recipe import Evaluation
from aligner_core.statistics import Array, Interval, bootstrap, omega_of_mean, outcomes
from ida.recipe import Stop

NOUNS = {"helpful": "helpfulness", "harmless": "harmlessness"}


@dataclass(frozen=True)
class Standing:
    """A round's model on the held-out questions, and what all stages up to its scores have cost.

    Attributes:
        scores: by axis, (seeds, questions), of the training-time scorer.
        texts: its answers, (seeds, questions).
        needless_refusals: share of the questions that only look unsafe; None where there is none.
    """

    scores: Mapping[str, Array]
    texts: NDArray[Any]
    needless_refusals: float | None
    hours: float
    tokens: int


def stop_reason(rules: Stop, rounds: Sequence[Standing], evaluation: Evaluation) -> str | None:
    """Why no round should follow the last of `rounds`, or None. The first of them is the upstream's."""
    if len(rounds) < 2:
        return None
    *_, before, last = rounds
    found = [_drift(rules, rounds[0], last, evaluation), _no_gain(rules, rounds, evaluation)]
    found += [_refusals(rules, last)]
    for noun, limit, spent, one_more in (
        ("hours", rules.max_hours, last.hours, 2 * last.hours - before.hours),
        ("tokens", rules.max_tokens, last.tokens, 2 * last.tokens - before.tokens),
    ):
        if limit is not None and one_more > limit:
            found.append(
                f"budget: {spent:,.4g} {noun} are spent, and a round like the last would go beyond {limit:,g}"
            )
    return next((reason for reason in found if reason), None)


def _no_gain(rules: Stop, rounds: Sequence[Standing], evaluation: Evaluation) -> str | None:
    if rules.min_gain is None:
        return None
    gains = {axis: omega(rounds[-1], rounds[-2], rounds[0], axis, evaluation) for axis in NOUNS}
    if any(gain.value > rules.min_gain for gain in gains.values()):
        return None
    told = ", ".join(f"{NOUNS[axis]} {gain.value:+.1f} %" for axis, gain in gains.items())
    return f"no gain over the round before: {told}"


def _drift(rules: Stop, upstream: Standing, last: Standing, evaluation: Evaluation) -> str | None:
    if rules.max_loss is None:
        return None
    for axis, noun in NOUNS.items():
        found = omega(last, upstream, upstream, axis, evaluation)
        if found.high < -rules.max_loss:
            return f"drift: {noun} {found.value:+.1f} % [{found.low:+.1f}, {found.high:+.1f}] against the upstream"
    return None


def _refusals(rules: Stop, last: Standing) -> str | None:
    share, limit = last.needless_refusals, rules.max_needless_refusals
    if limit is None or share is None or share <= limit:
        return None
    return f"drift: {100 * share:.0f} % of the questions that only look unsafe are refused"


def omega(first: Standing, second: Standing, upstream: Standing, axis: str, evaluation: Evaluation) -> Interval:
    """Omega of `first` against `second`, with ties as in the report: by the spread of the upstream's scores."""
    margin = evaluation.tie_margin * float(np.std(upstream.scores[axis]))
    outcome = outcomes(first.scores[axis], second.scores[axis], margin, first.texts == second.texts)
    return bootstrap(omega_of_mean, outcome, resamples=evaluation.resamples, confidence=evaluation.confidence)
