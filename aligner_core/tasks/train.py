"""Training the Aligner (identity, then residual), and models that answer directly (floor, student, ceiling)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from aligner_core.files import digest
from aligner_core.recipe import Training
from aligner_core.records import Correction, read_records
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.stages import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = "model"


class TrainAligner(Task):
    """One phase of the Aligner on `records`: `identity` teaches Q-A-A on a share, `correction` Q-A-C on all."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    objective: Literal["identity", "correction"]
    share: float
    template: str
    training: Training
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.templates import correction_template, prompt_ids, store_template, target_ids
        from aligner_core.training.examples import build_example
        from aligner_core.training.supervised import train_supervised

        template = correction_template(self.template)
        location, tokenizer = _open(stage, template.frame)
        records = share_of(read_records(stage.file("records"), Correction), self.share, self.seed)
        records = [record for record in records if self.objective == "correction" or record.answer.strip()]
        examples = [
            build_example(
                prompt_ids(tokenizer, template.messages(record.question, record.answer, record.history)),
                target_ids(tokenizer, record.answer if self.objective == "identity" else record.correction),
                tokenizer.eos_token_id,
                record.id,
            )
            for record in records
        ]
        train_supervised(stage, location, tokenizer, examples, self.training, self.seed)
        if stage.is_main_process:
            store_template(stage.folder / MODEL, template)


class TrainToAnswer(Task):
    """Question -> correction on `records`: the floor and the ceiling on ground truth, the student on weak labels."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    training: Training
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.templates import conversation, prompt_ids, target_ids
        from aligner_core.training.examples import build_example
        from aligner_core.training.supervised import train_supervised

        location, tokenizer = _open(stage)
        examples = [
            build_example(
                prompt_ids(tokenizer, conversation(record.question, record.history)),
                target_ids(tokenizer, record.correction),
                tokenizer.eos_token_id,
                record.id,
            )
            for record in read_records(stage.file("records"), Correction)
        ]
        train_supervised(stage, location, tokenizer, examples, self.training, self.seed)


def share_of(records: list[Correction], share: float, seed: int) -> list[Correction]:
    """A pseudo-random share of the records that does not depend on their order; at least one."""
    ranked = sorted(records, key=lambda record: digest([seed, record.id]))
    return ranked[: max(1, round(share * len(records)))]


def _open(stage: StageContext, frame: str | None = None) -> tuple[ModelLocation, PreTrainedTokenizerBase]:
    from transformers import AutoTokenizer

    from aligner_core.templates import prepare_tokenizer

    location = stage.model("model")
    tokenizer = AutoTokenizer.from_pretrained(location.folder, **location.arguments())
    return location, prepare_tokenizer(tokenizer, frame)
