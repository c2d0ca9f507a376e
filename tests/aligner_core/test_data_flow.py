"""The way of the records through the steps that made a data set."""

from __future__ import annotations

from aligner_core.data_flow import render_flow


def test_a_step_that_reads_more_than_was_left_says_so_and_bars_stay_within_the_picture() -> None:
    lines = render_flow([
        {"step": "dedup", "read": 12, "kept": 10, "dropped": {"exact": 2}},
        {"step": "sample", "read": 80, "kept": 79, "dropped": {"unfinished": 1}},
        {"step": "annotate", "read": 79, "kept": 79, "dropped": {}},
    ]).splitlines()  # fmt: skip
    assert [line[:28].strip() for line in lines] == [
        "read", "- dedup: exact", "after dedup", "read by sample", "- sample: unfinished", "after sample",
        "after annotate",
    ]  # fmt: skip
    assert lines[3].split()[3:] == ["80", "666.7%", "#" * 40]
    assert lines[2].split()[2:] == ["10", "83.3%", "#" * 5]
