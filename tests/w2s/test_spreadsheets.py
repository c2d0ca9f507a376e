"""Tables survive spreadsheet programs, and run nothing in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.errors import UserError
from w2s.spreadsheets import fits_cell, guarded, read_table, unguarded, write_table


@given(st.text() | st.text("='+x-"))
def test_no_text_begins_a_formula_and_each_comes_back(text: str) -> None:
    assert not guarded(text).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert unguarded(guarded(text)) == text


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\0")), min_size=1, max_size=5))
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    write_table(path, ("id", "text"), [[f"n{number}", text] for number, text in enumerate(texts)])
    read = read_table(path, ("id", "text"))
    assert [row for _, row in read] == [{"id": f"n{number}", "text": text} for number, text in enumerate(texts)]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_of_other_programs_are_understood(tmp_path: Path, mark: str, encoding: str) -> None:
    path = tmp_path / "table.csv"
    rows = [["text", "id", "note"], ['"ä; b, c\nd"', "1", ""], ["", "", ""], ["e", "2", "f"]]
    path.write_text("\r\n".join(mark.join(row) for row in rows), encoding=encoding)
    assert [(number, row["id"]) for number, row in read_table(path, ("id", "text"))] == [(2, "1"), (4, "2")]
    assert read_table(path, ("id", "text"))[0][1]["text"] == "ä; b, c\nd"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"id,other\n1,2\n", "has no columns id and text"),
        (b"", "has no columns id and text"),
        (b"id,text\n1,\xe4\n", "cannot be read: .*save it as CSV in UTF-8"),
        (b"id,text\n1,2,3\n1,2\n1,2,3,4\n", "(?s)row 2: has more cells.*row 4: has more cells"),
    ],
)
def test_what_is_no_such_table_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason.replace(".*save", "(?s:.*)save")):
        read_table(path, ("id", "text"))


def test_a_cell_holds_so_many_characters_and_emoji_count_twice() -> None:
    assert fits_cell("x" * 32_767)
    assert not fits_cell("=" + "x" * 32_766)
    assert not fits_cell("😀" * 16_384)
