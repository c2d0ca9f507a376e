"""People annotate in two stages, by spreadsheets that are checked row by row."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from aligner_core.files import read_jsonl
from aligner_core.records import Correction, read_records
from w2s.cli import main
from w2s.spreadsheets import guarded

ROWS = [
    {"id": "a", "question": "Why?", "answer": "=SUM(1;2), you fool.", "upstream": "m", "topic": "x"},
    {"id": "b", "question": "How?", "answer": "Mit Ä,\n\"so\".", "upstream": "m",
     "history": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]},
    {"id": "c", "question": "When?", "answer": "Now.", "upstream": "m"},
]  # fmt: skip
Table = list[dict[str, str]]


def annotate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", "annotate", *map(str, arguments)])


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    path = tmp_path / "qa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def fill_in(path: Path, change: Callable[[Table], None]) -> Path:
    """What people do to a sheet."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        table = list(csv.DictReader(stream))
    names = list(table[0])
    change(table)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, names)
        writer.writeheader()
        writer.writerows(table)
    return path


def stage_one(answers: Path) -> Path:
    sheet = answers.with_name("one.csv")
    result = annotate(answers, "--export", sheet)
    assert result.exit_code == 0, result.output
    assert "3 of 3 answers; fill in the column safe_answer" in result.output
    return sheet


def stage_two(answers: Path) -> Path:
    def make_safe(table: Table) -> None:
        table[0]["safe_answer"], table[1]["safe_answer"] = guarded("=SUM(1;2)."), " Mit Ä. "

    sheet, second = fill_in(stage_one(answers), make_safe), answers.with_name("two.csv")
    result = annotate(answers, "--import", sheet, "--export", second)
    assert result.exit_code == 0, result.output
    assert "2 of 3 answers; fill in the column correction" in result.output
    return second


def test_two_stages_end_in_records_of_the_published_schema(answers: Path, tmp_path: Path) -> None:
    def correct(table: Table) -> None:
        assert table[0]["answer"] == "'=SUM(1;2), you fool.", "no program takes it for a formula"
        assert table[1]["history"] == "user: Hi\nassistant: Ho"
        assert [row["safe_answer"] for row in table] == ["'=SUM(1;2).", "Mit Ä."]
        table[0]["correction"] = "Three."
        table.reverse()

    target = tmp_path / "qac.jsonl"
    result = annotate(answers, "--import", fill_in(stage_two(answers), correct), "--output", target)
    assert result.exit_code == 0, result.output
    assert read_jsonl(target) == [
        {**ROWS[0], "correction": "Three.", "corrector": "human", "safe_answer": "=SUM(1;2)."}
    ]
    assert len(read_records(target, Correction)) == 1
    dropped = read_jsonl(tmp_path / "qac.dropped.jsonl")
    assert [(row["id"], row["dropped"]) for row in dropped] == [
        (name, {"step": "annotate", "reason": "not annotated"}) for name in "bc"
    ]
    assert "- annotate: not annotated" in result.output


def test_every_spoilt_row_is_named_with_what_is_wrong_with_it(answers: Path, tmp_path: Path) -> None:
    def spoil(table: Table) -> None:
        table[0]["answer"], table[1]["answer"] = table[1]["answer"], table[0]["answer"]
        table[0]["correction"] = "#NAME?"
        table.append({**table[1], "id": "z"})
        table.append({**table[1], "id": "b", "question": "How? ", "answer": ROWS[1]["answer"].replace("\n", "\r\n")})
        table[-1]["correction"] = "x" * 50_001

    target = tmp_path / "qac.jsonl"
    result = annotate(answers, "--import", fill_in(stage_two(answers), spoil), "--output", target)
    assert result.exit_code == 2
    found = [line.split("two.csv: ")[1] for line in result.stderr.splitlines() if "two.csv: " in line]
    assert found == [
        "row 2: has another answer than the file",
        'row 2: has the error "#NAME?" in the column correction',
        "row 3: has another answer than the file",
        'row 4: has the unknown id "z"',
        'row 5: repeats the id "b" of row 3',
        "row 5: has over 50,000 characters in the column correction",
    ]
    assert not target.exists()


def test_stages_are_not_mixed_up(answers: Path, tmp_path: Path) -> None:
    one, target = stage_one(answers), tmp_path / "qac.jsonl"
    assert "has no text in the column safe_answer" in annotate(answers, "--import", one, "--output", target).stderr
    two = stage_two(answers)
    assert "is a sheet of stage 1" in annotate(answers, "--import", one, "--output", target).stderr
    fill_in(two, lambda table: table[0].update(correction="Three."))
    assert "is a sheet of stage 2" in annotate(answers, "--import", two, "--export", one).stderr


def test_a_text_that_no_cell_holds_is_not_cut_but_refused(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text(json.dumps({"id": "long", "question": "q", "answer": "x" * 40_000}))
    result = annotate(path, "--export", tmp_path / "one.csv")
    assert result.exit_code == 2
    assert "record long: has a text that is too long for a cell" in result.stderr
    assert not (tmp_path / "one.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "names nobody who annotates"),
        (["--output", "out.jsonl"], "names nobody who annotates"),
        (["--annotator", "embedded:tiny-random"], "--output: is missing"),
        (["--annotator", "nowhere", "--output", "out.jsonl"], "--annotator: unknown model"),
        (["--annotator", "embedded:tiny-random", "--export", "x.csv"], "a sheet is for people"),
        (["--annotator", "embedded:tiny-random", "--output", "out.csv"], "is not a .jsonl file"),
        (["--export", "x.csv", "--output", "out.jsonl"], "leave it out"),
    ],
)
def test_options_that_say_no_way_to_annotate_are_refused(answers: Path, arguments: list[str], reason: str) -> None:
    result = annotate(answers, *arguments)
    assert result.exit_code == 2
    assert reason in result.stderr
