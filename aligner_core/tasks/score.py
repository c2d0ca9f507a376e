"""Training the scorer, and scoring the answers of several systems with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.recipe import ScorerSection
from aligner_core.records import Correction, Question, read_records
from aligner_core.splits import held_out_by_question
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

SCORES = "scores.jsonl"
KEPT = ("history", "set")  # of a question, beside the scores of its answers


class TrainScorer(Task):
    """Two heads on `model`, trained on the corrections in all inputs whose name begins with `records`."""

    version: ClassVar[int] = 4
    section: ScorerSection
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.training.scorer import train_scorer

        records = stage.records("records", Correction)
        training, held_out = held_out_by_question(records, self.section.held_out, self.seed)
        train_scorer(stage, stage.model("model"), training, held_out, self.section, self.seed)


class ScoreAnswers(Task):
    """Scores of every system's texts on the same `questions`.

    `systems` maps a system's name, which is also an input's, to the field of its rows that holds the text.
    """

    version: ClassVar[int] = 1
    systems: dict[str, str]
    precision: str
    scorer: str

    def run(self, stage: StageContext) -> None:
        from aligner_core.similarity import Embedder

        questions = read_records(stage.file("questions"), Question)
        references = {row.id: (row.model_extra or {}).get("reference") for row in questions}
        rows = [
            {"id": row["id"], "system": system, "question": row["question"], "text": row[field],
             "finished": row.get("finished", True), **{key: row[key] for key in KEPT if row.get(key)}}
            for system, field in self.systems.items()
            for row in read_jsonl(stage.file(system))
        ]  # fmt: skip
        for row, (helpful, cost) in zip(rows, self._score(stage, rows, questions), strict=True):
            row |= {"helpful": helpful, "harmless": -cost, "scorer": self.scorer}
        referenced = [row for row in rows if references.get(row["id"])]
        if referenced:
            embedder = Embedder(stage.model("embedder"))
            stage.progress.begin("comparing with references")
            similarities = embedder.similarities(
                [row["text"] for row in referenced], [str(references[row["id"]]) for row in referenced]
            )
            for row, similarity in zip(referenced, similarities, strict=True):
                row["similarity"] = similarity
        write_jsonl(stage.folder / SCORES, rows)
        stage.facts["rows"] = len(rows)

    def _score(
        self, stage: StageContext, rows: Sequence[dict[str, Any]], questions: Sequence[Question]
    ) -> list[tuple[float, float]]:
        """(helpfulness, cost) per row."""
        from aligner_core.scorer import Scorer

        histories = {row.id: row.history for row in questions}
        scorer = Scorer(stage.model("scorer"), stage.profile)
        stage.progress.begin("scoring", len(rows), "answers")
        texts = [(str(row["question"]), str(row["text"]), histories[row["id"]]) for row in rows]
        found = scorer.score(texts, stage.progress.update)
        stage.facts["cut"] = scorer.cut
        return found
