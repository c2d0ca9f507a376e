"""Splitting the data: W for the Aligner and the floor, S for student and ceiling, and the held-out questions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from aligner_core.data_sources import read_source
from aligner_core.errors import Problem, UserError
from aligner_core.files import write_jsonl
from aligner_core.mixing import by_hash, mix
from aligner_core.recipe import DataSource, Leakage, Limits
from aligner_core.records import (
    Answer,
    Correction,
    Demonstration,
    Pair,
    Question,
    Reading,
    Safety,
    question_key,
    shortened,
)
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

if TYPE_CHECKING:
    from aligner_core.leakage import EvaluationQuestions

WEAK, STRONG, QUERIES, EVALUATION = "weak.jsonl", "strong.jsonl", "queries.jsonl", "evaluation.jsonl"
PREFERENCES, SAFETY, INSTRUCTIONS = "preferences.jsonl", "safety.jsonl", "instructions.jsonl"
DROPPED = "dropped.jsonl"
Record = TypeVar("Record", bound=Question)


class SourceUse(BaseModel):
    """How one input is read and mixed; where it lies is no setting."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight: float | None
    columns: dict[str, str]

    @classmethod
    def of(cls, source: DataSource) -> SourceUse:
        return cls(weight=source.weight, columns=source.columns)


