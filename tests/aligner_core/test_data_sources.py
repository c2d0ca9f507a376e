"""Data of every form reads the same: JSON list, JSON Lines, Parquet, hub data sets, conversations."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from aligner_core.data_sources import HubId, data_source, parse_hub, read_source, size_of, source_file
from aligner_core.errors import UserError
from aligner_core.records import Answer, Correction, Pair, Question, Safety, kind_of, read_records

ROWS = [
    {"id": str(number), "question": f"What is {number}?", "answer": "A.", "correction": "A number.", "note": [number]}
    for number in range(5)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "hf"))


def written(folder: Path, suffix: str, rows: list[dict[str, Any]] | None = None) -> Path:
    path = folder / f"rows{suffix}"
    rows = ROWS if rows is None else rows
    if suffix == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A data set in the hub's layout, with two configurations and two splits, read by `datasets` without a network."""
    folder = tmp_path / "hub_set"
    for config in ("plain", "other"):
        (folder / config).mkdir(parents=True)
        for split, rows in (("train", ROWS[:3]), ("test", ROWS[3:])):
            named = [{**row, "id": f"{config}-{row['id']}"} for row in rows]
            written(folder / config, ".jsonl", named).rename(folder / config / f"{split}.jsonl")
    configs = [
        {"config_name": config, "data_files": [{"split": split, "path": f"{config}/{split}.jsonl"}
                                               for split in ("train", "test")], "default": config == "plain"}
        for config in ("plain", "other")
    ]  # fmt: skip
    (folder / "README.md").write_text("---\n" + json.dumps({"configs": configs}) + "\n---\n")
    return folder


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_every_form_reads_like_json_lines(tmp_path: Path, suffix: str) -> None:
    lines = read_records(written(tmp_path, ".jsonl"), Correction)
    assert read_records(written(tmp_path, suffix), Correction) == lines
    assert size_of(str(written(tmp_path, suffix))) == size_of(str(written(tmp_path, ".jsonl")))


def test_a_null_in_a_column_is_an_absent_value_and_its_row_is_named(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "history": None}, {**ROWS[1], "id": None}, {**ROWS[2], "correction": None}]
    path = written(tmp_path, ".parquet", rows)
    with pytest.raises(UserError) as caught:
        read_records(path, Correction)
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [
        (f"{path}:3", 'field "correction" is missing')
    ]


def test_dates_and_bytes_become_text_that_can_be_written_on(tmp_path: Path) -> None:
    rows = [{"question": "q", "when": datetime.date(2024, 2, 1), "deep": {"raw": b"x"}}]
    [record] = read_records(written(tmp_path, ".parquet", rows), Question)
    assert record.model_extra == {"when": "2024-02-01", "deep": {"raw": "b'x'"}}


def test_a_file_that_is_no_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.parquet").write_text("not this")
    with pytest.raises(UserError, match="is not Parquet"):
        read_records(tmp_path / "rows.parquet", Question)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("hub:aligner/aligner-20K", HubId("aligner/aligner-20K", None, None, "train")),
        ("hub:org/set:test", HubId("org/set", None, None, "test")),
        ("hub:org/set@v1:en:test", HubId("org/set", "v1", "en", "test")),
        ("hub:org/set:en:train[:10%]", HubId("org/set", None, "en", "train[:10%]")),
        ("hub:org/set:train[5:9]", HubId("org/set", None, None, "train[5:9]")),
        ("data.jsonl", None),
    ],
)
def test_a_hub_id_names_revision_configuration_and_split(source: str, expected: HubId | None) -> None:
    assert parse_hub(source) == expected


@pytest.mark.parametrize("source", ["hub:", "hub:a:b:c:d", "hub:org/set::test", "hub:@v1"])
def test_an_id_that_cannot_be_understood_is_an_error(source: str) -> None:
    with pytest.raises(UserError, match="is no hub data set"):
        data_source(source, "data.corrections")


@pytest.mark.parametrize(
    ("rest", "ids"),
    [
        ("", ["plain-0", "plain-1", "plain-2"]),
        (":test", ["plain-3", "plain-4"]),
        (":other:train[1:]", ["other-1", "other-2"]),
    ],
)
def test_a_hub_data_set_is_read_by_configuration_and_split(hub_folder: Path, rest: str, ids: list[str]) -> None:
    reading = read_source(f"hub:{hub_folder}{rest}", Correction, {})
    assert [record.id for record in reading.records] == ids
    assert reading.problems == []


