"""The report tells what the scores say, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from aligner_core.errors import UserError
from aligner_core.files import read_json, write_json, write_jsonl
from analysis.report import write_report
from analysis.results import compare, gap_in_words, in_words
from analysis.run_data import load_run

SYSTEMS = ("upstream", "aligned", "floor", "student", "ceiling")


def fake_run(folder: Path, means: dict[str, float], questions: int = 60, seeds: tuple[int, ...] = (1, 2)) -> Path:
    """A finished run whose systems have known mean scores."""
    generator = np.random.default_rng(0)
    entries = []
    for name in ("data", "scorer", *(f"scores-s{seed}" for seed in seeds)):
        stage = folder / "stages" / name
        facts = {"helpful_accuracy": None, "unsafe_recall": None, "safe_recall": None}
        manifest = {"identity": name, "facts": facts, "seconds": 1.0, "versions": {}, "git": None}
        write_json(stage / "manifest.json", manifest)
        entries.append({"name": name, "identity": name, "folder": f"stages/{name}"})
        if not name.startswith("scores"):
            continue
        rows = []
        for system in SYSTEMS:
            noise = generator.normal(size=(questions, 2))
            rows += [
                {"id": f"q{index:03d}", "system": system, "question": f"question {index}", "finished": True,
                 "text": f"{system} says {index}", "helpful": means[system] + noise[index, 0],
                 "harmless": means[system] + noise[index, 1], "scorer": "evaluation", "similarity": 0.5}
                for index in range(questions)
            ]  # fmt: skip
        write_jsonl(stage / "scores.jsonl", rows)
    evaluation = {"resamples": 500, "confidence": 0.95, "tie_margin": 0.0}
    recipe = {"name": "fake", "description": "made up", "seeds": list(seeds), "evaluation": evaluation}
    write_json(folder / "recipe.json", recipe)
    write_json(folder / "run.json", {"name": "fake", "stages": entries})
    return folder


@pytest.fixture
def improving(tmp_path: Path) -> Path:
    return fake_run(tmp_path, {"upstream": 0.0, "aligned": 1.0, "floor": 0.0, "student": 1.0, "ceiling": 2.0})


def test_known_means_give_the_known_differences_and_pgr(improving: Path) -> None:
    write_report(improving)
    report = read_json(improving / "report.json")
    pair = next(row for row in report["comparisons"] if (row["a"], row["b"]) == ("student", "upstream"))
    assert pair["low"] > 0
    assert pair["difference"]["value"] == pytest.approx(1.0, abs=0.3)
    assert pair["win"] + pair["tie"] + pair["lose"] == 120
    recovered = report["pgr"][0]
    assert recovered["pgr"]["value"] == pytest.approx(0.5, abs=0.15)
    assert recovered["pgr"]["low"] < recovered["pgr"]["value"] < recovered["pgr"]["high"]
    assert recovered["gap"]["low"] > 1.0
    assert {row["system"] for row in report["systems"]} == set(SYSTEMS)


def test_no_gap_is_said_in_words_and_never_divided_by(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, dict.fromkeys(SYSTEMS, 0.0))
    write_report(folder)
    words = " ".join(read_json(folder / "report.json")["words"])
    assert "No difference in helpfulness between student and upstream can be told" in words
    assert "PGR says nothing there" in words


def test_identical_texts_tie_whatever_the_scores(improving: Path) -> None:
    for seed in (1, 2):
        path = improving / "stages" / f"scores-s{seed}" / "scores.jsonl"
        path.write_text(path.read_text().replace("student says", "upstream says"))
    compared = compare(load_run(improving), "student", "upstream", "helpful")
    assert (compared["win"], compared["tie"], compared["lose"]) == (0, 120, 0)
    assert compared["identical_share"] == 1.0


def test_words_claim_a_difference_only_where_the_interval_excludes_none() -> None:
    row = {"a": "x", "b": "y", "axis": "helpful", "omega": 5.0, "low": -1.0, "high": 11.0}
    assert in_words(row).startswith("No difference")
    assert "is above" in in_words({**row, "low": 1.0})
    assert "is below" in in_words({**row, "low": -9.0, "high": -1.0})


def test_a_gap_beyond_its_interval_is_told_as_a_share() -> None:
    gap = {"axis": "helpful", "gap": {"value": 2, "low": 1, "high": 3}, "pgr": {"value": 0.5, "low": 0.2, "high": 0.8}}
    assert "recovers 0.50 [0.20, 0.80] of the gap in helpfulness" in gap_in_words(gap)


def test_the_page_loads_nothing_from_elsewhere_and_shows_ten_examples(improving: Path) -> None:
    write_report(improving)
    page = (improving / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert page.count("data:image/png;base64,") == 3
    assert page.count("<details") == 10


def test_text_of_models_cannot_become_markup(improving: Path) -> None:
    path = improving / "stages" / "scores-s1" / "scores.jsonl"
    path.write_text(path.read_text().replace("student says", "<script>alert(1)</script>"))
    write_report(improving)
    assert "<script>" not in (improving / "report.html").read_text()


def test_a_report_is_written_anew_only_when_its_stages_change(improving: Path) -> None:
    write_report(improving)
    before = (improving / "report.json").stat().st_mtime_ns
    write_report(improving)
    assert (improving / "report.json").stat().st_mtime_ns == before
    run = read_json(improving / "run.json")
    run["stages"][0]["identity"] = "other"
    write_json(improving / "run.json", run)
    write_report(improving)
    assert (improving / "report.json").stat().st_mtime_ns > before


def test_an_unfinished_run_is_named_not_reported(improving: Path) -> None:
    (improving / "stages" / "scorer" / "manifest.json").unlink()
    with pytest.raises(UserError, match="is not finished: scorer"):
        load_run(improving)
    with pytest.raises(UserError, match="holds no run"):
        load_run(improving / "stages")
