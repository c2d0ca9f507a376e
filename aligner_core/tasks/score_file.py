"""Scores of the texts in a file, by any reward or cost models and by whether they refuse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from aligner_core.answers import Answered, Field, read_answers
from aligner_core.data_sources import source_file
from aligner_core.files import write_jsonl
from aligner_core.generation import Bulk, text_key
from aligner_core.refusals import is_refusal
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task
from aligner_core.tasks.score import SCORES

SHARD = 256


class ScoreFile(Task):
    """Scores of the texts in `answers` by the models `scorer-1`, `scorer-2`, ...

    Attributes:
        systems: which field of the rows holds each system's text; null = the correction where there are any.
        reads: what each scorer tells: helpful, cost, or null where it tells both.
        scorers: what they are called in the scores.
    """

    version: ClassVar[int] = 1
    systems: dict[str, Field | None]
    reads: list[Any]
    scorers: list[str]
    precision: str
    refusals: bool

    def run(self, stage: StageContext) -> None:
        path = source_file(str(stage.inputs["answers"]["location"]))
        texts = {system: read_answers(path, field).answers for system, field in self.systems.items()}
        answers = [row for found in texts.values() for row in found]
        # Of a row without an id, answer and correction would get two: both bear the answer's.
        names = [row.id for row in next(iter(texts.values()))]
        rows: list[dict[str, Any]] = [{"id": name, "system": system} for system in texts for name in names]
        # Rows of like length are scored together, and a shard is all that a kill can lose.
        bulk = Bulk(stage, [row.asked + row.text for row in answers], SHARD)
        for number in range(1, len(self.reads) + 1):
            for row, found in zip(rows, self._scores(stage, bulk, answers, number), strict=True):
                row |= found
        for row, answered in zip(rows, answers, strict=True):
            if self.scorers:
                row["scorer"] = " + ".join(self.scorers)
            if self.refusals:
                row["refusal"] = is_refusal(answered.text)
            row["question"] = answered.question
            if answered.history:
                row["history"] = [turn.model_dump() for turn in answered.history]
            row["text"] = answered.text
        write_jsonl(stage.folder / SCORES, rows)
        stage.facts["rows"] = len(rows)

    def _scores(
        self, stage: StageContext, bulk: Bulk, answers: Sequence[Answered], number: int
    ) -> list[dict[str, float]]:
        from aligner_core.score_models import ScoreModel, open_score_model

        opened: list[ScoreModel] = []

        def work(chosen: Sequence[int], following: Sequence[int]) -> list[dict[str, Any]]:
            if not opened:
                opened.append(open_score_model(stage.model(f"scorer-{number}"), self.reads[number - 1], stage.profile))
                stage.progress.resume()
            before = opened[0].cut
            texts = [(answers[index].question, answers[index].text, answers[index].history) for index in chosen]
            found: list[dict[str, Any]] = list(opened[0].score(texts))
            cut = opened[0].cut - before
            return [{**row, "cut": cut if place == 0 else 0} for place, row in enumerate(found)]

        keys = [text_key(row.asked, row.text) for row in answers]
        found = [row or {} for row in bulk.each(f"scorer-{number}", keys, work)]
        stage.facts["cut"] = stage.facts.get("cut", 0) + sum(row.pop("cut") for row in found)
        return found
