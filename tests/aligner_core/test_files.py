"""Files appear whole or not at all, and digests depend on content alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.files import (
    cache_folder,
    digest,
    file_digest,
    open_atomic,
    open_folder,
    read_json,
    read_jsonl,
    write_json,
    write_jsonl,
    write_text,
)

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def fail(error: type[BaseException]) -> Iterator[dict[str, Any]]:
    yield {"row": 1}
    raise error


def write_half_and_fail(path: Path) -> None:
    with open_atomic(path) as stream:
        stream.write("half")
        raise ValueError("stop")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_inside_the_block_leaves_the_old_file_alone(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "table.jsonl"
    write_jsonl(path, [{"row": 0}])
    with pytest.raises(error):
        write_jsonl(path, fail(error))
    assert read_jsonl(path) == [{"row": 0}]
    assert os.listdir(tmp_path) == ["table.jsonl"]


def write_half_a_folder(folder: Path) -> None:
    with open_folder(folder) as writing:
        write_text(writing / "first", "half")
        raise KeyboardInterrupt


def test_a_folder_is_whole_or_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for times in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_half_a_folder(folder)
        assert folder.exists() == bool(times)
        with open_folder(folder) as writing:
            write_text(writing / f"file {times}", "whole")
        assert os.listdir(folder) == [f"file {times}"]
        assert os.listdir(tmp_path) == ["model"]


def test_a_failure_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"):
        write_half_and_fail(tmp_path / "new.txt")
    assert os.listdir(tmp_path) == []


def test_the_old_content_is_read_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    write_text(path, "old")
    with open_atomic(path) as stream:
        stream.write("new")
        stream.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["value.txt"]


def test_missing_folders_are_made_and_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "value.txt"
    write_text(path, "x\r\ny\n")
    assert path.read_bytes() == b"x\r\ny\n"
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("write", [write_json, lambda path, value: write_jsonl(path, [value])])
def test_a_value_without_json_form_leaves_nothing(tmp_path: Path, write: Callable[[Path, Any], None]) -> None:
    with pytest.raises(TypeError):
        write(tmp_path / "value.json", {"value": object()})
    assert os.listdir(tmp_path) == []


def test_json_and_json_lines_come_back_as_written(tmp_path: Path) -> None:
    rows = [{"text": "né\u2028日本\n", "value": 0.1}, {"text": "", "value": None}]
    write_json(tmp_path / "value.json", rows)
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_json(tmp_path / "value.json") == read_jsonl(tmp_path / "rows.jsonl") == rows
    assert (tmp_path / "rows.jsonl").read_bytes().count(b"\n") == 2


@given(st.dictionaries(st.text(), JSON_VALUES, min_size=2))
def test_a_digest_ignores_key_order(value: dict[str, Any]) -> None:
    assert digest(dict(reversed(value.items()))) == digest(value)


@given(JSON_VALUES, JSON_VALUES)
def test_digests_are_equal_exactly_where_the_json_is(first: Any, second: Any) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (digest(first) == digest(second)) == same


def test_a_digest_keeps_list_order_and_types() -> None:
    values: list[Any] = [[1, 2], [2, 1], ["1", 2], {"1": 2}, None, "null", [], {}]
    assert len({digest(value) for value in values}) == len(values)


def test_a_digest_is_the_same_on_every_machine() -> None:
    assert digest({"b": [1, None], "a": "é"}) == "3d92f6368f93f3cb36a4e7a721098054dfbfd705e31fa50409f2d99e0727a08c"


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert file_digest(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("W2S_CACHE", raising=False)
    assert cache_folder() == tmp_path / "w2s"
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
