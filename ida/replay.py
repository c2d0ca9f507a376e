"""What is learnt again: corrections of earlier rounds, and ground truth."""

from __future__ import annotations

from typing import ClassVar

from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.records import Correction
from aligner_core.splits import share_of
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

TAKEN = "corrections.jsonl"


class TakeCorrections(Task):
    """A share of `records`, in their order."""

    version: ClassVar[int] = 3
    share: float
    seed: int

    def run(self, stage: StageContext) -> None:
        rows = read_jsonl(stage.file("records"))
        # A model may have said nothing: that is no label, in this round or a later one.
        records = [Correction.model_validate(row) for row in rows if row["correction"].strip()]
        taken = {record.id for record in share_of(records, self.share, self.seed)}
        again = [record.row() for record in records if record.id in taken]
        write_jsonl(stage.folder / TAKEN, again)
        stage.facts |= {"rows": len(again), "of": len(records), "empty": len(rows) - len(records)}
