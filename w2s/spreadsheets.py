"""Tables that people fill in with a spreadsheet program, as CSV, and what such programs do to them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from aligner_core.errors import Problem, UserError
from aligner_core.files import open_atomic

CELL_CHARACTERS = 32_767  # what a cell holds at most, in UTF-16 units; programs cut what is longer without a word
Row = dict[str, str]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_MARK = "\ufeff"  # without it, some programs take UTF-8 for an older encoding


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table; a text that a program would run as a formula gets an apostrophe in front."""
    with open_atomic(path) as stream:
        stream.write(_MARK)
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(columns)
        table.writerows([guarded(text) for text in row] for row in rows)


def read_table(path: Path, needed: Iterable[str]) -> list[tuple[int, Row]]:
    """The rows that hold anything, with their numbers in the spreadsheet. Commas, semicolons or tabs may part cells.

    Raises:
        UserError: if the file is no table with these columns, or with every row that has more cells than columns.
    """
    wanted = set(needed)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            delimiter = _delimiter(stream.readline(), wanted)
            stream.seek(0)
            table = csv.DictReader(stream, delimiter=delimiter, restval="")
            if not wanted <= set(table.fieldnames or ()):
                what = f"has no columns {' and '.join(sorted(wanted))}"
                raise UserError(Problem(str(path), what, "import what was exported"))
            rows = list(enumerate(table, 2))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(Problem(str(path), f"cannot be read: {error}", "save it as CSV in UTF-8")) from error
    fix = "check that the program kept the quotation marks around texts"
    if problems := [
        Problem(f"{path}: row {number}", "has more cells than columns", fix)
        for number, row in rows if None in row
    ]:  # fmt: skip
        raise UserError(problems)
    read = [(number, {name: unguarded(text) for name, text in row.items()}) for number, row in rows]
    return [(number, row) for number, row in read if any(text.strip() for text in row.values())]


def guarded(text: str) -> str:
    return f"'{text}" if text.lstrip("'").startswith(_FORMULA) else text


def unguarded(text: str) -> str:
    """The inverse of `guarded`."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(_FORMULA) else text


def fits_cell(text: str) -> bool:
    """Whether a spreadsheet keeps the whole text."""
    return len(guarded(text).encode("utf-16-le")) // 2 <= CELL_CHARACTERS


def _delimiter(head: str, wanted: set[str]) -> str:
    names = {mark: {name.strip().strip('"') for name in head.lstrip(_MARK).split(mark)} for mark in ",;\t"}
    return next((mark for mark, found in names.items() if wanted <= found), ",")
