"""Files of answers as scores and judges take them: Q-A, Q-A-C, and the output files of AlpacaEval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from aligner_core.data_files import read_rows
from aligner_core.errors import Problem, UserError
from aligner_core.records import Answer, Correction, Turn, kind_of, question_key, read_records

Field = Literal["answer", "correction"]
ALPACA_EVAL = {"instruction": "question", "output": "answer", "generator": "upstream"}


@dataclass(frozen=True)
class Answered:
    """A question, perhaps with the conversation before it, and one system's text; `finished` unless it was cut."""

    id: str
    question: str
    history: tuple[Turn, ...]
    text: str
    finished: bool = True

    @property
    def asked(self) -> str:
        return "\n".join([*(turn.content for turn in self.history), self.question])


@dataclass(frozen=True)
class AnswerFile:
    """One system's answers; `system` is the model's or corrector's name where all rows agree, else the file's."""

    system: str
    answers: list[Answered]


def read_answers(path: Path, field: Field | None = None) -> AnswerFile:
    """Read and check a file.

    Args:
        field: which text is the system's; None: the correction where the file has corrections, else the answer.

    Raises:
        UserError: with every fault of the file, or if it has no such field.
    """
    columns = ALPACA_EVAL if _is_alpaca_eval(path) else {}
    kind = kind_of(path, columns)
    if field == "correction" and kind is not Correction:
        raise UserError(Problem(str(path), 'has no field "correction"', "name a Q-A-C file, or the field answer"))
    if field == "correction" or (field is None and kind is Correction):
        corrections = read_records(path, Correction, columns)
        texts = [row.correction for row in corrections]
        name = _system((row.corrector for row in corrections), path)
        return AnswerFile(name, [_answered(row, text) for row, text in zip(corrections, texts, strict=True)])
    answers = read_records(path, Answer, columns)
    return AnswerFile(
        _system((row.upstream for row in answers), path), [_answered(row, row.answer) for row in answers]
    )


def pair_up(first: AnswerFile, second: AnswerFile) -> list[tuple[Answered, Answered]]:
    """The two texts on each question that both files have, in the first file's order.

    Questions are the same by their words and those of the conversation before them; where one is repeated, its first
    occurrence goes with the other file's first.

    Raises:
        UserError: if no question is in both.
    """
    other = _by_question(second.answers)
    pairs = [(row, other[key]) for key, row in _by_question(first.answers).items() if key in other]
    if not pairs:
        fix = "name two files of answers to the same questions"
        raise UserError(Problem(f"{first.system} and {second.system}", "have no question in common", fix))
    return pairs


def _by_question(answers: Iterable[Answered]) -> Mapping[tuple[str, int], Answered]:
    occurrences: dict[str, int] = {}
    found = {}
    for row in answers:
        key = question_key(row.asked)
        occurrences[key] = occurrences.get(key, 0) + 1
        found[key, occurrences[key]] = row
    return found


def _is_alpaca_eval(path: Path) -> bool:
    for _, row in islice(read_rows(path), 1):
        return isinstance(row, dict) and {"instruction", "output"} <= row.keys() and "question" not in row
    return False


def _answered(row: Answer, text: str) -> Answered:
    more = row.model_extra or {}
    finished = "correction" in more or more.get("finished", True)  # beside a correction it tells of that
    return Answered(row.id, row.question, tuple(row.history or ()), text, finished)


def _system(names: Iterable[str], path: Path) -> str:
    distinct = set(names)
    only = distinct.pop() if len(distinct) == 1 else "unknown"
    return path.stem if only == "unknown" else only
