"""Comparisons between systems: golden values of the paper, properties, and the coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aligner_core.statistics import (
    Array,
    Counts,
    Interval,
    bootstrap,
    count,
    mean,
    mean_difference,
    omega,
    omega_of_outcomes,
    outcomes,
    pgr,
    pgr_of_means,
    wilson_interval,
)

COUNTS = st.tuples(*[st.integers(0, 1000)] * 3).filter(any)
SCORES = st.floats(-100, 100)
PAIRS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[arrays(np.float64, (1, n), elements=SCORES)] * 2, arrays(np.bool_, (1, n)))
)


@pytest.mark.parametrize(
    ("win", "tie", "lose", "percent"),
    [
        # Aligner paper (Feb-Mar 2024 manuscript), IDA table: Alpaca-7B, Alpaca2-13B, Alpaca2-70B.
        (372, 326, 2, 52.9), (224, 320, 146, 11.3), (534, 166, 0, 76.3), (165, 63, 446, -41.7), (256, 140, 303, -6.7),
        (337, 282, 61, 40.6), (260, 164, 276, -2.3), (244, 83, 373, -18.4), (341, 16, 332, 1.3), (575, 107, 18, 79.6),
        (327, 304, 59, 38.8), (140, 121, 438, -42.6), (108, 39, 553, -63.6), (27, 672, 1, 3.7), (364, 21, 314, 7.2),
    ],
)  # fmt: skip
def test_omega_reproduces_the_papers_cells(win: int, tie: int, lose: int, percent: float) -> None:
    assert round(omega(win, tie, lose), 1) == percent
    outcome = np.array([[1.0] * win + [0.0] * tie + [-1.0] * lose])
    assert round(omega_of_outcomes(outcome), 1) == percent


@given(COUNTS)
def test_omega_is_between_its_ends_and_turns_its_sign_with_the_sides(counts: tuple[int, int, int]) -> None:
    win, tie, lose = counts
    assert -100 <= omega(win, tie, lose) <= 100
    assert omega(lose, tie, win) == -omega(win, tie, lose)


@given(COUNTS)
def test_omega_grows_with_a_win_and_shrinks_towards_zero_with_a_tie(counts: tuple[int, int, int]) -> None:
    win, tie, lose = counts
    assert omega(win + 1, tie, lose) >= omega(win, tie, lose)
    assert abs(omega(win, tie + 1, lose)) <= abs(omega(win, tie, lose))


@given(SCORES, SCORES, st.floats(0.1, 10), st.floats(-10, 10))
def test_pgr_is_the_place_between_floor_and_ceiling_on_any_scale(
    floor: float, gap: float, scale: float, share: float
) -> None:
    assume(gap > 0.01)
    ceiling, student = floor + gap, floor + share * gap
    assert pgr(floor, student, ceiling) == pytest.approx(share, abs=1e-6)
    assert pgr(scale * floor + 3, scale * student + 3, scale * ceiling + 3) == pytest.approx(share, abs=1e-6)


@given(SCORES, SCORES, st.floats(0, 100))
def test_pgr_without_a_gap_is_not_a_number(floor: float, student: float, below: float) -> None:
    assert math.isnan(pgr(floor, student, floor - below))


@given(PAIRS, st.floats(0, 50))
def test_outcomes_are_antisymmetric_and_identical_texts_tie(
    pairs: tuple[Array, Array, np.ndarray], margin: float
) -> None:
    first, second, identical = pairs
    outcome = outcomes(first, second, margin, identical)
    assert set(np.unique(outcome)) <= {-1.0, 0.0, 1.0}
    assert (outcome[identical] == 0).all()
    assert (outcomes(second, first, margin, identical) == -outcome).all()


@given(PAIRS, st.floats(0, 50))
def test_a_pair_ties_exactly_within_the_margin(pairs: tuple[Array, Array, np.ndarray], margin: float) -> None:
    first, second, identical = pairs
    outcome = outcomes(first, second, margin, np.zeros_like(identical))
    for one, other, said in zip(first.flat, second.flat, outcome.flat, strict=True):
        assert said == (0 if abs(one - other) <= margin else 1 if one > other else -1)


@given(PAIRS, st.floats(0, 50))
def test_counts_give_the_same_omega_as_the_outcomes(pairs: tuple[Array, Array, np.ndarray], margin: float) -> None:
    outcome = outcomes(*pairs[:2], margin, pairs[2])
    counts = count(outcome)
    assert counts.win + counts.tie + counts.lose == outcome.size
    assert omega(counts.win, counts.tie, counts.lose) == pytest.approx(omega_of_outcomes(outcome))


def test_counts_are_of_the_first_named() -> None:
    assert count(np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])) == Counts(win=3, tie=2, lose=1)


@given(arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 20)), elements=SCORES), st.integers(0, 5))
def test_a_bootstrap_interval_lies_in_the_datas_range_and_is_repeatable(matrix: Array, seed: int) -> None:
    interval = bootstrap(mean, matrix, resamples=100, seed=seed)
    assert interval.value == matrix.mean()
    assert matrix.min() - 1e-9 <= interval.low <= interval.high <= matrix.max() + 1e-9
    assert interval == bootstrap(mean, matrix, resamples=100, seed=seed)


@given(SCORES, st.integers(1, 20))
def test_scores_without_spread_have_an_interval_without_width(value: float, questions: int) -> None:
    interval = bootstrap(mean, np.full((2, questions), value), resamples=100)
    assert interval.low == pytest.approx(value)
    assert interval.high == pytest.approx(value)


def test_a_difference_is_paired_by_question() -> None:
    hard = np.random.default_rng(0).normal(0, 10, (1, 200))
    interval = bootstrap(mean_difference, hard + 0.5, hard)
    assert (interval.low, interval.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_repeating_the_seeds_does_not_narrow_the_interval() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 100))
    once, often = bootstrap(mean, scores), bootstrap(mean, np.repeat(scores, 5, axis=0))
    assert often.high - often.low == pytest.approx(once.high - once.low)


def test_more_confidence_is_a_wider_interval() -> None:
    scores = np.random.default_rng(0).normal(size=(1, 50))
    narrow, wide = (bootstrap(mean, scores, confidence=confidence) for confidence in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


@pytest.mark.parametrize("seeds", [1, 3])
def test_bootstrap_intervals_cover_the_true_mean_as_often_as_they_say(seeds: int) -> None:
    generator = np.random.default_rng(seeds)
    covered = 0
    for experiment in range(500):
        questions = generator.normal(1.0, 1.0, 100)
        scores = questions + generator.normal(0.0, 0.5, (seeds, 100))
        covered += not bootstrap(mean, scores, resamples=300, seed=experiment).excludes(1.0)
    assert 0.93 <= covered / 500 <= 0.97


def test_resamples_without_a_gap_are_left_out_of_a_pgr_interval() -> None:
    generator = np.random.default_rng(0)
    floor, student, ceiling = generator.normal([[0.0], [0.5], [0.3]], 1.0, (3, 10))[:, None, :]
    interval = bootstrap(pgr_of_means, floor, student, ceiling, resamples=500)
    assert math.isfinite(interval.low)
    assert math.isfinite(interval.high)


def test_a_pgr_without_any_gap_has_no_interval() -> None:
    interval = bootstrap(pgr_of_means, np.ones((1, 5)), np.ones((1, 5)), np.zeros((1, 5)), resamples=100)
    assert all(math.isnan(number) for number in (interval.value, interval.low, interval.high))


def test_pgr_of_means_is_over_all_seeds_and_questions() -> None:
    floor, student, ceiling = np.zeros((2, 2)), np.array([[1.0, 2.0], [3.0, 2.0]]), np.full((2, 2), 4.0)
    assert pgr_of_means(floor, student, ceiling) == 0.5


def test_an_interval_excludes_what_lies_outside_it() -> None:
    interval = Interval(1.0, 0.5, 1.5)
    assert [interval.excludes(number) for number in (0.4, 0.5, 1.0, 1.5, 1.6)] == [True, False, False, False, True]


@given(st.integers(1, 500).flatmap(lambda trials: st.tuples(st.integers(0, trials), st.just(trials))))
def test_a_wilson_interval_holds_the_share_and_mirrors_with_failure(case: tuple[int, int]) -> None:
    successes, trials = case
    low, high = wilson_interval(successes, trials)
    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1
    mirrored = wilson_interval(trials - successes, trials)
    assert mirrored == (pytest.approx(1 - high, abs=1e-9), pytest.approx(1 - low, abs=1e-9))


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (29, 29, 0.8830, 1.0)],
)
def test_wilson_intervals_are_newcombes(successes: int, trials: int, low: float, high: float) -> None:
    """Newcombe (1998), Table I, method 3."""
    assert wilson_interval(successes, trials) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
