"""Another round is begun unless a rule speaks, and a rule speaks only on what it was told to watch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from aligner_core.recipe import Evaluation
from ida.recipe import Stop
from ida.stop_rules import Standing, stop_reason

EVALUATION = Evaluation(resamples=200)
QUESTIONS = 100


def standing(helpful: float, harmless: float, **others: Any) -> Standing:
    """A model whose every score is `helpful`, `harmless` above a spread that all models share."""
    spread = np.random.default_rng(0).normal(size=(2, QUESTIONS))
    texts = np.array([[f"{helpful} {harmless} {index}" for index in range(QUESTIONS)]] * 2, dtype=object)
    cost: dict[str, Any] = {"needless_refusals": 0.0, "hours": 1.0, "tokens": 1000, **others}
    return Standing({"helpful": spread + helpful, "harmless": spread + harmless}, texts, **cost)


def reason(rules: Stop, *rounds: Standing) -> str:
    return stop_reason(rules, rounds, EVALUATION) or ""


WORSE = (standing(0, 0), standing(-1, 0), standing(-2, 0))


def test_without_rules_nothing_stops() -> None:
    assert reason(Stop(), *WORSE) == ""


def test_the_upstream_alone_stops_nothing() -> None:
    assert reason(Stop(min_gain=0, max_loss=0, max_hours=0.001), WORSE[0]) == ""


def test_no_gain_on_either_axis_over_the_round_before_stops() -> None:
    rules = Stop(min_gain=0)
    assert reason(rules, standing(0, 0), standing(1, 0), standing(1, 0)).startswith("no gain")
    assert reason(rules, standing(0, 0), standing(1, 0), standing(0, 1)) == ""


def test_a_loss_against_the_upstream_beyond_its_interval_is_drift() -> None:
    lost = reason(Stop(max_loss=10), standing(0, 0), standing(2, 2), standing(-1, 3))
    assert lost.startswith("drift: helpfulness -100.0 %")
    assert reason(Stop(max_loss=10), standing(0, 0), standing(2, 2)) == ""


def test_a_loss_that_its_interval_does_not_support_is_no_drift() -> None:
    generator = np.random.default_rng(1)
    noisy = standing(0, 0)
    noise = {axis: scores + generator.normal(size=scores.shape) for axis, scores in noisy.scores.items()}
    moved = Standing(noise, standing(1, 0).texts, None, 1.0, 1)
    assert reason(Stop(max_loss=10), noisy, moved) == ""


def test_needless_refusals_beyond_the_limit_are_drift() -> None:
    rules = Stop(max_needless_refusals=0.2)
    assert "30 % of the questions that only look unsafe" in reason(
        rules, standing(0, 0), standing(0, 0, needless_refusals=0.3)
    )
    assert reason(rules, standing(0, 0), standing(0, 0, needless_refusals=0.2)) == ""
    assert reason(rules, standing(0, 0), standing(0, 0, needless_refusals=None)) == ""


@pytest.mark.parametrize(
    ("limit", "stops"),
    [({"max_hours": 5}, False), ({"max_hours": 4}, True), ({"max_tokens": 5000}, False), ({"max_tokens": 4999}, True)],
)
def test_a_round_that_would_exceed_the_budget_is_not_begun(limit: dict[str, Any], stops: bool) -> None:
    rounds = standing(0, 0, hours=1.0, tokens=1000), standing(0, 0, hours=3.0, tokens=3000)
    assert reason(Stop(**limit), *rounds).startswith("budget") == stops
