"""The soak of benchmarks/serve_load.py, for a minute."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_minute_of_fifty_clients_loses_nothing_and_a_crowd_is_answered_or_told_429() -> None:
    command = [sys.executable, "benchmarks/serve_load.py", "--minutes", "1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert found["requests"] > 2_000
    assert found["wrong"] == 0
    assert found["ratio_memory_end_to_begin"] < 1.1
    assert sum(found["crowd"].values()) == 500
    assert found["crowd"]["answered"] >= 200
