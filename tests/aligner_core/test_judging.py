"""Reading verdicts, and what follows from them: omega, order bias, agreement."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.engines.protocol import Completion, Sampling
from aligner_core.judging.replies import Replies, request_key
from aligner_core.judging.rubrics import RUBRICS, judge_prompt, read_verdict
from aligner_core.judging.verdicts import (
    Judged,
    agreement,
    cohens_kappa,
    omega_interval,
    omega_of_table,
    order_bias,
    resampled,
)
from aligner_core.records import Turn
from aligner_core.statistics import omega

VERDICT = st.sampled_from([-1, 0, 1])
BOTH = st.lists(st.tuples(VERDICT, VERDICT), min_size=1, max_size=60)


def judged(verdicts: list[tuple[int, int]]) -> list[Judged]:
    return [Judged({"a_first": one, "b_first": two}) for one, two in verdicts]


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("The first is clearer.\n[[1]]", 1),
        ("[[2]]", -1),
        ("Both do it.\n\n  **[[Tie]]**  \n", 0),
        ("If it were for style, [[1]].\nBut the second is right: [[ 2 ]]", -1),
        ("[[1]] or [[2]]", None),
        ("[[3]]", None),
        ("The first is better.", None),
        ("[1]", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_line_that_has_one_and_only_one(reply: str, verdict: int | None) -> None:
    assert read_verdict(reply) == verdict


def test_the_rubric_comes_first_and_is_the_same_for_all_pairs_of_an_axis() -> None:
    history = [Turn(role="user", content="Hi"), Turn(role="assistant", content="Hello")]
    one = judge_prompt("helpful", "Why?", history, "A text", "B text")
    two = judge_prompt("helpful", "How?", [], "C", "D")
    assert one.messages[0] == two.messages[0]
    assert one.messages[0].role == "system"
    shown = one.messages[1].content
    assert [shown.index(part) for part in ("Hi", "Hello", "Why?", "A text", "B text")] == sorted(
        shown.index(part) for part in ("Hi", "Hello", "Why?", "A text", "B text")
    )
    assert len({judge_prompt(axis, "Q", [], "A", "B").messages[0].content for axis in RUBRICS}) == len(RUBRICS)


@given(st.integers(1, 80))
def test_a_judge_that_always_prefers_the_first_has_omega_0_and_is_named_biased(pairs: int) -> None:
    items = judged([(1, -1)] * pairs)
    found = omega_interval([item.outcome for item in items if item.outcome is not None])
    assert (found.value, found.low, found.high) == (0, 0, 0)
    bias = order_bias(items)
    assert bias is not None
    assert bias.agreement.value == 0
    assert bias.to_first.value == 1
    assert bias.is_biased == (pairs >= 4)  # three pairs out of three may be chance
    assert ("order bias: it favours the answer shown first, in 100.0 %" in bias.in_words()) == bias.is_biased


@given(BOTH)
def test_exchanging_a_and_b_turns_omega_round_and_leaves_the_bias(verdicts: list[tuple[int, int]]) -> None:
    exchanged = judged([(-b_first, -a_first) for a_first, b_first in verdicts])
    items = judged(verdicts)
    ours, theirs = ([item.outcome for item in group] for group in (items, exchanged))
    assert ours == [-outcome for outcome in theirs if outcome is not None]
    told = [bias.in_words() if (bias := order_bias(group)) else "" for group in (items, exchanged)]
    assert told[0] == told[1] != ""


def test_a_pair_with_one_unparsed_order_is_left_out_and_an_identical_one_ties() -> None:
    assert Judged({"a_first": 1, "b_first": None}).outcome is None
    assert Judged({}, identical=True).outcome == 0
    assert Judged({"a_first": 1}).outcome == 1
    assert Judged({"a_first": 1, "b_first": 0}).outcome == 1
    assert order_bias([Judged({"a_first": 1}), Judged({}, identical=True)]) is None


def test_an_even_judge_is_not_called_biased() -> None:
    bias = order_bias(judged([(1, 1)] * 10 + [(1, -1)] * 10 + [(-1, 1)] * 10))
    assert bias is not None
    assert not bias.is_biased
    assert "No order bias can be told" in bias.in_words()


@given(st.lists(VERDICT, min_size=1, max_size=60))
def test_omega_of_a_table_is_omega_of_its_counts_and_lies_in_its_interval(outcomes: list[int]) -> None:
    found = omega_interval(outcomes)
    counts = (outcomes.count(1), outcomes.count(0), outcomes.count(-1))
    assert found.value == pytest.approx(omega(*counts))
    assert found.low <= found.value + 1e-9
    assert found.value <= found.high + 1e-9


def test_resampling_counts_covers_as_a_bootstrap_over_pairs_does() -> None:
    generator = np.random.default_rng(0)
    outcomes = generator.choice([-1, 0, 1], size=200, p=[0.2, 0.3, 0.5])
    found = resampled(omega_of_table, np.array([(outcomes == kind).sum() for kind in (-1, 0, 1)]))
    means = 100 * np.array([generator.choice(outcomes, size=200).mean() for _ in range(4000)])
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1.0)


def test_kappa_is_the_textbook_s() -> None:
    table = np.zeros((3, 3))
    table[np.ix_([0, 2], [0, 2])] = [[20, 5], [10, 15]]
    assert cohens_kappa(table) == pytest.approx(0.4)


@given(st.lists(VERDICT, min_size=1, max_size=40))
def test_what_agrees_throughout_has_kappa_1_or_none(outcomes: list[int]) -> None:
    found = agreement(outcomes, outcomes)
    assert found.share.value == 1
    if len(set(outcomes)) == 1:
        assert math.isnan(found.kappa.value)
        assert "not defined" in found.in_words()
    else:
        assert found.kappa.value == pytest.approx(1)


def test_replies_are_kept_by_all_that_they_depend_on_and_failed_ones_are_not(tmp_path: Path) -> None:
    replies = Replies(tmp_path / "deep" / "replies.sqlite")
    good, bad = Completion("[[1]]", 5, True, prompt_tokens=70), Completion("", 0, False, error="http_500: down")
    replies.keep([("good", good), ("bad", bad)])
    replies.close()
    again = Replies(tmp_path / "deep" / "replies.sqlite")
    assert again.find("good") == good
    assert again.find("bad") is None
    again.close()
    prompt, other = judge_prompt("helpful", "Q", [], "A", "B"), judge_prompt("helpful", "Q", [], "B", "A")
    keys = {
        request_key("http://h/v1#m", prompt, Sampling(512)),
        request_key("http://h/v1#n", prompt, Sampling(512)),
        request_key("http://h/v1#m", other, Sampling(512)),
        request_key("http://h/v1#m", prompt, Sampling(256)),
    }
    assert len(keys) == 4
