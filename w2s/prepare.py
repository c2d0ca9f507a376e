"""Splitting the data: W for the Aligner and the floor, S for student and ceiling, and the held-out questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from aligner_core.data_sources import read_source
from aligner_core.errors import Problem, UserError
from aligner_core.files import write_jsonl
from aligner_core.recipe import Limits
from aligner_core.records import Correction, Question, question_key
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

WEAK, STRONG, QUERIES, EVALUATION = "weak.jsonl", "strong.jsonl", "queries.jsonl", "evaluation.jsonl"
Record = TypeVar("Record", bound=Question)


class PrepareData(Task):
    """Reads and checks everything from outside once; training questions that are also evaluated are left out."""

    version: ClassVar[int] = 1
    weak_share: float
    limits: Limits
    columns: dict[str, str]

    def run(self, stage: StageContext) -> None:
        stage.progress.begin("reading data")
        corrections = self._load(stage, "corrections", Correction)
        evaluation = by_hash(self._load(stage, "evaluation", Question))
        held_out = {question_key(row.question) for row in evaluation}
        weak, strong = split(without(corrections, held_out), self.weak_share)
        queries: list[Question] = []
        if "queries" in stage.inputs:
            labelled = held_out | {question_key(row.question) for row in corrections}
            queries = without(self._load(stage, "queries", Question), labelled)
        parts: dict[str, Sequence[Question]] = {
            WEAK: by_hash(weak)[: self.limits.corrections],
            STRONG: by_hash(strong)[: self.limits.weak_labels],
            QUERIES: by_hash(queries)[: self.limits.queries],
            EVALUATION: evaluation[: self.limits.evaluation],
        }
        for name, fix in ((WEAK, "raise data.weak_share"), (STRONG, "lower data.weak_share")):
            if not parts[name]:
                raise UserError(Problem("data.corrections", f"no record is left for {name}", f"{fix}, or add records"))
        for name, rows in parts.items():
            write_jsonl(stage.folder / name, (row.row() for row in rows))
        stage.facts |= {name.removesuffix(".jsonl"): len(rows) for name, rows in parts.items()}
        stage.facts["left_out_as_evaluated"] = sum(question_key(row.question) in held_out for row in corrections)

    def _load(self, stage: StageContext, name: str, kind: type[Record]) -> list[Record]:
        return read_source(stage.inputs[name]["location"], kind, self.columns).records


def split(records: Sequence[Correction], weak_share: float) -> tuple[list[Correction], list[Correction]]:
    """W and S by question hash: a question's records stay together, whatever else is in the file."""
    weak: list[Correction] = []
    strong: list[Correction] = []
    for record in records:
        position = int(question_key(record.question)[:12], 16) / 16**12
        (weak if position < weak_share else strong).append(record)
    return weak, strong


def without(records: Sequence[Record], questions: set[str]) -> list[Record]:
    return [record for record in records if question_key(record.question) not in questions]


def by_hash(records: Sequence[Record]) -> list[Record]:
    """An order that depends on the questions alone, so that a limit takes an arbitrary but fixed sample."""
    return sorted(records, key=lambda record: (question_key(record.question + "#order"), record.id))
