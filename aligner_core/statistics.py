"""Statistics of comparisons between systems. Pure functions on arrays, no torch.

Scores of an experiment form a matrix (seeds, questions). Differences are paired by question, and a question with its
scores under all seeds is one cluster: the bootstrap draws whole questions, the permutation test swaps whole questions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

Array = NDArray[np.float64]
# As many drawn questions at a time as keep the arrays small (bytes).
CHUNK = 16_000_000


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


def pgr(floor: Array, student: Array, ceiling: Array) -> Array:
    """Performance gap recovered (Burns et al. 2023), elementwise: 1 where the student reaches the ceiling.

    NaN where the ceiling is not above the floor.
    """
    floor, student, ceiling = (np.asarray(value, dtype=float) for value in (floor, student, ceiling))
    gap = np.where(ceiling > floor, ceiling - floor, np.nan)
    return np.asarray((student - floor) / gap)


def bootstrap(
    statistic: Callable[..., Array],
    *matrices: Array,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over questions, the same questions drawn from all matrices.

    Args:
        statistic: a function of the matrices' means, elementwise: it takes one array per matrix, whose entries are
            the matrix's mean in each resample, and returns as many values.
        matrices: scores or outcomes, each (seeds, questions).

    Returns:
        the statistic of the data, and its interval; NaN values of resamples (no gap) are left out.
    """
    by_question = np.stack([matrix.mean(axis=0) for matrix in matrices], axis=1).astype(float)
    point = float(statistic(*by_question.mean(axis=0)))
    drawn = _times_drawn(len(by_question), resamples, seed)
    values = statistic(*(_product(drawn, by_question) / len(by_question)).T)
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(point, math.nan, math.nan)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return Interval(point, float(low), float(high))


