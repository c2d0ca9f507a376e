"""The probe keeps what is fastest, and a resumed stage decodes as the uninterrupted one would."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.engines.drafting import LONGEST
from aligner_core.engines.probe import ENOUGH, LIMITS, TURN, DraftPolicy, Probe, Verdict


def probed(seconds: dict[int, float], steps: int = ENOUGH * len(LIMITS) + 8) -> Probe:
    """A probe of steps that take so long and give eight sequences a token each, and the limit's share more."""
    probe = Probe()
    for _ in range(steps):
        limit = probe.next_limit()
        probe.tallies[limit].add(8, 8 + limit, 2 * limit, limit, seconds[limit])
    return probe


@pytest.mark.parametrize("best", LIMITS)
def test_the_fastest_limit_wins(best: int) -> None:
    verdict = probed({limit: (8 + limit) / (200 if limit == best else 100) for limit in LIMITS}).verdict()
    assert verdict is not None
    assert verdict.limit == best
    assert "200 tokens/s" in verdict.why
    assert "50% of the proposed tokens accepted" in verdict.why


def test_limits_take_turns_and_few_steps_give_no_verdict() -> None:
    probe = probed(dict.fromkeys(LIMITS, 1.0), steps=2 * TURN * len(LIMITS))
    assert {tally.steps for tally in probe.tallies.values()} == {2 * TURN}
    assert probe.verdict() is None


def test_every_limit_comes_first_in_some_round() -> None:
    probe = Probe()
    limits = [probe.next_limit() for _ in range(TURN * len(LIMITS) ** 2)]
    assert set(limits[:: TURN * len(LIMITS)]) == set(LIMITS)


def test_a_resumed_stage_probes_the_same_call_again_and_keeps_the_verdict(tmp_path: Path) -> None:
    memory = tmp_path / "copy_aware.json"
    first = DraftPolicy("auto", memory)
    assert first.limit("a") is None
    first.learn("a", None)
    assert first.limit("b") is None
    first.learn("b", Verdict(8, "fast"))
    assert first.limit("c") == 8
    resumed = DraftPolicy("auto", memory)
    assert resumed.limit("b") is None
    resumed.learn("b", Verdict(0, "another measurement"))
    assert resumed.limit("c") == 8
    assert resumed.facts() == {"draft_limit": 8, "why": "fast"}


def test_the_profile_may_decide_without_a_probe() -> None:
    assert DraftPolicy("off").limit("a") == 0
    assert DraftPolicy("on").limit("a") == LONGEST
