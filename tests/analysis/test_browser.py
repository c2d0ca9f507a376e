"""The report in a real browser: nothing fails, nothing is fetched, sorting and differences work."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aligner_core.files import write_jsonl
from analysis.example import IDA, QUICKSTART, extract
from analysis.report import write_report
from tests.analysis.fake_runs import fake_comparison, fake_main_table, fake_run

# Clicks through the page as a reader would, and leaves what it saw in the page for --dump-dom.
DRIVER = """
<script>
const value = (cell) => cell.dataset.value ?? cell.textContent;
const column = (id, index) => [...document.querySelectorAll(`#${id} tbody tr`)].map((row) => value(row.cells[index]));
const heads = (id) => document.querySelectorAll(`#${id} th`);
const clicked = (id, index) => { heads(id)[index].click(); return column(id, index); };
const seen = {
  first: column("examples", 2),
  descending: clicked("examples", 2),
  shown_order: heads("examples")[2].ariaSort,
  ascending: clicked("examples", 2),
  by_name: clicked("stages", 0),
  others_unmarked: [...heads("examples")].filter((head) => head.ariaSort).length,
};
heads("examples")[1].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter" }));
seen.by_key = column("examples", 1);
const colour = (kind) => getComputedStyle(document.querySelector(`#examples ${kind}`)).backgroundColor;
seen.colours = [colour("ins"), colour("del")];
const closed = document.querySelector("#examples details:not([open])");
closed.querySelector("summary").click();
seen.opens = closed.open && closed.querySelector(".diff").getBoundingClientRect().height > 0;
seen.pictures = [...document.images].map((image) => image.naturalWidth);
const loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
seen.fetched = loaded.filter((name) => !name.startsWith("data:"));
const tables = [...document.querySelectorAll("table.sortable")];
const rows = () => Object.fromEntries(tables.map((table) => [table.id, table.tBodies[0].rows.length]));
seen.before = rows();
tables.forEach((table) => table.querySelectorAll("th").forEach((head) => head.click()));
seen.after = rows();
const result = document.createElement("pre");
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
</script>
"""


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless Chromium; the proxy is a closed port, so that a request to the outside would fail."""
    browser = shutil.which("chromium")
    assert browser, "make test-slow installs chromium"
    return subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1200,2400",
         "--enable-logging=stderr", "--v=0", "--proxy-server=127.0.0.1:9", *options, page.as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def students_and_judge(folder: Path) -> Path:
    """A run with a student by each method, of whose trainings and systems everything is known."""
    run = fake_run(folder, {"upstream": 0.0, "aligned": 1.0, "floor": 0.0, "student": 1.0, "student_dpo": 2.0,
                            "student_ppo": 1.5, "ceiling": 2.0})  # fmt: skip
    write_jsonl(run / "judged" / "one.jsonl", [fake_comparison(), fake_comparison(axis="harmless", omega=5.0)])
    steps = [
        {"step": step, "iteration": step, "loss": 1.0, "accuracy": 0.5, "margin": 0.1, "kl": 0.0} for step in (1, 2)
    ]
    write_jsonl(run / "stages" / "scores-s1" / "metrics.jsonl", steps)
    write_jsonl(run / "stages" / "scores-s1" / "iterations.jsonl", steps)
    return run


RUNS: dict[str, Callable[[Path], Path]] = {
    "quickstart": lambda folder: extract(QUICKSTART, folder),
    "ida_quickstart": lambda folder: extract(IDA, folder),
    "students": students_and_judge,
    "main_table": lambda folder: fake_main_table(folder, questions=80),
}
TABLES = {
    "students": {"judged"},
    "main_table": {"main_table"},
    "ida_quickstart": {"rounds"},
}  # beside those of every report


@pytest.fixture(scope="module", params=RUNS)
def report(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = RUNS[request.param](tmp_path_factory.mktemp(request.param))
    write_report(run)
    return run / "report.html"


@pytest.fixture(scope="module")
def seen(report: Path) -> dict[str, Any]:
    driven = report.with_name("driven.html")
    driven.write_text(report.read_text().replace("</body>", DRIVER + "</body>"))
    result = browse(driven, "--dump-dom")
    assert "CONSOLE" not in result.stderr
    (found,) = re.findall(r'<pre id="seen">(.*?)</pre>', result.stdout, flags=re.DOTALL)
    return dict(json.loads(html.unescape(found)))


@pytest.mark.slow
def test_the_report_renders_without_errors_or_requests(report: Path, seen: dict[str, Any], tmp_path: Path) -> None:
    picture = tmp_path / "report.png"
    result = browse(report, f"--screenshot={picture}")
    assert picture.stat().st_size > 50_000, result.stderr
    assert "CONSOLE" not in result.stderr
    assert "ERR_" not in result.stderr
    assert seen["fetched"] == []
    assert min(seen["pictures"]) > 300
    assert len(seen["pictures"]) >= 3


@pytest.mark.slow
def test_a_click_on_a_head_sorts_largest_first_and_another_turns_the_order(seen: dict[str, Any]) -> None:
    numbers = sorted(map(float, seen["first"]))
    assert len(numbers) > 30
    assert list(map(float, seen["first"])) not in (numbers, numbers[::-1])
    assert list(map(float, seen["descending"])) == numbers[::-1]
    assert seen["shown_order"] == "descending"
    assert list(map(float, seen["ascending"])) == numbers
    by_key = list(map(float, seen["by_key"]))
    assert by_key == sorted(by_key, reverse=True)
    assert seen["others_unmarked"] == 1
    assert [name.split("-")[0] for name in seen["by_name"]] == sorted(
        (name.split("-")[0] for name in seen["by_name"]), reverse=True
    )


@pytest.mark.slow
def test_every_column_of_every_table_sorts_and_loses_no_row(report: Path, seen: dict[str, Any]) -> None:
    kind = max((name for name in RUNS if name in str(report.parent)), key=len)
    assert set(seen["before"]) == {"systems", "comparisons", "examples", "stages"} | TABLES.get(kind, set())
    assert seen["after"] == seen["before"]
    assert min(seen["before"].values()) > 0


@pytest.mark.slow
def test_differences_are_coloured_and_unfold_on_a_click(seen: dict[str, Any]) -> None:
    inserted, deleted = seen["colours"]
    assert inserted != deleted
    assert "rgba(0, 0, 0, 0)" not in (inserted, deleted)
    assert seen["opens"] is True
