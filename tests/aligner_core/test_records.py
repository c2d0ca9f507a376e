"""Reading foreign records: every fault is named with its line, and nothing is dropped in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from aligner_core.errors import UserError
from aligner_core.records import Answer, Correction, Question, question_key, read_records

GOOD = {"id": "good", "question": "Is tea safe?", "answer": "Yes.", "correction": "Yes, in moderation."}


def lines_file(folder: Path, *lines: bytes) -> Path:
    path = folder / "records.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def as_line(**changes: Any) -> bytes:
    row = {key: value for key, value in {**GOOD, **changes}.items() if value is not ...}
    return json.dumps(row, ensure_ascii=False).encode()


def problems_of(path: Path) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as caught:
        read_records(path, Correction)
    return [(problem.where, problem.what) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"question": ', "is not JSON"),
        (as_line(answer=...), 'field "answer" is missing'),
        (as_line(correction=...), 'field "correction" is missing'),
        (as_line(correction=""), 'field "correction": is empty'),
        (as_line(correction=" \n\t"), 'field "correction": is empty'),
        (as_line(question=" "), 'field "question": is empty'),
        (as_line(question=5), 'field "question"'),
        (as_line(correction=None), 'field "correction"'),
        (as_line(answer="x" * 100_000), 'field "answer" has 100,000 characters'),
        (as_line(id="good"), 'id "good" was already used in line 1'),
        (as_line(history=[{"role": "user", "content": ""}]), 'field "history.0.content": is empty'),
        (as_line(history=[{"role": "user", "text": "Hi"}]), 'field "history.0.content" is missing'),
        (b'{"question": "caf\xe9"}', "is not UTF-8 (byte 18 of the line)"),
        (b'{"question": "a \\ud800 b", "answer": "c", "correction": "d"}', 'field "question"'),
        (b"[1, 2]", "is not a JSON object"),
        (b"null", "is not a JSON object"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, line: bytes, expected: str) -> None:
    path = lines_file(tmp_path, as_line(), b"", line)
    problems = problems_of(path)
    assert problems[0][0] == f"{path}:3"
    assert any(expected in what for _, what in problems)


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"question": ' + b"1" * 5000 + b"}"])
def test_json_that_python_gives_up_on_is_named_too(tmp_path: Path, line: bytes) -> None:
    path = lines_file(tmp_path, as_line(), line)
    assert [where for where, _ in problems_of(path)] == [f"{path}:2"]


def test_all_problems_are_reported_at_once_in_the_files_order(tmp_path: Path) -> None:
    faulty = (
        b"{",
        as_line(id="b", answer=...),
        as_line(id="c", correction=""),
        b'"\xff"',
        as_line(),
        as_line(question=""),
    )
    path = lines_file(tmp_path, as_line(), *faulty)
    assert [where for where, _ in problems_of(path)] == [f"{path}:{line}" for line in range(2, 8)]


def test_a_record_with_two_faults_gives_two_problems(tmp_path: Path) -> None:
    assert len(problems_of(lines_file(tmp_path, as_line(question="", answer=...)))) == 2


def test_every_problem_says_how_to_mend_it(tmp_path: Path) -> None:
    path = lines_file(tmp_path, as_line(), as_line(), b"{", b"\xff", as_line(id="d", answer=...), b"3")
    with pytest.raises(UserError) as caught:
        read_records(path, Correction)
    assert all(problem.fix for problem in caught.value.problems)
    assert len(caught.value.problems) == 5


def test_over_twenty_problems_are_shortened_to_twenty_and_a_count(tmp_path: Path) -> None:
    problems = problems_of(lines_file(tmp_path, *[b"{"] * 33))
    assert len(problems) == 21
    assert problems[-1][1] == "and 13 problems more"


def test_twenty_problems_are_all_shown(tmp_path: Path) -> None:
    path = lines_file(tmp_path, *[b"{"] * 20)
    assert [where for where, _ in problems_of(path)] == [f"{path}:{line}" for line in range(1, 21)]


def test_the_longest_allowed_answer_is_read_whole(tmp_path: Path) -> None:
    [record] = read_records(lines_file(tmp_path, as_line(answer="ä" * 50_000)), Correction)
    assert record.answer == "ä" * 50_000


def test_a_json_list_reads_like_json_lines(tmp_path: Path) -> None:
    rows = [{**GOOD, "id": str(number), "source": "published"} for number in range(3)]
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    lines = lines_file(tmp_path, *(json.dumps(row).encode() for row in rows))
    assert read_records(tmp_path / "list.json", Correction) == read_records(lines, Correction)


def test_problems_of_a_json_list_count_its_elements(tmp_path: Path) -> None:
    path = tmp_path / "list.json"
    path.write_text(json.dumps([GOOD, {**GOOD, "id": "b", "answer": None}, GOOD]))
    assert [where for where, _ in problems_of(path)] == [f"{path}:2", f"{path}:3"]


@pytest.mark.parametrize(
    ("content", "where", "what"),
    [
        (b'[{"question": "a"},\n oops]', ":2", "is not JSON"),
        (b'{"question": "a"}', "", "is not a list"),
        (b'["\xff"]', "", "is not UTF-8"),
        (b"[]", "", "holds no record"),
    ],
)
def test_a_malformed_json_list_is_named(tmp_path: Path, content: bytes, where: str, what: str) -> None:
    path = tmp_path / "list.json"
    path.write_bytes(content)
    [(found, said)] = problems_of(path)
    assert found == f"{path}{where}"
    assert what in said


def test_an_empty_file_is_an_error(tmp_path: Path) -> None:
    assert problems_of(lines_file(tmp_path, b"", b"  ")) == [(str(tmp_path / "records.jsonl"), "holds no record")]


def test_a_missing_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    [(where, what)] = problems_of(tmp_path / "nowhere.jsonl")
    assert where == str(tmp_path / "nowhere.jsonl")
    assert "No such file" in what


def test_unknown_keys_are_kept(tmp_path: Path) -> None:
    [record] = read_records(lines_file(tmp_path, as_line(unsafe=True, source={"page": 3})), Correction)
    assert record.row() == {
        **GOOD,
        "unsafe": True,
        "source": {"page": 3},
        "upstream": "unknown",
        "corrector": "unknown",
    }


def test_a_blank_answer_is_a_record(tmp_path: Path) -> None:
    [record] = read_records(lines_file(tmp_path, as_line(answer="")), Answer)
    assert record.answer == ""


def test_records_without_ids_get_stable_distinct_ones(tmp_path: Path) -> None:
    path = lines_file(tmp_path, as_line(id=...), as_line(id=..., answer="No."))
    first, second = read_records(path, Correction)
    assert first.id != second.id
    assert [first, second] == read_records(path, Correction)


def test_a_repeated_record_without_id_is_a_duplicate(tmp_path: Path) -> None:
    path = lines_file(tmp_path, as_line(id=...), as_line(id=...))
    [(where, what)] = problems_of(path)
    assert where == f"{path}:2"
    assert "already used in line 1" in what


def test_a_window_line_end_does_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"question": "a"}\r\n{"question": "b"}\r\n')
    assert [record.question for record in read_records(path, Question)] == ["a", "b"]


def test_questions_are_the_same_but_for_case_and_spacing() -> None:
    assert question_key(" Is  TEA\nsafe? ") == question_key("is tea safe?")
    assert question_key("is tea safe") != question_key("is tea safe?")