def _product(drawn: NDArray[np.uint8], by_question: Array) -> Array:
    """drawn @ by_question in floating point, a part at a time."""
    step = max(1, CHUNK // (8 * drawn.shape[1]))
    parts = [drawn[start : start + step].astype(float) @ by_question for start in range(0, len(drawn), step)]
    return np.concatenate(parts)


# The random numbers of the last call are kept: all comparisons of a report share them.
@lru_cache(maxsize=1)
def _times_drawn(questions: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    """(resamples, questions): how often each question is drawn, with replacement.

    A count above 255 is impossible for up to 255 questions and, beyond, too improbable to ever be seen.
    """
    generator = np.random.default_rng(seed)
    drawn = np.empty((resamples, questions), np.uint8)
    for row in drawn:
        row[:] = np.bincount(generator.integers(0, questions, questions), minlength=questions)
    return drawn


@lru_cache(maxsize=1)
def _swaps(questions: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    """(resamples, questions): 1 where first and second change places."""
    return np.random.default_rng(seed).integers(0, 2, (resamples, questions), dtype=np.uint8)


def mean(values: Array) -> Array:
    """The statistic of one matrix's mean."""
    return values


def difference(first: Array, second: Array) -> Array:
    """The statistic of a paired difference of means."""
    return first - second


def omega_of_mean(outcome: Array) -> Array:
    """Omega in percent: the mean of outcomes +1, 0, -1."""
    return 100.0 * outcome


def permutation_test(first: Array, second: Array, resamples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p of "the two systems are interchangeable" for matrices (seeds, questions), paired by question.

    Which of the two is called first is swapped at random per question, under all its seeds at once; p is the share of
    swaps, the observed one among them, whose mean difference is at least as far from 0.
    """
    by_question = (first - second).mean(axis=0)
    swapped = by_question.sum() - 2 * _product(_swaps(len(by_question), resamples, seed), by_question)
    # Sums in another order differ in their last bits; a tie with the observed one must still count.
    rounding = 1e-9 * float(np.abs(by_question).sum())
    extreme = int((np.abs(swapped) >= abs(by_question.sum()) - rounding).sum())
    return (1 + extreme) / (1 + resamples)


def length_controlled_omega(
    outcome: Array, first_length: Array, second_length: Array, resamples: int = 2000, confidence: float = 0.95
) -> Interval:
    """Omega at equal lengths, in percent: what is left of omega when the two texts are equally long.

    The idea is that of length-controlled AlpacaEval (Dubois et al. 2024): regress the outcome on the difference in
    length, and read the prediction where that difference is 0. Theirs is a logistic model of a judge's preference;
    outcomes here have ties, so this one is linear, fitted by least squares per resample:

        outcome = omega / 100 + slope * tanh((first length - second length) / deviation) + error

    with `deviation` the standard deviation of the length differences. tanh keeps a few very long answers from
    deciding the slope. Where the lengths never differ, it is the plain omega.

    Args:
        outcome: +1, 0, -1, (seeds, questions).
        first_length, second_length: in any unit, (seeds, questions).
    """
    lengths = np.asarray(first_length, dtype=float) - np.asarray(second_length, dtype=float)
    longer = np.tanh(lengths / (lengths.std() or 1.0))
    return bootstrap(
        _intercept, outcome, longer, outcome * longer, longer**2, resamples=resamples, confidence=confidence
    )


def _intercept(outcome: Array, longer: Array, product: Array, square: Array) -> Array:
    """100 x the intercept of a simple regression, from first and second moments."""
    variance = square - longer**2
    covariance = product - outcome * longer
    slope = np.where(variance > 1e-12, covariance / np.maximum(variance, 1e-12), 0.0)
    return np.asarray(100.0 * (outcome - slope * longer))


def elo(omega_against_reference: float, reference: float = 1500.0) -> float:
    """Elo of a system from its omega (percent) against a reference: a win probability of (1 + omega) / 2.

    Infinite for a system that wins, or loses, every time.
    """
    share = (1 + omega_against_reference / 100) / 2
    if share in (0.0, 1.0):
        return math.copysign(math.inf, share - 0.5)
    return reference + 400 * math.log10(share / (1 - share))


def elo_as_published(omega_of_reference: float, reference: float = 1500.0) -> float:
    """Elo of a system from the *reference's* omega against it, as the paper's Figure 3 has it for the 50 % warm-up.

    There the win probability is 0.5 / (1 + omega), which is above (1 - omega) / 2 and so flatters the system;
    `elo(-omega_of_reference)` treats both sides alike. Defined for omegas above -50 %.
    """
    share = 0.5 / (1 + omega_of_reference / 100)
    return reference + 400 * math.log10(share / (1 - share))


def questions_needed(effect: float, tie_share: float, power: float = 0.8, confidence: float = 0.95) -> int:
    """How many questions tell an omega of `effect` percent from 0, in a two-sided test, with probability `power`.

    Normal approximation for a mean of outcomes +1, 0, -1, whose variance is (1 - tie_share) - omega^2.

    Raises:
        ValueError: if there is no effect, or more of it than `tie_share` leaves room for.
    """
    share = abs(effect) / 100
    if not 0 < share <= 1 - tie_share:
        raise ValueError(f"an omega of {effect} % cannot be with {100 * tie_share:.0f} % ties")
    certain, likely = float(norm.ppf(0.5 + confidence / 2)), float(norm.ppf(power))
    variance_without, variance_with = 1 - tie_share, 1 - tie_share - share**2
    return math.ceil(((certain * math.sqrt(variance_without) + likely * math.sqrt(variance_with)) / share) ** 2)


def detectable_omega(questions: int, tie_share: float, power: float = 0.8, confidence: float = 0.95) -> float | None:
    """The omega in percent that so many questions tell from 0 with probability `power`; None where none would do."""
    certain, likely = float(norm.ppf(0.5 + confidence / 2)), float(norm.ppf(power))
    variance = 1 - tie_share

    def surplus(share: float) -> float:
        needed = certain * math.sqrt(variance) + likely * math.sqrt(variance - share**2)
        return share * math.sqrt(questions) - needed

    if variance <= 0 or surplus(variance) < 0:
        return None
    return 100 * float(brentq(surplus, 0.0, variance))


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a proportion (Wilson 1927)."""
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