@dataclass
class Dropped:
    """What did not come through, each row with its part of the data, the reason, and the partner that it repeats."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, row: Mapping[str, Any], reason: str, **details: Any) -> None:
        self.rows.append({**row, "dropped": {"part": part, "reason": reason, **details}})

    def counts(self) -> dict[str, dict[str, int]]:
        """How many records of each part fell for each reason."""
        counts: dict[str, dict[str, int]] = {}
        for row in self.rows:
            reasons = counts.setdefault(row["dropped"]["part"], {})
            reasons[row["dropped"]["reason"]] = reasons.get(row["dropped"]["reason"], 0) + 1
        return counts


class PrepareData(Task):
    """Reads, checks and mixes everything from outside once; what gives an evaluated question away is left out."""

    version: ClassVar[int] = 5
    weak_share: float
    limits: Limits
    leakage: Leakage
    sources: dict[str, SourceUse]
    on_invalid: Literal["raise", "drop"]
    answers: Literal["sampled", "given"]

    def run(self, stage: StageContext) -> None:
        from aligner_core.leakage import EvaluationQuestions

        dropped = Dropped()
        corrections = self._load(stage, "corrections", Correction, dropped)
        # Whose answers are given must carry one; else an answer is one key among others.
        asked: type[Question] = Answer if self.answers == "given" else Question
        evaluation = by_hash(self._load(stage, "evaluation", asked, dropped))
        queries = self._load(stage, "queries", asked, dropped)
        labelled = ids_by_question(corrections)
        stage.progress.begin("looking for evaluated questions")
        held_out = EvaluationQuestions(evaluation, self.leakage.jaccard, self.leakage.overlap)
        corrections = without_leaks(corrections, held_out, "corrections", dropped)
        queries = without_leaks(queries, held_out, "queries", dropped)
        queries = without_questions(queries, labelled, "queries", "labelled", dropped)
        if not corrections:
            what = f"every record was left out: {dropped.counts()['corrections']}"
            raise UserError(Problem("data.corrections", what, "evaluate other questions, or relax data.leakage"))
        weak, strong = split(corrections, self.weak_share)
        taught = ids_by_question([*strong, *queries])
        preferences = self._for_scores(stage, "preferences", Pair, held_out, taught, dropped)
        safety = self._for_scores(stage, "safety", Safety, held_out, taught, dropped)
        instructions = self._load(stage, "instructions", Demonstration, dropped)
        instructions = without_leaks(instructions, held_out, "instructions", dropped)
        parts: dict[str, Sequence[Question]] = {
            WEAK: by_hash(weak)[: self.limits.corrections],
            STRONG: by_hash(strong)[: self.limits.weak_labels],
            QUERIES: by_hash(queries)[: self.limits.queries],
            EVALUATION: evaluation[: self.limits.evaluation],
            PREFERENCES: by_hash(preferences)[: self.limits.preferences],
            SAFETY: by_hash(safety)[: self.limits.safety],
            INSTRUCTIONS: by_hash(instructions)[: self.limits.instructions],
        }
        for name, fix in ((WEAK, "raise data.weak_share"), (STRONG, "lower data.weak_share")):
            if not parts[name] and not (name == STRONG and self.weak_share == 1):
                raise UserError(Problem("data.corrections", f"no record is left for {name}", f"{fix}, or add records"))
        for name, rows in parts.items():
            write_jsonl(stage.folder / name, (row.row() for row in rows))
        write_jsonl(stage.folder / DROPPED, dropped.rows)
        stage.facts |= {name.removesuffix(".jsonl"): len(rows) for name, rows in parts.items()}
        stage.facts["dropped"] = dropped.counts()

    def _load(self, stage: StageContext, part: str, kind: type[Record], dropped: Dropped) -> list[Record]:
        """The mixed records of one part of the data; none if the recipe has no such part."""
        names = [name for name in self.sources if name.split("-")[0] == part]
        readings = []
        for name in names:
            stage.progress.begin("reading " + name)
            readings.append(read_source(stage.inputs[name]["location"], kind, self.sources[name].columns))
        self._raise_or_drop(readings, part, dropped)
        weights = [self.sources[name].weight for name in names]
        return mix([reading.records for reading in readings], weights) if readings else []

    def _for_scores(
        self,
        stage: StageContext,
        part: str,
        kind: type[Record],
        held_out: EvaluationQuestions,
        taught: Mapping[str, str],
        dropped: Dropped,
    ) -> list[Record]:
        """What filters and PPO score with has seen no question that is evaluated or that the student learns from."""
        records = without_leaks(self._load(stage, part, kind, dropped), held_out, part, dropped)
        return without_questions(records, taught, part, "student", dropped)

    def _raise_or_drop(self, readings: Sequence[Reading[Any]], part: str, dropped: Dropped) -> None:
        """Rows that are no records: an error, or kept apart as they stood. A source of nothing else is an error."""
        fatal = [reading for reading in readings if self.on_invalid == "raise" or not reading.records]
        problems = [problem for reading in fatal for problem in shortened(reading.problems, reading.source)]
        if problems:
            raise UserError(problems)
        for row in (row for reading in readings for row in reading.rejected):
            faults = [problem.what for problem in row.problems]
            dropped.add(part, {"row": json.dumps(row.value)}, "invalid", where=row.where, faults=faults)


def split(records: Sequence[Correction], weak_share: float) -> tuple[list[Correction], list[Correction]]:
    """W and S by question hash: a question's records stay together, whatever else is in the file."""
    weak: list[Correction] = []
    strong: list[Correction] = []
    for record in records:
        position = int(question_key(record.asked)[:12], 16) / 16**12
        (weak if position < weak_share else strong).append(record)
    return weak, strong


def without_leaks(
    records: Sequence[Record], held_out: EvaluationQuestions, part: str, dropped: Dropped
) -> list[Record]:
    """The records that give no evaluation question away."""
    kept: list[Record] = []
    for record in records:
        if leak := held_out.leak(record.asked):
            dropped.add(part, record.row(), **asdict(leak))
        else:
            kept.append(record)
    return kept


def ids_by_question(records: Sequence[Question]) -> dict[str, str]:
    """Question key -> id of a record that asks it."""
    return {question_key(record.asked): record.id for record in records}


def without_questions(
    records: Sequence[Record], questions: Mapping[str, str], part: str, reason: str, dropped: Dropped
) -> list[Record]:
    """The records that ask none of the questions (see `ids_by_question`)."""
    kept: list[Record] = []
    for record in records:
        if partner := questions.get(question_key(record.asked)):
            dropped.add(part, record.row(), reason, partner=partner)
        else:
            kept.append(record)
    return kept
