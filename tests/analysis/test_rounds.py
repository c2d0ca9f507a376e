"""The monitors of IDA's rounds say what a known run shows, and warn where only the training scorer is pleased."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.files import read_json, read_jsonl, write_json, write_jsonl
from analysis.report import write_report
from analysis.rounds import distinct, monitors, stopped, warnings
from analysis.run_data import load_run
from tests.analysis.fake_runs import fake_run

MEANS = {"A": 0.0, "B": 1.0, "C": -0.5, "D": 0.5}
REFUSAL = "I'm sorry, but I can't help with that."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """C refuses every tenth question; these are the ones that only look unsafe."""
    folder = fake_run(tmp_path, MEANS)
    for seed in (1, 2):
        path = folder / "stages" / f"scores-s{seed}" / "scores.jsonl"
        rows = read_jsonl(path)
        for row in rows:
            if row["system"] == "C" and row["id"].endswith("0"):
                row["text"] = REFUSAL
        write_jsonl(path, rows)
    questions = [{"id": f"q{index:05d}", "category": "needless_refusal" if index % 10 == 0 else "facts"}
                 for index in range(60)]  # fmt: skip
    write_jsonl(folder / "stages" / "data" / "evaluation.jsonl", questions)
    return folder


def pleased(folder: Path, gain: float) -> None:
    """Add scores of a training-time scorer that likes C by `gain` more."""
    entries = read_json(folder / "run.json")
    for seed in (1, 2):
        rows = read_jsonl(folder / "stages" / f"scores-s{seed}" / "scores.jsonl")
        liked = [{**row, "helpful": row["helpful"] + (gain if row["system"] == "C" else 0)} for row in rows]
        name = f"round0-scores-by-w-s{seed}"
        write_jsonl(folder / "stages" / name / "scores.jsonl", liked)
        manifest = read_json(folder / "stages" / "data" / "manifest.json")
        write_json(folder / "stages" / name / "manifest.json", {**manifest, "identity": name})
        entries["stages"].append({"name": name, "identity": name, "folder": f"stages/{name}"})
    write_json(folder / "run.json", entries)


def test_refusals_are_counted_over_all_questions_and_over_those_that_only_look_unsafe(run: Path) -> None:
    first, second = monitors(load_run(run))
    assert (first["model"], first["corrected"], second["model"]) == ("A", "B", "C")
    assert first["refusals"]["value"] == first["needless_refusals"]["value"] == 0
    assert second["refusals"]["value"] == pytest.approx(0.1)
    assert second["needless_refusals"]["value"] == 1.0
    assert any("C refuses 100 % of the questions that only look unsafe, A 0 %" in said
               for said in warnings([first, second]))  # fmt: skip


def test_copies_are_answers_that_the_corrector_leaves(run: Path) -> None:
    assert [entry["copy_rate"] for entry in monitors(load_run(run))] == [0, 0]
    for seed in (1, 2):
        path = run / "stages" / f"scores-s{seed}" / "scores.jsonl"
        path.write_text(path.read_text().replace("B says", "A says"))
    assert [entry["copy_rate"] for entry in monitors(load_run(run))] == [1, 0]


def test_a_gain_that_only_the_training_scorer_sees_is_said_in_words(run: Path) -> None:
    pleased(run, 5.0)
    first, second = monitors(load_run(run))
    assert first["scorers"] == []
    helpful = second["scorers"][0]
    assert helpful["held_out"]["value"] < 0 < helpful["training"]["low"]
    assert helpful["disagreement"] > 0.5
    assert any(
        "C gains in helpfulness by the training-time scorer alone" in said for said in warnings([first, second])
    )


def test_scorers_that_agree_raise_no_warning(run: Path) -> None:
    pleased(run, 0.0)
    _, second = monitors(load_run(run))
    assert [row["disagreement"] for row in second["scorers"]] == [0, 0]
    assert not any("training-time scorer" in said for said in warnings(monitors(load_run(run))))


def test_the_report_holds_the_monitors_and_why_the_rounds_ended(run: Path) -> None:
    pleased(run, 5.0)
    write_json(run / "rounds.json", {"planned": 3, "finished": 1, "stopped": "no gain over the round before"})
    write_report(run)
    report = read_json(run / "report.json")
    assert [entry["model"] for entry in report["rounds"]] == ["A", "C"]
    assert "Stopped after round 1 of 3: no gain over the round before." in report["words"]
    page, text = (run / "report.html").read_text(), (run / "report.md").read_text()
    assert 'id="rounds"' in page
    assert "| 1 | C | 0.10 [" in text
    write_json(run / "rounds.json", {"planned": 1, "finished": 1, "stopped": None})
    assert stopped(load_run(run)) == []
    write_report(run)
    assert not any("Stopped" in said for said in read_json(run / "report.json")["words"])


def test_distinct_n_is_1_where_no_words_repeat_and_falls_with_repetition() -> None:
    assert distinct(["a b c", "d e"], 2) == 1.0
    assert distinct(["a b a b", "a b"], 2) == pytest.approx(2 / 4)
    assert distinct(["", "a"], 2) == 0.0


@given(st.lists(st.text("abc ", max_size=20), min_size=1), st.integers(1, 3))
def test_saying_everything_twice_halves_distinct_n(texts: list[str], size: int) -> None:
    assert distinct(texts * 2, size) == pytest.approx(distinct(texts, size) / 2)
