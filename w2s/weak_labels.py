"""From corrections to weak labels: which become supervision, and why the others do not."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.recipe import WeakLabels
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

LABELS, DROPPED = "labels.jsonl", "dropped.jsonl"


class SelectWeakLabels(Task):
    """Applies the recipe's rules to all inputs whose name begins with `corrections`; keeps what falls, and why."""

    version: ClassVar[int] = 1
    rules: WeakLabels

    def run(self, stage: StageContext) -> None:
        names = sorted(name for name in stage.inputs if name.startswith("corrections"))
        rows = [row for name in names for row in read_jsonl(stage.file(name))]
        reasons = [drop_reason(row, self.rules) for row in rows]
        kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        dropped = [{**row, "reason": why} for row, why in zip(rows, reasons, strict=True) if why]
        if not kept:
            what = "every correction fell to a rule: " + str(dict(Counter(reasons)))
            raise UserError(Problem("weak_labels", what, "raise generation.max_new_tokens, or relax weak_labels"))
        write_jsonl(stage.folder / LABELS, kept)
        write_jsonl(stage.folder / DROPPED, dropped)
        stage.facts |= {
            "labels": len(kept),
            "identical": sum(row["correction"] == row["answer"] for row in kept),
            "dropped": dict(Counter(row["reason"] for row in dropped)),
        }


def drop_reason(row: dict[str, Any], rules: WeakLabels) -> str | None:
    """Why this correction is no weak label, or None."""
    if not row["correction"].strip():
        return "empty"
    if rules.drop_unfinished and not row.get("finished", True):
        return "unfinished"
    if rules.drop_identical and row["correction"] == row["answer"]:
        return "identical"
    return None
