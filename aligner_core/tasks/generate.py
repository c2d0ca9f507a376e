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

    version: ClassVar[int] = 3
    upstream: str
    generation: Generation
    precision: str
    engine: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.engines.protocol import Prompt, open_engine, sampling_of
        from aligner_core.generation import generate_rows
        from aligner_core.templates import conversation

        questions = read_records(stage.file("questions"), Question)
        engine = open_engine(stage, stage.model("model"), drafts=False)

        def prompt(row: Question) -> Prompt:
            return Prompt(conversation(row.question, row.history))

        def record(row: Question, completion: Completion) -> dict[str, Any]:
            return {**row.row(), "answer": completion.text, "upstream": self.upstream, "finished": completion.finished}

        written = generate_rows(
            stage, engine, questions, prompt, record, sampling_of(self.generation), self.seed, stage.folder / ANSWERS
        )
        stage.facts["decoding"] = dict(engine.statistics)
        engine.close()
        stage.facts["unfinished"] = sum(not row["finished"] for row in written)


class CorrectAnswers(Task):
    """`answers` corrected by the trained Aligner `aligner`, asked in the form it was taught: kind qac."""

    version: ClassVar[int] = 3
    corrector: str
    generation: Generation
    precision: str
    engine: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.engines.protocol import Prompt, open_engine, sampling_of
        from aligner_core.generation import generate_rows
        from aligner_core.templates import stored_template

        location = stage.model("aligner")
        template = stored_template(location)
        answers = read_records(stage.file("answers"), Answer)
        engine = open_engine(stage, location, template.frame)

        def prompt(row: Answer) -> Prompt:
            return Prompt(template.messages(row.question, row.answer, row.history), draft=row.answer)

        def record(row: Answer, completion: Completion) -> dict[str, Any]:
            correction = template.correction(row.answer, completion.text)
            finished = {"finished": completion.finished}
            return {**row.row(), "correction": correction, "corrector": self.corrector, **finished}

        written = generate_rows(
            stage, engine, answers, prompt, record, sampling_of(self.generation), self.seed, stage.folder / CORRECTIONS
        )
        stage.facts["decoding"] = dict(engine.statistics)
        engine.close()
        stage.facts["unfinished"] = sum(not row["finished"] for row in written)
        stage.facts["identical"] = sum(row["correction"] == row["answer"] for row in written)
