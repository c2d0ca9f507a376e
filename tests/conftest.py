"""Fixtures that several tests share. The smoke run is made once and only read, or copied, afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from tests.command_line import w2s

settings.register_profile("untimed", deadline=None)  # a busy machine fails no property
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run folder of the quickstart recipe with tiny models."""
    runs = tmp_path_factory.mktemp("runs")
    result = w2s("run", "quickstart", "--profile", "smoke", "--runs", runs)
    assert result.returncode == 0, result.stderr + result.stdout
    return runs / "quickstart"
