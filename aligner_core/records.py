"""The records that pass between stages, and the strict reader for files from outside.

JSON Lines is the native form; JSON lists (the published Q-A-C sets) and Parquet are read too. Unknown keys are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from aligner_core.conversations import with_question
from aligner_core.data_files import read_rows
from aligner_core.errors import Problem, UserError

MAX_CHARACTERS = 50_000
MAX_PROBLEMS = 20


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


Text = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]
Confidence = Annotated[float, Field(ge=0, le=1)]


class Turn(BaseModel):
    """One earlier message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text


def _alternates(history: list[Turn]) -> list[Turn]:
    """Chat templates take a system turn first, then user and assistant in turns; the question comes after."""
    roles = [turn.role for turn in history]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    if spoken != ["user", "assistant"] * (len(spoken) // 2):
        raise ValueError("must alternate user and assistant (after a system turn, if any) and end with assistant")
    return history


class Question(BaseModel):
    """A question, perhaps with the conversation before it and a reference answer."""

    model_config = ConfigDict(extra="allow")
    id: str = ""
    question: Text
    history: Annotated[list[Turn], AfterValidator(_alternates)] | None = None

    @property
    def asked(self) -> str:
        """All that was said up to and with the question: what the same question in two conversations differs by."""
        return "\n".join([*(turn.content for turn in self.history or ()), self.question])

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


class Demonstration(Question):
    """kind demonstration: an answer to imitate."""

    answer: Text
    confidence: Confidence = 1.0


class WeakLabel(Correction):
    """A correction used as supervision, with the belief that it is better than its answer."""

    confidence: Confidence = 1.0


class Pair(Question):
    """kind pairs: `chosen` is preferred over `rejected`, with a belief. A rejected text may be blank."""

    chosen: Text
    rejected: Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)]
    confidence: Confidence = 1.0


class Safety(Answer):
    """kind safety: whether the answer is unsafe. Its opposite, `safe`, is understood too."""

    unsafe: bool

    @model_validator(mode="before")
    @classmethod
    def _from_its_opposite(cls, row: Any) -> Any:
        if isinstance(row, dict) and "unsafe" not in row and row.get("safe") in (0, 1):
            return {**row, "unsafe": not row["safe"]}
        return row


Record = TypeVar("Record", bound=Question)


def question_key(question: str) -> str:
    """What makes two questions the same: their words, without case and spacing. Splits and leakage checks use it."""
    return hashlib.sha256(" ".join(question.lower().split()).encode()).hexdigest()


@dataclass
class Rejected:
    """A row that is no record: `where` is file and line, `value` what stood there (None if it was not even JSON)."""

    where: str
    value: Any
    problems: list[Problem]


@dataclass
class Reading(Generic[Record]):
    """What a file holds: its good records, and the rows that are none."""

    source: str
    records: list[Record] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def problems(self) -> list[Problem]:
        found = [problem for row in self.rejected for problem in row.problems]
        if not self.records and not found:
            return [Problem(self.source, "holds no record", "name a file with at least one record")]
        return found


def read_records(path: Path, kind: type[Record], columns: Mapping[str, str] | None = None) -> list[Record]:
    """Read and check a whole file; every problem names file and line, and none is dropped silently.

    Args:
        columns: other names that the file uses, each with ours.

    Raises:
        UserError: with up to 20 problems: not UTF-8, bad JSON, missing or blank or over-long fields, duplicate ids.
    """
    reading = check_records(path, kind, columns)
    if reading.problems:
        raise UserError(shortened(reading.problems, str(path)))
    return reading.records


def check_records(
    path: Path, kind: type[Record], columns: Mapping[str, str] | None = None, name: str | None = None
) -> Reading[Record]:
    """Like `read_records`, but rows that are no records are returned beside the good ones.

    Args:
        name: what to call the file in problems, if not by its path.

    Raises:
        UserError: only if the file as a whole cannot be read.
    """
    reading: Reading[Record] = Reading(name or str(path))
    first_line: dict[str, int] = {}
    for line, value in read_rows(path):
        where = f"{reading.source}:{line}"
        if isinstance(value, Problem):
            reading.rejected.append(Rejected(where, None, [value]))
            continue
        try:
            record = kind.model_validate(normalised(value, columns or {}))
        except ValidationError as error:
            reading.rejected.append(Rejected(where, value, schema_problems(where, error)))
            continue
        if not record.id:
            record.id = record.derived_id()
        if record.id in first_line:
            what = f'id "{record.id}" was already used in line {first_line[record.id]}'
            problem = Problem(where, what, "give each record its own id, or remove the repeated record")
            reading.rejected.append(Rejected(where, value, [problem]))
            continue
        first_line[record.id] = line
        reading.records.append(record)
    return reading


def normalised(value: Any, columns: Mapping[str, str]) -> Any:
    """A row under our names; a renamed column takes the place of one that has that name already.

    A conversation in the usual chat form (`messages`), or as a transcript, becomes history, question and, if the
    assistant has the last word, answer.
    """
    if not isinstance(value, dict):
        return value
    row = {key: item for key, item in value.items() if key not in columns}
    return with_question(row | {columns[key]: item for key, item in value.items() if key in columns})


def kind_of(path: Path, columns: Mapping[str, str]) -> type[Question]:
    """What a file holds, by the fields that any of its rows has."""
    rows = (normalised(value, columns) for _, value in read_rows(path))
    keys = {key for row in rows if isinstance(row, dict) for key in row}
    if {"chosen", "rejected"} <= keys:
        return Pair
    if "answer" in keys and "correction" not in keys and keys & {"unsafe", "safe"}:
        return Safety
    return Correction if "correction" in keys else Answer if "answer" in keys else Question


def schema_problems(where: str, error: ValidationError) -> list[Problem]:
    """What is wrong with a row, one problem per fault."""
    return [_problem(where, detail) for detail in error.errors()]


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
    fixes = {"history": "mend the conversation", "confidence": "write a number from 0 to 1"}
    fix = fixes.get(key.partition(".")[0], "write text there")
    return Problem(where, f'field "{key}": {message}', f"{fix}, or remove the record")


def shortened(problems: Sequence[Problem], where: str) -> list[Problem]:
    shown = list(problems[:MAX_PROBLEMS])
    if len(problems) > MAX_PROBLEMS:
        shown.append(Problem(where, f"and {len(problems) - MAX_PROBLEMS} problems more"))
    return shown
