"""The main table from known scores: every cell, its average, and the published one beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.files import read_json, write_json
from analysis.figures.main_table import heat_map
from analysis.main_table import axes_of, main_table, omega_table, published_cells
from analysis.report import write_report
from analysis.results import corrections
from analysis.run_data import load_run
from tests.analysis.fake_runs import fake_main_table


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return fake_main_table(tmp_path)


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


def test_sets_stand_in_the_order_of_the_recipe(table: Path) -> None:
    alphabetical = load_run(table)
    run = read_json(table / "run.json")
    run["stages"].sort(key=lambda stage: "beavertails" in stage["name"])
    write_json(table / "run.json", run)
    turned = load_run(table)
    assert (alphabetical.sets, turned.sets) == (["beavertails", "truthfulqa"], ["truthfulqa", "beavertails"])
    assert omega_table(main_table(turned), "aligned").columns[0] == "truthfulqa\nhelpful"
    for system in turned.systems:
        assert turned.matrix(system, "id").tolist() == turned.matrix(turned.systems[0], "id").tolist()
        assert sorted(turned.questions) == alphabetical.questions


def test_all_upstreams_corrections_are_counted(table: Path) -> None:
    assert corrections(load_run(table))["pairs"] == 2 * 20


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
