"""Notebooks run on the shipped examples, on a run given to them, and stay in the repository without outputs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import pytest

from analysis.example import IDA, QUICKSTART
from analysis.notebooks import executed, paths, render
from tests.analysis.fake_runs import SYSTEMS, fake_run

NAMES = (
    "00_overview",
    "01_redistribution",
    "02_warm_up",
    "03_weak_to_strong",
    "04_ida",
    "05_main_table",
    "06_training",
)
FIGURES = {"00_overview": 2, "01_redistribution": 4, "02_warm_up": 2, "03_weak_to_strong": 2, "04_ida": 3,
           "05_main_table": 5, "06_training": 2}  # fmt: skip


def pictures(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def printed(notebook: nbformat.NotebookNode) -> str:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


def test_there_is_an_overview_and_a_notebook_per_group_of_figures() -> None:
    assert tuple(path.stem for path in paths()) == NAMES


@pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
def test_a_notebook_is_committed_without_outputs_and_takes_the_run_as_a_parameter(path: Path) -> None:
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    (parameters,) = [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])]
    assert 'run_folder = os.environ.get("W2S_RUN", "")' in "".join(parameters["source"])


@pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
def test_a_notebook_draws_its_figures_from_the_shipped_example(path: Path) -> None:
    notebook = executed(path)
    assert pictures(notebook) == FIGURES[path.stem]
    assert (IDA if path.stem == "04_ida" else QUICKSTART).name in printed(notebook)


def test_a_run_given_to_a_notebook_is_the_one_shown(tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", {**dict.fromkeys(SYSTEMS, 0.0), "student": 2.0}, name="given")
    notebook = executed(paths()[0], run)
    assert "given: upstream, aligned" in printed(notebook)
    assert "student is above upstream in helpfulness" in printed(notebook)


@pytest.mark.slow
@pytest.mark.parametrize("example", [QUICKSTART, IDA], ids=lambda example: example.name)
@pytest.mark.parametrize("path", paths(), ids=lambda path: path.stem)
def test_every_notebook_takes_every_kind_of_run(path: Path, example: Path) -> None:
    assert example.name in printed(executed(path, example))


def test_a_rendered_notebook_is_one_file_that_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    page = render(paths()[-1], tmp_path).read_text()
    assert len(re.findall('<img[^>]*src="data:image/png', page)) == FIGURES["06_training"]
    assert not re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)', page)
