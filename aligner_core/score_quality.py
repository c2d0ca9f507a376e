"""How well a score model tells held-out texts apart: accuracies with intervals, baselines, calibration. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aligner_core.statistics import wilson_interval

BINS = 10


def proportion(correct: ArrayLike) -> dict[str, float] | None:
    """The share that is right, with its 95 % Wilson interval; None of nothing."""
    found = np.asarray(correct, dtype=bool)
    if not found.size:
        return None
    low, high = wilson_interval(int(found.sum()), found.size)
    return {"value": float(found.mean()), "low": low, "high": high, "n": int(found.size)}


def pair_quality(
    better: Sequence[float], worse: Sequence[float], better_lengths: Sequence[int], worse_lengths: Sequence[int]
) -> dict[str, Any]:
    """Of pairs: how often the better text scores higher, and how often a rule by length is right.

    A pair's order says nothing, so guessing is right in half of them.

    Args:
        better, worse: (pairs,) scores.
        better_lengths, worse_lengths: (pairs,) lengths of the texts; where they are equal, length has no say.
    """
    margins = np.subtract(better, worse)
    longer = np.subtract(better_lengths, worse_lengths)
    told = longer[longer != 0]
    likely = sigmoid(np.abs(margins))
    return {
        "accuracy": proportion(margins > 0),
        "baselines": {"guess": 0.5, "longer": proportion(told > 0), "shorter": proportion(told < 0)},
        "calibration": {
            "error": calibration_error(likely, margins > 0),
            "brier": brier(sigmoid(margins), np.ones(margins.shape, dtype=bool)),
        },
        "scores": {"better": spread(better), "worse": spread(worse)},
    }


def label_quality(
    costs: Sequence[float], unsafe: Sequence[bool], lengths: Sequence[int], rule: LengthRule
) -> dict[str, Any]:
    """Of labelled texts: how often the sign of the cost is right, and how often majority and length are.

    Both classes weigh the same in balanced accuracy and calibration, as in the training.

    Args:
        costs: (texts,) scores; above 0 says unsafe.
        unsafe, lengths: (texts,) labels and lengths.
        rule: the length baseline, found on the training's texts.
    """
    told, labels = np.asarray(costs), np.asarray(unsafe, dtype=bool)
    right = (told > 0) == labels
    by_length = rule.unsafe(lengths) == labels
    both = bool(labels.any() and not labels.all())
    weights = class_weights(labels)
    likely = sigmoid(told)
    return {
        "accuracy": proportion(right),
        "balanced_accuracy": float(np.average(right, weights=weights)) if both else None,
        "unsafe_recall": proportion(right[labels]),
        "safe_recall": proportion(right[~labels]),
        "baselines": {
            "majority": proportion(labels if labels.mean() > 0.5 else ~labels),
            "length": proportion(by_length),
            "length_balanced": float(np.average(by_length, weights=weights)) if both else None,
        },
        "calibration": {
            "error": calibration_error(np.maximum(likely, 1 - likely), right, weights),
            "brier": brier(likely, labels, weights),
        },
        "scores": {"unsafe": spread(told[labels]), "safe": spread(told[~labels])},
    }


@dataclass(frozen=True)
class LengthRule:
    """The length baseline of safety labels: texts on one side of a threshold are called unsafe."""

    threshold: int
    longer_is_unsafe: bool

    def unsafe(self, lengths: ArrayLike) -> NDArray[np.bool_]:
        longer: NDArray[np.bool_] = np.asarray(lengths) > self.threshold
        return longer if self.longer_is_unsafe else ~longer


def length_rule(lengths: Sequence[int], unsafe: Sequence[bool]) -> LengthRule:
    """The rule with the highest balanced accuracy on these texts."""
    measured, labels = np.asarray(lengths), np.asarray(unsafe, dtype=bool)
    weights = class_weights(labels)
    best, found = -1.0, LengthRule(0, True)
    for threshold in np.unique(measured):
        right = float(np.average((measured > threshold) == labels, weights=weights))
        for accuracy, longer in ((right, True), (1 - right, False)):
            if accuracy > best:
                best, found = accuracy, LengthRule(int(threshold), longer)
    return found


def class_weights(labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weights with which both classes together weigh the same; all 1 where there is one class alone."""
    share = labels.mean() if labels.size else 0.0
    if share in (0, 1):
        return np.ones(labels.shape)
    return np.where(labels, 0.5 / share, 0.5 / (1 - share))


def calibration_error(confidence: ArrayLike, right: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Expected calibration error (Guo et al. 2017): the gap between confidence and accuracy over ten equal bins.

    Args:
        confidence: (n,) in [0.5, 1], the probability given to what was said.
        right: (n,) whether it was right.
    """
    sure, hit = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    weight = np.ones(sure.shape) if weights is None else np.asarray(weights, dtype=float)
    place = np.minimum(((sure - 0.5) * 2 * BINS).astype(int), BINS - 1)
    gaps = np.bincount(place, weights=weight * (hit - sure), minlength=BINS)
    return float(np.abs(gaps).sum() / weight.sum())


def brier(probability: ArrayLike, happened: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean squared distance of a probability from what happened; a coin's is 0.25."""
    distance = np.asarray(probability, dtype=float) - np.asarray(happened, dtype=float)
    return float(np.average(distance**2, weights=weights))


def spread(scores: ArrayLike) -> dict[str, float] | None:
    """Mean and standard deviation; None of nothing."""
    found = np.asarray(scores, dtype=float)
    return {"mean": float(found.mean()), "deviation": float(found.std())} if found.size else None


def sigmoid(scores: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(scores, dtype=float))))
