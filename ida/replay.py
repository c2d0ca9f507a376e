"""What is learnt again: corrections of earlier rounds, and ground truth."""

from __future__ import annotations

from typing import ClassVar

from aligner_core.files import write_jsonl
from aligner_core.records import Correction, read_records
from aligner_core.splits import share_of
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

TAKEN = "corrections.jsonl"


class TakeCorrections(Task):
    """A share of `records`, in their order, under ids of their own, so that they can stand beside the round's."""

    version: ClassVar[int] = 1
    share: float
    mark: str
    seed: int

    def run(self, stage: StageContext) -> None:
        records = read_records(stage.file("records"), Correction)
        taken = {record.id for record in share_of(records, self.share, self.seed)}
        rows = [{**record.row(), "id": record.id + self.mark} for record in records if record.id in taken]
        write_jsonl(stage.folder / TAKEN, rows)
        stage.facts |= {"rows": len(rows), "of": len(records)}
