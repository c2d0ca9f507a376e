"""Annotating answers with corrections by a model: critique, then edit, each a step of bulk generation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from aligner_core.files import write_jsonl
from aligner_core.recipe import Generation
from aligner_core.records import Answer, Turn, read_records
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task
from aligner_core.tasks.generate import CORRECTIONS
from w2s.annotation import critique_request, edit_request
from w2s.data_steps import with_reason

if TYPE_CHECKING:
    from aligner_core.engines.protocol import Completion
    from w2s.annotation_replies import Outcome

STEP = "annotate"
DROPPED = "dropped.jsonl"


class AnnotateAnswers(Task):
    """`answers` with corrections by `annotator`: kind qac, in the answers' order.

    Attributes:
        longest: most words of an edit over the words of its answer.
    """

    version: ClassVar[int] = 1
    annotator: str
    generation: Generation
    longest: float
    precision: str
    engine: str

    def run(self, stage: StageContext) -> None:
        from aligner_core.edits import edit_facts
        from aligner_core.engines.protocol import EngineSlot, Prompt, sampling_of
        from aligner_core.generation import Bulk, generation_facts, shard_rows, write_results
        from aligner_core.model_ids import parse_endpoint
        from aligner_core.templates import conversation
        from w2s.annotation_replies import answer_fault, needs_edit, outcome

        answers = read_records(stage.file("answers"), Answer)
        model, engines = stage.model("model"), EngineSlot(stage)
        served = parse_endpoint(model.folder) is not None
        bulk = Bulk(stage, [row.question + row.answer for row in answers], shard_rows(stage.profile, served))
        sampling = sampling_of(self.generation)

        def ask(step: str, talks: Sequence[tuple[Turn, ...] | None]) -> list[Completion | None]:
            prompts = [
                None if talk is None else Prompt(talk, draft=row.answer)
                for row, talk in zip(answers, talks, strict=True)
            ]
            return bulk.ask(step, lambda: engines.open(model), prompts, sampling, seed=0)

        requests = [None if answer_fault(row) else conversation(critique_request(row)) for row in answers]
        critiques = ask("critique", requests)
        edits = ask("edit", [
            _edit_talk(request, critique) if request and critique and needs_edit(critique) else None
            for request, critique in zip(requests, critiques, strict=True)
        ])  # fmt: skip
        engines.close()
        outcomes = [outcome(*one, self.longest) for one in zip(answers, critiques, edits, strict=True)]
        pairs = list(zip(answers, outcomes, strict=True))
        dropped = [_dropped_row(row, found) for row, found in pairs if found.reason]
        write_jsonl(stage.folder / DROPPED, dropped)
        stage.facts |= generation_facts(bulk) | {"dropped": len(dropped)}
        whole = [(row, found) for row, found in pairs if not found.reason]
        rows = [self._row(row, found) for row, found in whole]
        written = write_results(stage, stage.folder / CORRECTIONS, rows, [found.error for _, found in whole])
        stage.facts["good_already"] = sum(not row["broken_rules"] for row in written)
        stage.facts |= edit_facts([row["answer"] for row in written], [row["correction"] for row in written])

    def _row(self, row: Answer, found: Outcome) -> dict[str, Any]:
        return {
            **_content(row),
            "correction": found.correction,
            "corrector": self.annotator,
            "critique": found.critique,
            "broken_rules": list(found.broken),
            "generated_tokens": found.tokens,
        }


def _edit_talk(request: tuple[Turn, ...], critique: Completion) -> tuple[Turn, ...]:
    """The conversation goes on: the critique as the annotator's own, then the request to edit by it."""
    reply = Turn.model_construct(role="assistant", content=critique.text)
    return (*request, reply, Turn.model_construct(role="user", content=edit_request()))


def _content(row: Answer) -> dict[str, Any]:
    """The record without what an earlier annotation said of it."""
    return {key: value for key, value in row.row().items() if key not in ("dropped", "correction", "corrector")}


def _dropped_row(row: Answer, found: Outcome) -> dict[str, Any]:
    details = {name: text for name in ("critique", "reply") if (text := getattr(found, name))}
    return with_reason(_content(row), STEP, str(found.reason), **details)
