"""Preference training of a student: the reference's log-probabilities, then DPO."""

from __future__ import annotations

from typing import ClassVar

from aligner_core.files import read_jsonl
from aligner_core.recipe import Dpo
from aligner_core.records import Pair, read_records
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task
from aligner_core.tasks.train import open_tokenizer, store_card

REFERENCE = "reference.jsonl"


class ReferenceLogProbs(Task):
    """Log-probabilities of `pairs` under `model`: `reference.jsonl`.

    Identical pairs and those over `max_length` have no row: no training uses them.
    """

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    precision: str
    max_length: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.training.reference_log_probs import write_reference

        location, tokenizer = open_tokenizer(stage)
        write_reference(stage, location, tokenizer, read_records(stage.file("pairs"), Pair), self.max_length)


class TrainDpo(Task):
    """DPO from `model` on `pairs`, with the log-probabilities in `reference`, which `model` gave them."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    section: Dpo
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.training.dpo import train_dpo

        location, tokenizer = open_tokenizer(stage)
        pairs = read_records(stage.file("pairs"), Pair)
        train_dpo(stage, location, tokenizer, pairs, read_jsonl(stage.file("reference")), self.section, self.seed)
        if stage.is_main_process:
            store_card(stage, "A model that learnt to prefer corrections", self)
