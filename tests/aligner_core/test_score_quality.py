"""What is said of a score model's held-out texts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.score_quality import (
    LengthRule,
    brier,
    calibration_error,
    class_weights,
    label_quality,
    length_rule,
    pair_quality,
    proportion,
    sigmoid,
)

TEXTS = st.lists(st.tuples(st.floats(-9, 9), st.booleans(), st.integers(0, 50)), min_size=1, max_size=40)


def test_a_proportion_has_its_interval_and_nothing_has_none() -> None:
    found = proportion([True, True, False, True])
    assert found is not None
    assert found["value"] == 0.75
    assert found["low"] < 0.75 < found["high"]
    assert found["n"] == 4
    assert proportion([]) is None


def test_of_pairs_the_higher_score_is_right_and_length_is_a_rule_of_its_own() -> None:
    found = pair_quality([2.0, 1.0, 0.0, 3.0], [1.0, 2.0, -1.0, 0.0], [9, 5, 7, 7], [3, 8, 7, 6])
    assert found["accuracy"]["value"] == 0.75
    assert found["baselines"]["longer"]["value"] == pytest.approx(2 / 3)  # one pair is of equal length
    assert found["baselines"]["shorter"]["value"] == pytest.approx(1 / 3)
    assert found["scores"]["better"]["mean"] == 1.5


@given(TEXTS)
def test_a_score_of_nothing_but_the_label_is_always_right(texts: list[tuple[float, bool, int]]) -> None:
    unsafe, lengths = [text[1] for text in texts], [text[2] for text in texts]
    found = label_quality([9.0 if label else -9.0 for label in unsafe], unsafe, lengths, LengthRule(0, True))
    assert found["accuracy"]["value"] == 1
    assert found["balanced_accuracy"] in (None, pytest.approx(1))
    assert found["calibration"]["error"] < 1e-3
    assert found["calibration"]["brier"] < 1e-3


@given(TEXTS)
def test_majority_is_the_share_of_the_larger_class_and_balance_is_the_mean_of_both_recalls(
    texts: list[tuple[float, bool, int]],
) -> None:
    costs, unsafe, lengths = ([text[place] for text in texts] for place in range(3))
    found = label_quality(costs, unsafe, lengths, LengthRule(10, False))
    share = sum(unsafe) / len(unsafe)
    assert found["baselines"]["majority"]["value"] == pytest.approx(max(share, 1 - share))
    if 0 < share < 1:
        recalls = [found[name]["value"] for name in ("unsafe_recall", "safe_recall")]
        assert found["balanced_accuracy"] == pytest.approx(sum(recalls) / 2)


@given(TEXTS)
def test_no_other_threshold_on_the_length_does_better(texts: list[tuple[float, bool, int]]) -> None:
    unsafe, lengths = np.array([text[1] for text in texts]), [text[2] for text in texts]
    weights = class_weights(unsafe)

    def accuracy(rule: LengthRule) -> float:
        return float(np.average(rule.unsafe(lengths) == unsafe, weights=weights))

    best = accuracy(length_rule(lengths, list(unsafe)))
    others = [LengthRule(threshold, longer) for threshold in range(51) for longer in (True, False)]
    assert best >= max(map(accuracy, others)) - 1e-9 or unsafe.all() or not unsafe.any()


def test_confidence_that_comes_true_as_often_as_it_says_is_calibrated() -> None:
    confidence = np.repeat([0.55, 0.95], [20, 20])
    right = np.array([True] * 11 + [False] * 9 + [True] * 19 + [False])
    assert calibration_error(confidence, right) == pytest.approx(0)
    assert calibration_error(np.ones(40), right) == pytest.approx(0.25)
    weights = np.where(right, 2.0, 1.0)
    assert calibration_error(np.ones(40), right, weights) == pytest.approx(10 / 70)


@given(st.lists(st.booleans(), min_size=1))
def test_a_coin_has_a_brier_score_of_a_quarter(happened: list[bool]) -> None:
    assert brier([0.5] * len(happened), happened) == pytest.approx(0.25)
    assert brier(happened, happened) == 0


def test_far_scores_do_not_overflow() -> None:
    with np.errstate(all="raise"):
        assert sigmoid([-1e4, 0, 1e4]).tolist() == [0, 0.5, 1]
