"""A run that is killed at any moment continues with the same command and ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills import assert_kills_change_nothing


@pytest.mark.slow
def test_twelve_kills_spread_over_a_run_change_nothing(tmp_path: Path) -> None:
    epochs = ("student.training.epochs=3", "aligner.training.epochs=3")
    assert_kills_change_nothing(tmp_path, "w2s.cli", "quickstart", 12, *epochs)
