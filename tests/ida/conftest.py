"""The two-round run that several tests read, or copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command_line import ida


@pytest.fixture(scope="session")
def ida_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run folder of the IDA quickstart with tiny models."""
    runs = tmp_path_factory.mktemp("ida")
    result = ida("run", "ida_quickstart", "--profile", "smoke", "--runs", runs)
    assert result.returncode == 0, result.stderr + result.stdout
    return runs / "ida_quickstart"
