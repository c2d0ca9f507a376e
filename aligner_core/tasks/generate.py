"""Answering questions with a model, and correcting answers with a corrector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from aligner_core.recipe import Corrector, Generation
from aligner_core.records import Answer, Question, read_records
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

if TYPE_CHECKING:
    from aligner_core.correctors.protocol import Case, Revision

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
        from aligner_core.engines.protocol import EngineSlot, Prompt, sampling_of
        from aligner_core.generation import Bulk, generation_facts, shard_rows, write_results
        from aligner_core.model_ids import parse_endpoint
        from aligner_core.templates import conversation

        questions = read_records(stage.file("questions"), Question)
        model, engines = stage.model("model"), EngineSlot(stage, drafts=False)
        served = parse_endpoint(model.folder) is not None
        bulk = Bulk(stage, [row.question for row in questions], shard_rows(stage.profile, served))
        prompts = [Prompt(conversation(row.question, row.history)) for row in questions]
        sampling = sampling_of(self.generation)
        found = bulk.ask("answers", lambda: engines.open(model), prompts, sampling, self.seed)
        engines.close()
        completions = [item for item in found if item is not None]
        rows = [
            {**row.row(), "answer": item.text, "upstream": self.upstream, "finished": item.finished,
             "generated_tokens": item.tokens}
            for row, item in zip(questions, completions, strict=True)
        ]  # fmt: skip
        stage.facts |= generation_facts(bulk)
        written = write_results(stage, stage.folder / ANSWERS, rows, [item.error for item in completions])
        stage.facts["unfinished"] = sum(not row["finished"] for row in written)


class CorrectAnswers(Task):
    """`answers` corrected: kind qac. The corrector's models are the inputs that `correctors.parts.slots` names.

    `name` is what the rows call the corrector.
    """

    version: ClassVar[int] = 3
    corrector: Corrector
    name: str
    generation: Generation
    precision: str
    engine: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.correctors.build import build_corrector
        from aligner_core.correctors.protocol import Bench, Case
        from aligner_core.edits import edit_facts
        from aligner_core.engines.protocol import EngineSlot, sampling_of
        from aligner_core.generation import Bulk, generation_facts, shard_rows, write_results
        from aligner_core.model_ids import parse_endpoint

        answers = read_records(stage.file("answers"), Answer)
        corrector = build_corrector(self.corrector, stage)
        served = any(parse_endpoint(source["location"]) for source in stage.inputs.values())
        bulk = Bulk(stage, [row.question + row.answer for row in answers], shard_rows(stage.profile, served))
        sampling = sampling_of(self.generation, correcting=True)
        bench = Bench(stage, bulk, EngineSlot(stage), sampling, self.seed)
        cases: list[Case | None] = [Case(row.question, row.answer, row.history) for row in answers]
        revisions = [revision for revision in corrector.correct(cases, bench) if revision is not None]
        bench.engines.close()
        rows = [self._row(row, revision) for row, revision in zip(answers, revisions, strict=True)]
        stage.facts |= generation_facts(bulk)
        written = write_results(stage, stage.folder / CORRECTIONS, rows, [item.error for item in revisions])
        stage.facts["unfinished"] = sum(not row["finished"] for row in written)
        stage.facts["identical"] = sum(row["correction"] == row["answer"] for row in written)
        stage.facts |= edit_facts([row["answer"] for row in written], [row["correction"] for row in written])

    def _row(self, row: Answer, revision: Revision) -> dict[str, Any]:
        """The output row. An answer that was cut, and is left as it is, stays cut."""
        content = row.row()
        whole = revision.text != row.answer or content.get("finished", True)
        return {
            **content,
            "correction": revision.text,
            "corrector": self.name,
            "finished": revision.finished and whole,
            **revision.notes,
            "generated_tokens": revision.tokens,
        }