def test_columns_of_a_hub_data_set_are_renamed_and_its_faults_are_named(hub_folder: Path) -> None:
    source = f"hub:{hub_folder}:test"
    reading = read_source(source, Question, {"correction": "reference"})
    assert [(record.model_extra or {})["reference"] for record in reading.records] == ["A number."] * 2
    faulty = read_source(source, Correction, {"correction": "reference"})
    assert [row.where for row in faulty.rejected] == [f"{source}:1", f"{source}:2"]


def test_a_split_that_is_not_there_is_an_error_with_a_way_out(hub_folder: Path) -> None:
    with pytest.raises(UserError, match="cannot be loaded") as caught:
        source_file(f"hub:{hub_folder}:validation")
    assert "split" in caught.value.problems[0].fix


def test_a_local_data_set_is_identified_by_its_content(hub_folder: Path) -> None:
    before = data_source(f"hub:{hub_folder}", "data").identity
    assert data_source(f"hub:{hub_folder}", "data").identity == before
    (hub_folder / "plain" / "train.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert data_source(f"hub:{hub_folder}", "data").identity != before
    assert data_source("hub:org/set@v1", "data").identity == "hub:org/set@v1"


def test_a_renamed_column_counts_for_the_size_and_comes_before_one_of_that_name(tmp_path: Path) -> None:
    path = written(tmp_path, ".jsonl", [{"prompt": "x" * 400, "question": "y"}])
    assert [record.question for record in read_records(path, Question, {"prompt": "question"})] == ["x" * 400]
    size, renamed = size_of(str(path)), size_of(str(path), {"prompt": "question"})
    assert size is not None
    assert renamed is not None
    assert (size.question_tokens, renamed.question_tokens) == (1, 101)


TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes?"},
    {"role": "user", "content": "Is tea safe?"},
]


def test_a_conversation_becomes_history_and_question(tmp_path: Path) -> None:
    path = written(tmp_path, ".jsonl", [{"messages": TURNS}])
    [record] = read_records(path, Question)
    assert record.question == "Is tea safe?"
    assert [turn.role for turn in record.history or ()] == ["system", "user", "assistant"]
    assert record.asked == "Be kind.\nHi\nYes?\nIs tea safe?"


def test_a_last_word_of_the_assistant_is_the_answer(tmp_path: Path) -> None:
    last = {"role": "assistant", "content": "Yes."}
    path = written(tmp_path, ".parquet", [{"chat": [TURNS[1], last], "correction": "Yes, in moderation."}])
    [record] = read_records(path, Correction, {"chat": "messages"})
    assert (record.question, record.answer, record.history) == ("Hi", "Yes.", None)


@pytest.mark.parametrize(
    ("history", "fault"),
    [
        ([{"role": "user", "content": "Hi"}], "end with assistant"),
        ([TURNS[2], TURNS[1]], "must alternate"),
        ([TURNS[1], TURNS[2], TURNS[0]], "must alternate"),
        ([{"role": "human", "content": "Hi"}], "'system', 'user' or 'assistant'"),
    ],
)
def test_a_history_that_no_template_takes_is_named(tmp_path: Path, history: list[Any], fault: str) -> None:
    path = written(tmp_path, ".jsonl", [{"question": "q", "history": history}])
    with pytest.raises(UserError) as caught:
        read_records(path, Question)
    assert any(fault in problem.what for problem in caught.value.problems), caught.value
    assert all("mend the conversation" in problem.fix for problem in caught.value.problems)


def test_what_a_file_holds_is_told_by_its_fields(tmp_path: Path) -> None:
    assert kind_of(written(tmp_path, ".jsonl"), {}) is Correction
    assert kind_of(written(tmp_path, ".jsonl", [{"question": "q"}, {"prompt": "p", "answer": "a"}]), {}) is Answer
    assert kind_of(written(tmp_path, ".jsonl", [{"question": "q"}]), {}) is Question
    assert kind_of(written(tmp_path, ".jsonl", [{"prompt": "p", "chosen": "c", "rejected": "r"}]), {}) is Pair
    assert kind_of(written(tmp_path, ".jsonl", [{"question": "q", "answer": "a", "safe": 1}]), {}) is Safety
    corrected = {"question": "q", "answer": "a", "correction": "c", "unsafe": True}
    assert kind_of(written(tmp_path, ".jsonl", [corrected]), {}) is Correction
    assert (
        kind_of(written(tmp_path, ".jsonl", [{"prompt": "p", "better": "c"}]), {"better": "correction"}) is Correction
    )
