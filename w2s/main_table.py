"""The main table: one training, whose Aligners correct many upstreams' answers to many evaluation sets.

A cell is one upstream on one set. Its answers, each Aligner's corrections of them, and their scores are stages of
their own: a kill loses part of one stage, and a further upstream begins nothing but its own cells. Systems are called
`upstream@NAME`, `aligned@NAME`, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal

from aligner_core.answers import read_answers
from aligner_core.data_sources import data_source, read_source, size_of
from aligner_core.errors import Problem, UserError
from aligner_core.evaluation_sets import set_name
from aligner_core.files import write_jsonl
from aligner_core.mixing import by_hash
from aligner_core.recipe import Upstream
from aligner_core.records import Question, question_key, read_records, shortened
from aligner_core.stage_context import StageContext
from aligner_core.stages import Artifact, Stage, Task
from aligner_core.tasks.generate import ANSWERS

if TYPE_CHECKING:
    from w2s.pipeline import StageBuilder

QUESTIONS = "questions.jsonl"
OF = "@"  # stands between a system and the upstream whose cell it is in


class QuestionsOfSet(Task):
    """The questions of one evaluation set, which say so: kind qa without an answer, with `set`."""

    version: ClassVar[int] = 1
    set: str
    columns: dict[str, str]
    limit: int | None
    on_invalid: Literal["raise", "drop"]

    def run(self, stage: StageContext) -> None:
        reading = read_source(stage.inputs["source"]["location"], Question, self.columns)
        if reading.problems and (self.on_invalid == "raise" or not reading.records):
            raise UserError(shortened(reading.problems, reading.source))
        chosen = by_hash(reading.records)[: self.limit]
        rows = [{**row.row(), "id": f"{self.set}/{row.id}", "set": self.set} for row in chosen]
        write_jsonl(stage.folder / QUESTIONS, rows)
        stage.facts |= {"questions": len(rows), "invalid": len(reading.rejected)}


class GivenAnswers(Task):
    """The answers that a file holds to `questions`, matched by what is asked. One that is missing is an error.

    Of several answers to a question, the first is taken.
    """

    version: ClassVar[int] = 2
    upstream: str

    def run(self, stage: StageContext) -> None:
        location = stage.inputs["answers"]["location"]
        answers = read_answers(stage.file("answers"), "answer").answers
        given = {question_key(row.asked): row for row in reversed(answers)}
        questions = read_records(stage.file("questions"), Question)
        missing = [row for row in questions if question_key(row.asked) not in given]
        if missing:
            what = f"answers {len(questions) - len(missing)} of {len(questions)} questions; the first without: "
            fix = "ask the model these too, or lower data.limits.evaluation"
            raise UserError(Problem(location, what + missing[0].id, fix))
        found = [given[question_key(row.asked)] for row in questions]
        rows = [
            {**row.row(), "answer": answer.text, "upstream": self.upstream, "finished": answer.finished}
            for row, answer in zip(questions, found, strict=True)
        ]
        write_jsonl(stage.folder / ANSWERS, rows)
        stage.facts["answers"] = len(rows)


@dataclass(frozen=True)
class AskedSet:
    """An evaluation set as a stage makes it, and how many questions to expect."""

    name: str
    questions: Artifact
    size: int


class MainTable:
    """Makes the stages of all cells."""

    def __init__(self, builder: StageBuilder) -> None:
        self._builder = builder
        self._recipe = builder.recipe

    def cells(self) -> Iterator[Stage]:
        """The scores of every cell, under every seed.

        Raises:
            UserError: with every file of answers that is not there, and every model whose size is not known.
        """
        problems: list[Problem] = []
        for name, upstream in self._recipe.upstreams.items():
            for asked in self._sets:
                try:
                    cell = [self._cell(name, upstream, asked, seed) for seed in self._recipe.seeds]
                except UserError as error:
                    problems += error.problems
                    break
                yield from cell
        if problems:
            raise UserError(problems)

    def _cell(self, name: str, upstream: Upstream, asked: AskedSet, seed: int) -> Stage:
        answers = self._answers(name, upstream, asked, seed)
        systems = {"upstream": answers, **self._builder.corrected(f"{name}-{asked.name}", answers, asked.size, seed)}
        named = {f"{system}{OF}{name}": texts for system, texts in systems.items()}
        return self._builder.scores(named, seed, f"scores-{name}-{asked.name}", asked.questions, asked.size)

    def _answers(self, name: str, upstream: Upstream, asked: AskedSet, seed: int) -> Artifact:
        stage = f"answers-{name}-{asked.name}"
        if upstream.model:
            return self._builder.ask(stage, name, upstream.model, asked.questions, asked.size, seed)
        assert upstream.answers is not None
        source = data_source(upstream.answers, f"upstreams.{name}.answers")
        task = GivenAnswers(upstream=name)
        return Stage(stage, task, {"answers": source, "questions": asked.questions}).output(ANSWERS)

    @cached_property
    def _sets(self) -> list[AskedSet]:
        """Raises UserError if two sources have the same name."""
        data = self._recipe.data
        made: dict[str, AskedSet] = {}
        for key, item in data.sources("evaluation").items():
            name = set_name(item.source)
            if name in made:
                what = f'two evaluation sets are called "{name}"'
                raise UserError(Problem("data.evaluation", what, "give the file of one of them another name"))
            size = size_of(item.source, item.columns)
            task = QuestionsOfSet(
                set=name, columns=item.columns, limit=data.limits.evaluation, on_invalid=data.on_invalid
            )
            stage = Stage(f"questions-{name}", task, {"source": self._builder.data[key]})
            expected = size.records if size else data.expected.evaluation
            made[name] = AskedSet(name, stage.output(QUESTIONS), min(expected, data.limits.evaluation or expected))
        return list(made.values())
