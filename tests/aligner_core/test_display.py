"""What is shown as begun is shown as ended, well or badly."""

from __future__ import annotations

import pytest

from aligner_core.display import PlainDisplay, showing


def test_what_begins_is_done_or_has_failed_whatever_stops_it(capsys: pytest.CaptureFixture[str]) -> None:
    display = PlainDisplay()
    with showing(display, "report"):
        pass
    with pytest.raises(KeyboardInterrupt), showing(display, "aligner", 1, 2):
        raise KeyboardInterrupt
    assert capsys.readouterr().out.splitlines() == [
        "report begins",
        "report done in 0 s",
        "1/2 aligner begins",
        "1/2 aligner failed",
    ]
