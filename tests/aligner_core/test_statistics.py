"""Comparisons between systems: golden values of the paper, properties, and the coverage of intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from aligner_core.statistics import (
    Array,
    Counts,
    Interval,
    bootstrap,
    count,
    detectable_omega,
    difference,
    elo,
    elo_as_published,
    length_controlled_omega,
    mean,
    omega,
    omega_of_mean,
    outcomes,
    permutation_test,
    pgr,
    questions_needed,
    wilson_interval,
)

COUNTS = st.tuples(*[st.integers(0, 1000)] * 3).filter(any)
SCORES = st.floats(-100, 100)
PAIRS = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[arrays(np.float64, (1, n), elements=SCORES)] * 2, arrays(np.bool_, (1, n)))
)


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
    assert omega(counts.win, counts.tie, counts.lose) == pytest.approx(omega_of_mean(outcome.mean()))


def test_counts_are_of_the_first_named() -> None:
    assert count(np.array([[1.0, 1.0, 0.0], [-1.0, 1.0, 0.0]])) == Counts(win=3, tie=2, lose=1)


@given(arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 20)), elements=SCORES), st.integers(0, 5))
def test_a_bootstrap_interval_lies_in_the_datas_range_and_is_repeatable(matrix: Array, seed: int) -> None:
    interval = bootstrap(mean, matrix, resamples=100, seed=seed)
    assert interval.value == pytest.approx(matrix.mean())
    assert matrix.min() - 1e-9 <= interval.low <= interval.high <= matrix.max() + 1e-9
    assert interval == bootstrap(mean, matrix, resamples=100, seed=seed)


@given(SCORES, st.integers(1, 20))
def test_scores_without_spread_have_an_interval_without_width(value: float, questions: int) -> None:
    interval = bootstrap(mean, np.full((2, questions), value), resamples=100)
    assert interval.low == pytest.approx(value)
    assert interval.high == pytest.approx(value)


def test_a_difference_is_paired_by_question() -> None:
    hard = np.random.default_rng(0).normal(0, 10, (1, 200))
    interval = bootstrap(difference, hard + 0.5, hard)
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
    interval = bootstrap(pgr, floor, student, ceiling, resamples=500)
    assert math.isfinite(interval.low)
    assert math.isfinite(interval.high)


def test_a_pgr_without_any_gap_has_no_interval() -> None:
    interval = bootstrap(pgr, np.ones((1, 5)), np.ones((1, 5)), np.zeros((1, 5)), resamples=100)
    assert all(math.isnan(number) for number in (interval.value, interval.low, interval.high))


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


OUTCOMES = st.tuples(st.integers(1, 3), st.integers(2, 40)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([-1.0, 0.0, 1.0]))
)


def simulated(generator: np.random.Generator, seeds: int, questions: int, true_omega: float) -> Array:
    """Outcomes of which a third tie, alike within a question over the seeds, whose expectation is `true_omega`."""
    leaning = np.clip(
        generator.normal(true_omega / 100, 0.2, questions), true_omega / 100 - 0.6, true_omega / 100 + 0.6
    )
    win = (2 / 3 + leaning) / 2
    drawn = generator.random((seeds, questions))
    return np.where(drawn < win, 1.0, np.where(drawn < 2 / 3, -1.0, 0.0))


@pytest.mark.parametrize("seeds", [1, 3])
def test_omega_intervals_cover_the_true_omega_as_often_as_they_say(seeds: int) -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for experiment in range(500):
        outcome = simulated(generator, seeds, 150, 5.0)
        covered += not bootstrap(omega_of_mean, outcome, resamples=300, seed=experiment).excludes(5.0)
    assert 0.93 <= covered / 500 <= 0.97


def test_pgr_intervals_cover_the_true_share_as_often_as_they_say() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for experiment in range(500):
        questions = generator.normal(0, 1, 200)
        floor, student, ceiling = (
            questions + generator.normal(shift, 0.7, (2, 200)) for shift in (0.0, 0.6, 1.0)
        )  # fmt: skip
        covered += not bootstrap(pgr, floor, student, ceiling, resamples=300, seed=experiment).excludes(0.6)
    assert 0.93 <= covered / 500 <= 0.97


@given(PAIRS)
def test_the_permutation_test_does_not_mind_which_system_comes_first(pairs: tuple[Array, Array, np.ndarray]) -> None:
    first, second, _ = pairs
    forward, backward = (permutation_test(*sides, resamples=200) for sides in ((first, second), (second, first)))
    assert forward == backward
    assert 0 < forward <= 1


@pytest.mark.parametrize("shift", [0.0, 0.5, 1.0])
def test_the_permutation_test_agrees_with_scipys_exact_one(shift: float) -> None:
    first, second = np.random.default_rng(3).normal([[shift], [0.0]], 1.0, (2, 12))
    exact = scipy.stats.permutation_test(
        (first, second), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", n_resamples=np.inf
    )
    assert permutation_test(first[None], second[None], resamples=20_000) == pytest.approx(exact.pvalue, abs=0.015)


def test_systems_without_a_difference_are_rejected_as_often_as_the_level_says() -> None:
    generator = np.random.default_rng(4)
    rejected = sum(
        permutation_test(*generator.normal(size=(2, 2, 60)), resamples=400) <= 0.05 for _ in range(500)
    )  # fmt: skip
    assert 0.03 <= rejected / 500 <= 0.07


def test_repeating_the_seeds_does_not_lower_the_p_value() -> None:
    first, second = np.random.default_rng(1).normal(size=(2, 1, 50))
    repeated = permutation_test(np.repeat(first, 4, 0), np.repeat(second, 4, 0))
    assert repeated == pytest.approx(permutation_test(first, second), abs=0.01)


@given(OUTCOMES)
def test_without_a_difference_in_length_the_length_controlled_omega_is_the_plain_one(outcome: Array) -> None:
    lengths = np.full_like(outcome, 80)
    controlled = length_controlled_omega(outcome, lengths, lengths, resamples=100)
    assert controlled.value == pytest.approx(100 * outcome.mean())


@given(OUTCOMES, st.integers(0, 100))
def test_the_length_controlled_omega_turns_its_sign_with_the_sides(outcome: Array, seed: int) -> None:
    first, second = np.random.default_rng(seed).integers(1, 300, (2, *outcome.shape)).astype(float)
    forward = length_controlled_omega(outcome, first, second, resamples=100)
    backward = length_controlled_omega(-outcome, second, first, resamples=100)
    assert (backward.value, backward.low) == (pytest.approx(-forward.value), pytest.approx(-forward.high))


def test_an_advantage_that_is_all_length_vanishes_and_one_that_is_not_stays() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(150, 30, (1, 4000)), generator.normal(120, 30, (1, 4000))
    longer = np.tanh((first - second) / (first - second).std())
    only_length = np.where(generator.random((1, 4000)) < (1 + longer) / 2, 1.0, -1.0)
    assert 100 * only_length.mean() > 25
    assert not length_controlled_omega(only_length, first, second).excludes(0.0)
    real = np.where(generator.random((1, 4000)) < (1.4 + 0.5 * longer) / 2, 1.0, -1.0)
    assert not length_controlled_omega(real, first, second).excludes(40.0)
    assert bootstrap(omega_of_mean, real).excludes(40.0)


@given(st.floats(-99, 99))
def test_elo_mirrors_around_the_reference_and_grows_with_omega(percent: float) -> None:
    assert elo(percent) - 1500 == pytest.approx(1500 - elo(-percent))
    assert elo(percent) < elo(percent + 1) or percent > 98


def test_elo_of_one_who_always_or_never_wins_has_no_end() -> None:
    assert (elo(100), elo(-100), elo(0)) == (math.inf, -math.inf, 1500)


@given(st.floats(-49, 99))
def test_the_published_conversion_never_disadvantages(percent: float) -> None:
    assert elo_as_published(percent) >= elo(-percent) - 1e-9


@given(st.floats(1, 60), st.floats(0, 0.3))
def test_a_larger_effect_needs_fewer_questions_and_more_power_needs_more(effect: float, ties: float) -> None:
    needed = questions_needed(effect, ties)
    assert needed >= questions_needed(effect + 5, ties)
    assert needed <= questions_needed(effect, ties, power=0.9)
    assert needed <= questions_needed(effect, ties, confidence=0.99)
    assert questions_needed(effect, ties) == questions_needed(-effect, ties)


@given(st.integers(50, 10_000), st.floats(0, 0.9))
def test_the_detectable_omega_needs_just_the_questions_there_are(questions: int, ties: float) -> None:
    effect = detectable_omega(questions, ties)
    assert effect is None or questions_needed(effect, ties) == pytest.approx(questions, abs=1)


def test_so_many_questions_find_the_effect_as_often_as_promised() -> None:
    generator = np.random.default_rng(6)
    needed = questions_needed(20.0, tie_share=0.4)
    found = 0
    for _ in range(2000):
        outcome = generator.choice([1.0, 0.0, -1.0], needed, p=[0.4, 0.4, 0.2])
        found += abs(outcome.mean()) > 1.96 * outcome.std() / math.sqrt(needed)
    assert found / 2000 == pytest.approx(0.8, abs=0.03)


def test_effects_that_cannot_be_are_refused() -> None:
    assert detectable_omega(3, tie_share=0.9) is None
    assert detectable_omega(100, tie_share=1.0) is None
    for effect, ties in ((0.0, 0.2), (90.0, 0.2)):
        with pytest.raises(ValueError, match="cannot be"):
            questions_needed(effect, ties)
