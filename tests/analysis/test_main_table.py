"""The main table from known scores: every cell, its average, and the published one beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.files import read_json, read_jsonl, write_json, write_jsonl
from analysis.figures.main_table import heat_map
from analysis.main_table import axes_of, main_table, omega_table, published_cells
from analysis.report import write_report
from analysis.run_data import load_run
from tests.analysis.fake_runs import fake_run

SETS = ("beavertails", "truthfulqa")
MEANS = {"upstream@GPT-4": 0.0, "aligned@GPT-4": 9.0, "upstream@Claude-2": 0.0, "aligned@Claude-2": -9.0}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A run of four cells, each scored in a stage of its own as the builder names them."""
    folder = fake_run(
        tmp_path, MEANS, questions=20, seeds=(1,), student=None,
        roles={"upstream": {"model": "u"}, "aligner": {"model": "meta-llama/Llama-2-7b-hf"}},
    )  # fmt: skip
    run, rows = read_json(folder / "run.json"), read_jsonl(folder / "stages" / "scores-s1" / "scores.jsonl")
    manifest = read_json(folder / "stages" / "scores-s1" / "manifest.json")
    kept = [stage for stage in run["stages"] if stage["name"] != "scores-s1"]
    for upstream in ("GPT-4", "Claude-2"):
        for number, name in enumerate(SETS):
            cell = [row for row in rows if row["system"].endswith("@" + upstream)]
            chosen = [
                {**row, "set": name, "id": f"{name}/{row['id']}"} for row in cell if int(row["id"][1:]) % 2 == number
            ]
            stage = f"scores-{upstream}-{name}-s1"
            write_jsonl(folder / "stages" / stage / "scores.jsonl", chosen)
            write_json(folder / "stages" / stage / "manifest.json", {**manifest, "identity": stage})
            kept.append({"name": stage, "identity": stage, "folder": f"stages/{stage}"})
    write_json(folder / "run.json", {**run, "stages": kept})
    return folder


def test_every_cell_is_compared_on_its_own_set_and_stands_beside_the_published_one(table: Path) -> None:
    rows = {(row["upstream"], row["set"], row["axis"]): row for row in main_table(load_run(table))}
    assert list(rows) == [
        ("GPT-4", "beavertails", "helpful"), ("GPT-4", "beavertails", "harmless"),
        ("Claude-2", "beavertails", "helpful"), ("Claude-2", "beavertails", "harmless"),
        ("GPT-4", "truthfulqa", "helpful"), ("Claude-2", "truthfulqa", "helpful"),
    ]  # fmt: skip
    assert {row["n"] for row in rows.values()} == {10}
    assert {row["omega"] for key, row in rows.items() if key[0] == "GPT-4"} == {100.0}
    assert {row["omega"] for key, row in rows.items() if key[0] == "Claude-2"} == {-100.0}
    assert rows["Claude-2", "beavertails", "harmless"]["published"] == 30.3
    assert rows["GPT-4", "truthfulqa", "helpful"]["published"] == -1.2


def test_the_heat_map_has_upstreams_down_sets_across_and_the_average_last(table: Path) -> None:
    frame = omega_table(main_table(load_run(table)), "aligned")
    assert list(frame.index) == ["GPT-4", "Claude-2", "average"]
    assert list(frame.columns) == ["beavertails\nhelpful", "beavertails\nharmless", "truthfulqa\nhelpful"]
    assert frame.loc["average"].tolist() == [0.0, 0.0, 0.0]
    printed = [text.get_text() for text in heat_map(frame).axes[0].texts]
    assert printed[:3] == ["+100.0"] * 3
    assert printed[-1] == "+0.0"


def test_the_report_has_the_table_and_both_heat_maps_and_no_pair_across_cells(table: Path) -> None:
    write_report(table)
    page = (table / "report.html").read_text()
    assert '<table class="sortable" id="main_table">' in page
    assert "Performance gap recovered" not in page
    assert "Beside the published numbers" not in page
    figures = {path.stem for path in (table / "figures").glob("*.png")}
    assert {"main_table_aligned", "main_table_published", "redistribution"} <= figures
    compared = {(row["a"], row["b"]) for row in read_json(table / "report.json")["comparisons"]}
    assert compared == {("aligned@GPT-4", "upstream@GPT-4"), ("aligned@Claude-2", "upstream@Claude-2")}


def test_a_set_is_read_on_the_axes_it_is_meant_for() -> None:
    assert axes_of("beavertails") == ("helpful", "harmless")
    assert axes_of("empathetic_dialogues") == axes_of("dialogsum") == ("helpful",)
    assert axes_of("xstest") == ("harmless",)
    assert axes_of("my_file") == ("helpful", "harmless")


def test_only_an_aligner_of_a_published_base_has_published_cells() -> None:
    assert published_cells("google/gemma-2b")["Vicuna-33B", "beavertails", "harmless"] == 52.4
    assert len(published_cells("meta-llama/Llama-2-70b-hf")) == 11 * 7
    assert published_cells("embedded:tiny-random") == {}
