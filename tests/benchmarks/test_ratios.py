"""What benchmarks end with: ratios that mean something, and a code that tells of faults."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from aligner_core.score_quality import label_quality, length_rule, pair_quality
from analysis.run_data import load_run
from benchmarks.report_scale import inflate
from benchmarks.score_models import ratios
from benchmarks.serve_load import Tally, faults


def test_a_score_models_accuracy_is_told_over_that_of_the_best_baseline() -> None:
    pairs = pair_quality([2.0, 2.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0], [9, 9, 1, 1], [5, 5, 5, 5])
    assert ratios(pairs) == {"ratio_accuracy_vs_best_baseline": 1.5}
    unsafe, lengths = [True, False, False, False], [1, 2, 3, 4]
    labels = label_quality([1.0, -1.0, -1.0, -1.0], unsafe, lengths, length_rule(lengths, [False, True, True, False]))
    assert ratios(labels) == {"ratio_accuracy_vs_best_baseline": round(1 / 0.75, 3)}
    assert ratios({"accuracy": None, "baselines": {"guess": 0.5, "longer": None}}) == {}


def test_a_wrong_or_lost_answer_and_a_dead_server_are_faults() -> None:
    assert faults(Tally(), Counter({"answered": 300, "429": 200}), alive=True) == []
    found = faults(Tally(wrong=["off mark-1: other"]), Counter({"answered": 498, "hung": 2}), alive=False)
    assert found == ["off mark-1: other", "2 of 500 at once: hung", "the server no longer answers"]


def test_the_run_for_the_reports_scale_has_so_many_rows(tmp_path: Path) -> None:
    assert len(load_run(inflate(tmp_path, 100)).scores) == 100
