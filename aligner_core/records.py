"""The records that pass between stages, and the strict reader for files from outside.

JSON Lines is the native form; the published Q-A-C sets are JSON lists and are read as well. Unknown keys are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError

from aligner_core.errors import Problem, UserError

MAX_CHARACTERS = 50_000
MAX_PROBLEMS = 20


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]


class Turn(BaseModel):
    """One earlier message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: str
    content: Text


class Question(BaseModel):
    """A question, perhaps with the conversation before it and a reference answer."""

    model_config = ConfigDict(extra="allow")
    id: str = ""
    question: Text
    history: list[Turn] | None = None

    def derived_id(self) -> str:
        """A stable id for files that carry none: the hash of all that the record says."""
        content = self.model_dump(exclude={"id"}, exclude_none=True)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        return self.model_dump(exclude_none=True)


class Answer(Question):
    """kind qa: `upstream` names the model that answered. An answer may be blank: models do say nothing."""

    answer: Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
    upstream: str = "unknown"


class Correction(Answer):
    """kind qac: `corrector` names who rewrote the answer."""

    correction: Text
    corrector: str = "unknown"


Record = TypeVar("Record", bound=Question)


def question_key(question: str) -> str:
    """What makes two questions the same: their words, without case and spacing. Splits and leakage checks use it."""
    return hashlib.sha256(" ".join(question.lower().split()).encode()).hexdigest()


def read_records(path: Path, kind: type[Record], columns: Mapping[str, str] | None = None) -> list[Record]:
    """Read and check a whole file; every problem names file and line, and none is dropped silently.

    Args:
        columns: other names that the file uses, each with ours.

    Raises:
        UserError: with up to 20 problems: not UTF-8, bad JSON, missing or blank or over-long fields, duplicate ids.
    """
    records: list[Record] = []
    problems: list[Problem] = []
    first_line: dict[str, int] = {}
    for line, value in _parse(path, problems):
        where = f"{path}:{line}"
        if columns and isinstance(value, dict):
            value = {columns.get(key, key): item for key, item in value.items()}
        try:
            record = kind.model_validate(value)
        except ValidationError as error:
            problems += [_problem(where, detail) for detail in error.errors()]
            continue
        if not record.id:
            record.id = record.derived_id()
        if record.id in first_line:
            what = f'id "{record.id}" was already used in line {first_line[record.id]}'
            problems.append(Problem(where, what, "give each record its own id, or remove the repeated record"))
            continue
        first_line[record.id] = line
        records.append(record)
    if not records and not problems:
        problems.append(Problem(str(path), "holds no record", "name a file with at least one record"))
    if problems:
        raise UserError(_shortened(problems, path))
    return records


def _parse(path: Path, problems: list[Problem]) -> Iterator[tuple[int, Any]]:
    """Yield (line number, JSON value); for a JSON list the number counts the elements."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(Problem(str(path), error.strerror or "cannot be read", "check the path")) from error
    if path.suffix == ".json":
        yield from _parse_list(path, content)
        return
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            what = f"is not UTF-8 (byte {error.start + 1} of the line)"
            problems.append(Problem(f"{path}:{number}", what, "save the file as UTF-8"))
        except (ValueError, RecursionError) as error:
            what = f"is not JSON: {_json_fault(error)}"
            problems.append(Problem(f"{path}:{number}", what, "write one JSON object per line"))


def _parse_list(path: Path, content: bytes) -> Iterator[tuple[int, Any]]:
    try:
        values = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(Problem(str(path), "is not UTF-8", "save the file as UTF-8")) from error
    except (ValueError, RecursionError) as error:
        where = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise UserError(Problem(where, f"is not JSON: {_json_fault(error)}", "write a JSON list")) from error
    if not isinstance(values, list):
        raise UserError(Problem(str(path), "is not a list", "write a JSON list of objects, or JSON Lines as .jsonl"))
    yield from enumerate(values, 1)


def _json_fault(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at line {error.lineno}, column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _problem(where: str, detail: Any) -> Problem:
    key = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return Problem(where, f'field "{key}" is missing', f'add "{key}"')
    if detail["type"] == "string_too_long":
        length = len(detail["input"])
        fix = f"shorten it to {MAX_CHARACTERS:,} characters, or remove the record"
        return Problem(where, f'field "{key}" has {length:,} characters', fix)
    if not key:
        return Problem(where, "is not a JSON object", "write one JSON object per line")
    message = detail["msg"].removeprefix("Value error, ")
    return Problem(where, f'field "{key}": {message}', "write text there, or remove the record")


def _shortened(problems: Sequence[Problem], path: Path) -> list[Problem]:
    shown = list(problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        shown.append(Problem(str(path), f"and {len(problems) - MAX_PROBLEMS} problems more"))
    return shown
