"""From corrections to weak labels: which become supervision, how sure they are, and why the others do not."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from aligner_core.edits import edit_ratio
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.recipe import WeakLabels
from aligner_core.records import Turn
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

LABELS, PAIRS, DROPPED = "labels.jsonl", "pairs.jsonl", "dropped.jsonl"
Row = dict[str, Any]


class SelectWeakLabels(Task):
    """Applies the recipe's rules to all inputs whose name begins with `corrections`; keeps what falls, and why.

    Ids are those of one input's rows alone: in all inputs but the first, the input's name goes before them.
    `labels.jsonl` is for SFT, `pairs.jsonl` (correction over answer, copies left out) for DPO. With the inputs
    `reward` and, where there is one, `cost`, each row tells what they think of answer and correction.
    """

    version: ClassVar[int] = 3
    rules: WeakLabels
    precision: str

    def run(self, stage: StageContext) -> None:
        first, *others = sorted(name for name in stage.inputs if name.startswith("corrections"))
        more = [{**row, "id": f"{name}/{row['id']}"} for name in others for row in read_jsonl(stage.file(name))]
        rows = [labelled(row) for row in read_jsonl(stage.file(first)) + more]
        if self.rules.needs_scores:
            self._score(stage, rows)
        reasons = [drop_reason(row, self.rules) for row in rows]
        kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        dropped = [{**row, "reason": why} for row, why in zip(rows, reasons, strict=True) if why]
        if not kept:
            what = "every correction fell to a rule: " + str(dict(Counter(reasons)))
            raise UserError(Problem("weak_labels", what, "raise generation.max_new_tokens, or relax weak_labels"))
        pairs = [pair(row) for row in kept if row["correction"] != row["answer"]]
        write_jsonl(stage.folder / LABELS, kept)
        write_jsonl(stage.folder / PAIRS, pairs)
        write_jsonl(stage.folder / DROPPED, dropped)
        stage.facts |= {
            "corrections": len(rows),
            "dropped": dict(Counter(row["reason"] for row in dropped)),
            "labels": len(kept),
            "identical": len(kept) - len(pairs),
            "pairs": len(pairs),
        }

    def _score(self, stage: StageContext, rows: Sequence[Row]) -> None:
        """Put the score models' words into the rows: margin, the correction's cost and, if asked for, confidence."""
        from aligner_core.score_models import RewardAndCost

        models = RewardAndCost(
            stage.model("reward"), stage.model("cost") if "cost" in stage.inputs else None, stage.profile
        )
        stage.progress.begin("scoring", 2 * len(rows), "texts")
        answers, corrections = (
            models.score([_text(row, field) for row in rows]) for field in ("answer", "correction")
        )
        stage.facts["cut"] = models.cut
        weight = self.rules.cost_weight
        for row, before, after in zip(rows, answers, corrections, strict=True):
            margin = (after[0] - weight * after[1]) - (before[0] - weight * before[1])
            row |= {"margin": round(margin, 4), "cost": round(after[1], 4)}
            if self.rules.confidence:
                row["confidence"] = round(confidence(margin), 4)


def labelled(row: Row) -> Row:
    """A row with correction, answer and `edit`, the share of the answer's words that changed; of a preference, too."""
    if "chosen" in row:
        row = {**row, "correction": row["chosen"], "answer": row["rejected"]}
    return {**row, "edit": round(edit_ratio(row["answer"], row["correction"]), 4)}


def _text(row: Row, field: str) -> tuple[str, str, list[Turn] | None]:
    history = [Turn.model_validate(turn) for turn in row["history"]] if row.get("history") else None
    return row["question"], row[field], history


def confidence(margin: float) -> float:
    """The Bradley-Terry probability that the correction is better: sigmoid(margin)."""
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, margin))))


def drop_reason(row: Row, rules: WeakLabels) -> str | None:
    """Why this correction is no weak label, or None."""
    if not row["correction"].strip():
        return "empty"
    if rules.drop_unfinished and not row.get("finished", True):
        return "unfinished"
    if rules.drop_identical and row["correction"] == row["answer"]:
        return "identical"
    if row["edit"] < rules.min_edit and row["correction"] != row["answer"]:
        return "nearly identical"
    if rules.drop_unsafe and row["cost"] > 0:
        return "unsafe"
    if rules.min_margin is not None and row["margin"] < rules.min_margin and row["correction"] != row["answer"]:
        return "score margin"
    return None


def pair(row: Row) -> Row:
    """A preference for the correction, with where it came from."""
    kept = ("id", "question", "history")
    more = ("edit", "margin", "confidence", "upstream", "corrector")
    return {
        **{key: row[key] for key in kept if row.get(key) is not None},
        "chosen": row["correction"],
        "rejected": row["answer"],
        **{key: row[key] for key in more if key in row},
    }
