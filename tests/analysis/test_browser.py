"""The report in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_report_renders_in_a_browser_without_errors_or_requests(smoke_run: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    assert browser, "make test-slow installs chromium"
    picture = tmp_path / "report.png"
    result = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,2400",
         "--enable-logging=stderr", "--v=0", "--proxy-server=127.0.0.1:9", f"--screenshot={picture}",
         (smoke_run / "report.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert picture.stat().st_size > 50_000, result.stderr
    assert "CONSOLE" not in result.stderr
    assert "ERR_" not in result.stderr
