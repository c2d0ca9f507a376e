"""`w2s data` as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from w2s.cli import main

GOOD = {"id": "1", "question": "Is tea safe?", "answer": "Yes.", "correction": "Yes, in moderation."}
TINY = "embedded:tiny-random"


def w2s_data(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["data", *map(str, arguments)])


def data_file(folder: Path, *rows: dict[str, Any], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_the_embedded_data_has_no_fault() -> None:
    result = w2s_data("check", "embedded:corrections", "embedded:queries", "embedded:eval", "--model", TINY, "--json")
    assert result.exit_code == 0, result.output
    reports = json.loads(result.stdout)["sources"]
    assert [(report["kind"], report["rejected"], report["problems"]) for report in reports] == [
        ("qac", 0, []), ("question", 0, []), ("question", 0, []),
    ]  # fmt: skip


def test_faults_of_all_files_come_at_once_after_the_table_with_exit_2(tmp_path: Path) -> None:
    first = data_file(tmp_path, GOOD, GOOD, {**GOOD, "id": "2", "correction": " "}, name="first.jsonl")
    second = data_file(tmp_path, GOOD, {**GOOD, "id": "2", "answer": None}, name="second.jsonl")
    result = w2s_data("check", first, second)
    assert result.exit_code == 2
    for expected in (f'{first}:2: id "1" was already used', f"{first}:3: ", f'{second}:2: field "answer"'):
        assert expected in result.stderr
    assert [line.split()[1:] for line in result.stdout.splitlines()[2:]] == [
        ["qac", "1", "2", "2"], ["qac", "1", "1", "1"],
    ]  # fmt: skip


def test_over_long_records_are_counted_and_named_but_are_no_fault(tmp_path: Path) -> None:
    path = data_file(tmp_path, GOOD, {**GOOD, "id": "long", "answer": "x" * 900})
    result = w2s_data("check", path, "--model", TINY, "--max-length", 600)
    assert result.exit_code == 0, result.output
    assert f"over-long in {path}: long" in result.stdout


def test_a_limit_without_a_tokenizer_and_unknown_names_are_errors(tmp_path: Path) -> None:
    path = data_file(tmp_path, GOOD)
    assert "name a tokenizer with --model" in w2s_data("check", path, "--max-length", 10).stderr
    assert "no embedded model" in w2s_data("check", path, "--model", "embedded:none").stderr
    assert "use one of: " in w2s_data("check", path, "--model", TINY, "--template", "none@1").stderr
    assert "is not THEIRS=OURS" in w2s_data("check", path, "--columns", "prompt").stderr
    assert 'there is no data "embedded:none"' in w2s_data("check", "embedded:none").stderr


def test_renamed_columns_and_a_given_kind_are_understood(tmp_path: Path) -> None:
    path = data_file(tmp_path, {"prompt": "Is tea safe?", "answer": "Yes."})
    assert "qa " in w2s_data("check", path, "--columns", "prompt=question").stdout
    assert 'field "correction" is missing' in w2s_data(
        "check", path, "--columns", "prompt=question", "--kind", "qac"
    ).stderr  # fmt: skip


@pytest.mark.parametrize("model", [[], ["--model", TINY]])
def test_statistics_of_the_embedded_corrections_agree_with_the_data_card(model: list[str]) -> None:
    result = w2s_data("stats", "embedded:corrections", *model)
    assert result.exit_code == 0, result.output
    assert "968 records" in result.stdout
    assert "copies of the answer: 15.6%" in result.stdout
    assert "explanation             90              12            38                41     27% " in result.stdout
    assert ("tokens of a whole example" in result.stdout) == bool(model)


def test_statistics_for_machines_are_one_json_object() -> None:
    result = w2s_data("stats", "embedded:eval", "--model", TINY, "--json")
    [report] = json.loads(result.stdout)["sources"]
    assert report["records"] == 458
    assert sum(count for *_, count in report["examples"]) == 458
    assert set(report["lengths"]) == {"question", "reference"}


def test_statistics_of_a_faulty_file_are_refused(tmp_path: Path) -> None:
    result = w2s_data("stats", data_file(tmp_path, {"question": " "}))
    assert result.exit_code == 2
    assert 'field "question": is empty' in result.stderr


REPEATED = [
    {"id": "a", "question": "How long should I boil an egg if I want the yolk to be just barely runny?"},
    {"id": "b", "question": "how long should I boil an egg if I want the yolk to be just barely  runny?"},
    {"id": "c", "question": "How long should I boil an egg if I want the yolk to be just barely soft?"},
    {"id": "d", "question": "What is rain?"},
]


def test_repeats_and_leaks_are_dropped_with_reasons_and_the_flow_is_carried_on(tmp_path: Path) -> None:
    source, once, clean = data_file(tmp_path, *REPEATED), tmp_path / "once.jsonl", tmp_path / "clean.jsonl"
    result = w2s_data("dedup", source, "-o", once)
    assert result.exit_code == 0, result.output
    dropped = [json.loads(line)["dropped"] for line in (tmp_path / "once.dropped.jsonl").read_text().splitlines()]
    assert [(why["reason"], why["partner"]) for why in dropped] == [("exact", "a"), ("near-duplicate", "a")]
    held_out = data_file(tmp_path, {"id": "e", "question": "WHAT is rain?"}, name="eval.jsonl")
    result = w2s_data("leakage", once, "--against", held_out, "--against", "embedded:eval", "-o", clean)
    assert result.exit_code == 0, result.output
    assert [line.split() for line in clean.read_text().splitlines()] == [json.dumps(REPEATED[0]).split()]
    flow = [
        line.split("  ")[0] for line in w2s_data("stats", clean).stdout.split("how it came about\n")[1].splitlines()
    ]
    assert flow == [
        "read", "- dedup: exact", "- dedup: near-duplicate", "after dedup", "- leakage: exact", "after leakage",
    ]  # fmt: skip


def test_a_data_set_that_was_changed_since_has_no_flow(tmp_path: Path) -> None:
    once = tmp_path / "once.jsonl"
    assert w2s_data("dedup", data_file(tmp_path, *REPEATED), "-o", once).exit_code == 0
    once.write_text(once.read_text() + json.dumps({"question": "New?"}) + "\n")
    assert "how it came about" not in w2s_data("stats", once).stdout


def test_counts_for_machines_are_one_json_object(tmp_path: Path) -> None:
    result = w2s_data("dedup", data_file(tmp_path, *REPEATED), "-o", tmp_path / "once.jsonl", "--json")
    assert json.loads(result.stdout) == {
        "step": "dedup", "read": 4, "kept": 2, "dropped": {"exact": 1, "near-duplicate": 1},
    }  # fmt: skip


def test_the_source_is_never_written_over_and_faults_stop_the_command(tmp_path: Path) -> None:
    source = data_file(tmp_path, *REPEATED, {"question": ""})
    assert "is the source itself" in w2s_data("dedup", source, "-o", source).stderr
    assert "is not a .jsonl file" in w2s_data("dedup", source, "-o", tmp_path / "once.csv").stderr
    result = w2s_data("dedup", source, "-o", tmp_path / "once.jsonl")
    assert result.exit_code == 2
    assert f"{source}:5" in result.stderr
    assert w2s_data("leakage", "embedded:eval", "--against", source, "-o", tmp_path / "clean.jsonl").exit_code == 2
    assert not (tmp_path / "once.jsonl").exists()


def test_no_question_of_the_embedded_data_gives_an_evaluated_one_away(tmp_path: Path) -> None:
    for source in ("embedded:corrections", "embedded:queries"):
        out = tmp_path / "clean.jsonl"
        result = w2s_data("leakage", source, "--against", "embedded:eval", "-o", out, "--json")
        assert json.loads(result.stdout)["dropped"] == {}
