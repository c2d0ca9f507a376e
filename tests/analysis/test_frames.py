"""Frames for figures, from runs and from files."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.errors import UserError
from aligner_core.files import write_jsonl
from analysis.frames import (
    checkpoint_frame,
    position_frame,
    redistribution_frame,
    scored_files_frame,
    warm_up_frame,
    weak_to_strong_frame,
)
from analysis.results import results
from analysis.run_data import load_run
from tests.analysis.fake_runs import SYSTEMS, fake_run


def score(system: str, helpful: float) -> dict[str, object]:
    return {"id": "q", "system": system, "helpful": helpful, "harmless": 1.0, "scorer": "other"}


def test_a_run_becomes_panels_before_and_after(tmp_path: Path) -> None:
    run = load_run(fake_run(tmp_path, dict.fromkeys(SYSTEMS, 0.0), questions=7))
    frame = redistribution_frame(run)
    sizes = frame.groupby(["panel", "state"]).size().to_dict()
    assert sizes == {
        (f"upstream → {after}", state): 14 for after in ("aligned", "student") for state in ("before", "after")
    }
    after = frame[(frame["panel"] == "upstream → student") & (frame["state"] == "after")]
    assert after["helpful"].tolist() == run.matrix("student", "helpful").ravel().tolist()
    assert "aligned" not in set(checkpoint_frame(run)["checkpoint"])


def test_files_of_scored_answers_become_panels(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "set.jsonl", [score("answer", 1.0), score("correction", 2.0)])
    frame = scored_files_frame({"training set": tmp_path / "set.jsonl"})
    assert frame[["panel", "state", "helpful"]].to_numpy().tolist() == [
        ["training set", "before", 1.0], ["training set", "after", 2.0],
    ]  # fmt: skip


def test_files_that_do_not_hold_two_systems_are_all_named(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "one.jsonl", [score("answer", 1.0)])
    write_jsonl(tmp_path / "none.jsonl", [])
    with pytest.raises(UserError) as caught:
        scored_files_frame({name: tmp_path / f"{name}.jsonl" for name in ("one", "none")})
    assert [problem.what for problem in caught.value.problems] == [
        "holds scores of 1 systems: answer", "holds scores of 0 systems: ",
    ]  # fmt: skip


def test_bars_hold_our_comparisons_with_the_upstream_above_the_published_ones(tmp_path: Path) -> None:
    numbers = results(load_run(fake_run(tmp_path, {**dict.fromkeys(SYSTEMS, 0.0), "student": 9.0})))
    frame = weak_to_strong_frame(numbers)
    ours = ["fake: aligned", "fake: student", "fake: ceiling", "fake: floor"]
    assert frame["label"].tolist()[:5] == [*ours, "Alpaca-7B, SFT"]
    assert frame["part"].tolist()[:5] == ["corrected", "student", "ceiling", "floor", "published"]
    assert tuple(frame.loc[1, ["helpful", "helpful_low", "helpful_high"]]) == (100.0, 100.0, 100.0)
    assert len(position_frame(numbers)) == len(SYSTEMS)


def test_a_sweep_over_warm_ups_has_a_row_per_run_and_axis(tmp_path: Path) -> None:
    runs = [
        load_run(fake_run(tmp_path / str(share), {"upstream": 0.0, "aligned": share}, name=f"w{share}",
                          aligner={"warm_up": {"fraction": share}}))
        for share in (0.0, 0.5)
    ]  # fmt: skip
    frame = warm_up_frame(runs)
    assert frame[["run", "axis", "fraction"]].to_numpy().tolist() == [
        ["w0.0", "helpful", 0.0], ["w0.0", "harmless", 0.0], ["w0.5", "helpful", 0.5], ["w0.5", "harmless", 0.5],
    ]  # fmt: skip
    assert (frame["omega_low"] <= frame["omega"]).all()
    assert (frame["omega"] <= frame["omega_high"]).all()
