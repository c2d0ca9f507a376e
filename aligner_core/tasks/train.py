"""Training the Aligner (identity, then residual), and models that answer directly (floor, student, ceiling)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from aligner_core.recipe import AlignerSection, Training
from aligner_core.records import Correction, read_records
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.stages import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = "model"
AlignerPhase = Literal["warm-up", "residual", "both"]


class TrainAligner(Task):
    """The Aligner's training on `records`, or one of its two phases.

    `warm-up` teaches Q-A-A on a share of the records, `residual` Q-A-C on all, `both` does so in one training.
    """

    version: ClassVar[int] = 2
    distributed: ClassVar[bool] = True
    phase: AlignerPhase
    section: AlignerSection
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.templates import KEEP_TOKEN, correction_template, store_template
        from aligner_core.training.aligner import train_aligner

        section = self.section
        keep = KEEP_TOKEN if section.identity_target == "keep" else None
        template = correction_template(section.template, section.aim, section.instruction, keep)
        location, tokenizer = _open(stage, template.frame)
        if keep:
            tokenizer.add_special_tokens({"additional_special_tokens": [keep]}, replace_extra_special_tokens=False)
        records = read_records(stage.file("records"), Correction)
        train_aligner(stage, location, tokenizer, template, records, section, self.phase, self.seed)
        if stage.is_main_process:
            store_template(stage.folder / MODEL, template)


class TrainToAnswer(Task):
    """Question -> correction on `records`: the floor and the ceiling on ground truth, the student on weak labels."""

    version: ClassVar[int] = 2
    distributed: ClassVar[bool] = True
    training: Training
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.templates import conversation, prompt_ids, target_ids
        from aligner_core.training.examples import build_example
        from aligner_core.training.supervised import Phase, train_supervised

        location, tokenizer = _open(stage)
        training = self.training
        examples = [
            build_example(
                prompt_ids(tokenizer, conversation(record.question, record.history)),
                target_ids(tokenizer, record.correction),
                tokenizer.eos_token_id,
                record.id,
            )
            for record in read_records(stage.file("records"), Correction)
        ]
        train_supervised(stage, location, tokenizer, [Phase(examples, training.epochs)], training, self.seed)


def _open(stage: StageContext, frame: str | None = None) -> tuple[ModelLocation, PreTrainedTokenizerBase]:
    from transformers import AutoTokenizer

    from aligner_core.templates import prepare_tokenizer

    location = stage.model("model")
    tokenizer = AutoTokenizer.from_pretrained(location.folder, **location.arguments())
    return location, prepare_tokenizer(tokenizer, frame)
