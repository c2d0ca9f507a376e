"""Rows of files from outside: JSON Lines, a JSON list (the published form) or Parquet, one at a time.

A row that cannot be parsed comes as a `Problem` in its place, so that all faults of a file can be told at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligner_core.errors import Problem, UserError

Row = tuple[int, Any]


def read_rows(path: Path) -> Iterator[Row]:
    """Yield (number, value or Problem): line of a `.jsonl`, element of a `.json` list, row of a `.parquet`.

    Raises:
        UserError: if the file as a whole cannot be read.
    """
    reader = {".json": _json_list, ".parquet": _parquet}.get(path.suffix, _json_lines)
    try:
        yield from reader(path)
    except OSError as error:
        raise UserError(Problem(str(path), error.strerror or str(error), "check the path")) from error


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, _json_value(path, number, line)


def _json_value(path: Path, number: int, line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 (byte {error.start + 1} of the line)"
        return Problem(f"{path}:{number}", what, "save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        return Problem(f"{path}:{number}", f"is not JSON: {_json_fault(error)}", "write one JSON object per line")


def _json_list(path: Path) -> Iterator[Row]:
    try:
        values = json.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(Problem(str(path), "is not UTF-8", "save the file as UTF-8")) from error
    except (ValueError, RecursionError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise UserError(Problem(where, f"is not JSON: {_json_fault(error)}", "write a JSON list")) from error
    if not isinstance(values, list):
        raise UserError(Problem(str(path), "is not a list", "write a JSON list of objects, or JSON Lines as .jsonl"))
    yield from enumerate(values, 1)


def _parquet(path: Path) -> Iterator[Row]:
    """Columns have no absent values, so a null is one. What JSON cannot hold (dates, bytes) becomes text."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(path)
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield number, {key: _as_json(value) for key, value in row.items() if value is not None}
    except pyarrow.ArrowInvalid as error:
        raise UserError(Problem(str(path), f"is not Parquet: {error}", "write it anew, or use JSON Lines")) from error


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
