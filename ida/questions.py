"""Which questions a round asks: all of S and of the further questions, or its own share of them."""

from __future__ import annotations

from typing import ClassVar

from aligner_core.errors import Problem, UserError
from aligner_core.files import digest, write_jsonl
from aligner_core.records import Question, question_key, read_records
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

QUESTIONS = "questions.jsonl"


class RoundQuestions(Task):
    """Share number `share` of `of` equal shares of all inputs, by question hash: no question is in two shares.

    The inputs are parts of the data, from which evaluated questions were removed, so no share holds one. Ids are those
    of one part alone: in all inputs but the first, the input's name goes before them.
    """

    version: ClassVar[int] = 2
    share: int
    of: int

    def run(self, stage: StageContext) -> None:
        first, *others = sorted(stage.inputs)
        records = read_records(stage.file(first), Question)
        records += [
            record.model_copy(update={"id": f"{name}/{record.id}"})
            for name in others
            for record in read_records(stage.file(name), Question)
        ]
        rows = [record.row() for record in records if share_of_question(record.asked, self.of) == self.share]
        if not rows:
            what = f"leaves round {self.share} of {self.of} without a question"
            raise UserError(Problem("rounds.questions: fresh", what, "add questions, or set rounds.questions: same"))
        write_jsonl(stage.folder / QUESTIONS, rows)
        stage.facts |= {"questions": len(rows), "of": len(records)}


def share_of_question(asked: str, shares: int) -> int:
    """1 to `shares`; the same question is always in the same one, whatever else is asked."""
    return int(digest(["round", question_key(asked)])[:12], 16) % shares + 1
