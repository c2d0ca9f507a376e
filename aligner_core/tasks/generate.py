"""Answering questions with a model, and correcting answers with an Aligner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from aligner_core.recipe import Generation
from aligner_core.records import Answer, Question, read_records
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

if TYPE_CHECKING:
    from aligner_core.engines.protocol import Completion

ANSWERS, CORRECTIONS = "answers.jsonl", "corrections.jsonl"


class AnswerQuestions(Task):
    """`questions` answered by `model`: kind qa, with `finished` where the answer reached its end."""

    version: ClassVar[int] = 1
    upstream: str
    generation: Generation
    precision: str
    engine: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.engines.protocol import open_engine, sampling_of
        from aligner_core.generation import generate_rows
        from aligner_core.templates import question_prompt

        questions = read_records(stage.file("questions"), Question)
        engine = open_engine(stage, stage.model("model"))

        def record(row: Question, text: str, completion: Completion) -> dict[str, Any]:
            return {**row.row(), "answer": text, "upstream": self.upstream, "finished": completion.finished}

        written = generate_rows(
            stage, engine, questions, lambda row: question_prompt(engine.tokenizer, row.question, row.history), record,
            sampling_of(self.generation), self.seed, stage.folder / ANSWERS,
        )  # fmt: skip
        engine.close()
        stage.facts["unfinished"] = sum(not row["finished"] for row in written)


class CorrectAnswers(Task):
    """`answers` corrected by the trained Aligner `aligner`, asked in the form it was taught: kind qac."""

    version: ClassVar[int] = 1
    corrector: str
    generation: Generation
    precision: str
    engine: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.engines.protocol import open_engine, sampling_of
        from aligner_core.generation import generate_rows
        from aligner_core.templates import correction_prompt, stored_template

        location = stage.model("aligner")
        template = stored_template(location.folder)
        answers = read_records(stage.file("answers"), Answer)
        engine = open_engine(stage, location)

        def prompt(row: Answer) -> list[int]:
            return correction_prompt(engine.tokenizer, template, row.question, row.answer, row.history)

        def record(row: Answer, text: str, completion: Completion) -> dict[str, Any]:
            finished = {"finished": completion.finished}
            return {**row.row(), "correction": text, "corrector": self.corrector, **finished}

        written = generate_rows(
            stage, engine, answers, prompt, record, sampling_of(self.generation), self.seed, stage.folder / CORRECTIONS
        )
        engine.close()
        stage.facts["unfinished"] = sum(not row["finished"] for row in written)
        stage.facts["identical"] = sum(row["correction"] == row["answer"] for row in written)
