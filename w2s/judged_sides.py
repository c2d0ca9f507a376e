"""What a judge may compare: files of answers, and systems of runs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligner_core.answers import Answered, AnswerFile, Field, read_answers
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, read_jsonl
from aligner_core.records import Turn, question_key
from aligner_core.tasks.score import SCORES

JUDGED = "judged"


@dataclass(frozen=True)
class Side:
    """One system's answers; of a run, with its folder, the scores by question and text, and the stages they are from.

    `stages` holds identities: when the answers change, so do they.
    """

    answers: AnswerFile
    run: Path | None = None
    scores: Mapping[tuple[str, str], Mapping[str, Any]] = field(default_factory=dict)
    stages: frozenset[str] = frozenset()


def open_side(name: str, which: Field | None) -> Side:
    """A file, or RUN:SYSTEM: a system's answers in a finished run, under its first seed.

    Raises:
        UserError: if there is neither.
    """
    if Path(name).is_file():
        return Side(read_answers(Path(name), which))
    folder, _, system = name.rpartition(":")
    if not folder or not (Path(folder) / "run.json").is_file():
        raise UserError(Problem(name, "is neither a file nor a system of a run", "name a file, or RUN:SYSTEM"))
    scored = _scored(Path(folder))
    chosen = [(stage, row) for stage, row in scored if row["system"] == system]
    if not chosen:
        known = ", ".join(dict.fromkeys(row["system"] for _, row in scored))
        raise UserError(Problem(name, f'the run has no system "{system}"', f"name one of: {known}"))
    answers = AnswerFile(system, [_answered(row) for _, row in chosen])
    scores = {score_key(row): row for _, row in chosen}
    return Side(answers, Path(folder).resolve(), scores, frozenset(stage for stage, _ in chosen))


def score_key(row: Mapping[str, Any]) -> tuple[str, str]:
    """By which a scored text is found again: what was asked, and the text."""
    return question_key("\n".join([*(turn["content"] for turn in row.get("history") or ()), row["question"]])), row[
        "text"
    ]


def judged_file(run: Path, names: tuple[str, str], judge: str) -> Path:
    """Where a run keeps what a judge says of two of its systems."""
    name = f"{names[0]}-against-{names[1]}-by-{judge.rpartition('#')[2]}"
    return run / JUDGED / (re.sub(r"[^\w.@-]", "_", name) + ".jsonl")


def _scored(run: Path) -> list[tuple[str, dict[str, Any]]]:
    """The scores of a run's first seed, each with its stage's identity; a main table has a stage for each cell.

    Raises:
        UserError: if they are not there yet.
    """
    seed = min(read_json(run / "recipe.json")["seeds"])
    named = re.compile(rf"scores-(?:.*-)?s{seed}")
    stages = [stage for stage in read_json(run / "run.json")["stages"] if named.fullmatch(stage["name"])]
    files = {stage["identity"]: run / stage["folder"] / SCORES for stage in stages}
    missing = [file.parent.name for file in files.values() if not file.is_file()]
    if missing or not files:
        raise UserError(
            Problem(str(run), f"is not finished: {', '.join(missing) or 'no scores'}", "run its recipe again")
        )
    return [(identity, row) for identity, file in files.items() for row in read_jsonl(file)]


def _answered(row: Mapping[str, Any]) -> Answered:
    history = tuple(Turn(**turn) for turn in row.get("history") or ())
    return Answered(row["id"], row["question"], history, row["text"])
