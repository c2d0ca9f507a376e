"""Statistics of comparisons between systems: omega, PGR, bootstrap intervals. Pure functions on arrays, no torch.

Scores of an experiment form a matrix (seeds, questions). Differences are paired by question. The bootstrap resamples
questions as clusters: a drawn question brings its scores under all seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A point estimate and its interval."""

    value: float
    low: float
    high: float

    def excludes(self, number: float) -> bool:
        return not self.low <= number <= self.high


@dataclass(frozen=True)
class Counts:
    """Outcomes for the first-named of two systems."""

    win: int
    tie: int
    lose: int


def outcomes(first: Array, second: Array, tie_margin: float, identical: NDArray[np.bool_]) -> Array:
    """+1, 0 or -1 per pair of scores: win, tie or loss of the first.

    A pair ties where the scores differ by at most `tie_margin`, or where the two texts are `identical`.
    """
    difference = np.where(identical, 0.0, first - second)
    return np.where(np.abs(difference) <= tie_margin, 0.0, np.sign(difference))


def count(outcome: Array) -> Counts:
    return Counts(int((outcome > 0).sum()), int((outcome == 0).sum()), int((outcome < 0).sum()))


def omega(win: float, tie: float, lose: float) -> float:
    """(win - lose) / (win + lose + tie), in percent (paper, equation 5)."""
    return 100.0 * (win - lose) / (win + tie + lose)


def pgr(floor: float, student: float, ceiling: float) -> float:
    """Performance gap recovered (Burns et al. 2023): 1 where the student reaches the ceiling. NaN without a gap."""
    gap = ceiling - floor
    return (student - floor) / gap if gap > 0 else float("nan")


def bootstrap(
    statistic: Callable[..., float],
    *matrices: Array,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over questions, the same questions drawn from all matrices.

    Args:
        statistic: takes matrices of shape (seeds, questions) like those given, returns a number.
        matrices: scores or outcomes, each (seeds, questions).

    Returns:
        the statistic of the data, and its interval; NaN values of resamples (no gap) are left out.
    """
    questions = matrices[0].shape[1]
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, questions, size=(resamples, questions))
    values = np.array([statistic(*(matrix[:, index] for matrix in matrices)) for index in drawn])
    values = values[np.isfinite(values)]
    point = float(statistic(*matrices))
    if not len(values):
        return Interval(point, float("nan"), float("nan"))
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(point, float(low), float(high))


def mean(matrix: Array) -> float:
    return float(matrix.mean())


def mean_difference(first: Array, second: Array) -> float:
    return float((first - second).mean())


def omega_of_outcomes(outcome: Array) -> float:
    """Omega of a matrix of outcomes."""
    counts = count(outcome)
    return omega(counts.win, counts.tie, counts.lose)


def pgr_of_means(floor: Array, student: Array, ceiling: Array) -> float:
    return pgr(float(floor.mean()), float(student.mean()), float(ceiling.mean()))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a proportion (Wilson 1927)."""
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
