"""Two rounds that are killed at any moment continue with the same command and end as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kills import assert_kills_change_nothing


@pytest.mark.slow
def test_twenty_kills_spread_over_two_rounds_change_nothing(tmp_path: Path) -> None:
    assert_kills_change_nothing(tmp_path, "ida.cli", "ida_quickstart", 20, "student.training.epochs=3")
