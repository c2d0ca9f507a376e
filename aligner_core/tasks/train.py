"""Training the Aligner (identity, then residual), and models that answer directly (floor, student, ceiling)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from aligner_core.recipe import AlignerSection, Training
from aligner_core.records import Correction, Demonstration, WeakLabel, read_records
from aligner_core.splits import held_out_by_question
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
        location, tokenizer = open_tokenizer(stage, template.frame)
        if keep:
            tokenizer.add_special_tokens({"additional_special_tokens": [keep]}, replace_extra_special_tokens=False)
        records = read_records(stage.file("records"), Correction)
        train_aligner(stage, location, tokenizer, template, records, section, self.phase, self.seed)
        if stage.is_main_process:
            store_template(stage.folder / MODEL, template)
            store_card(stage, "An Aligner", self)


class TrainToAnswer(Task):
    """Question -> correction on `records`: the floor and the ceiling on ground truth, the student on weak labels.

    Or question -> answer, where `records` are demonstrations: the upstream that learns to answer at all.
    A record's `confidence` is the weight of its tokens; records with none of it are left out.
    """

    version: ClassVar[int] = 3
    distributed: ClassVar[bool] = True
    training: Training
    precision: str
    seed: int
    learns: Literal["correction", "answer"] = "correction"

    def run(self, stage: StageContext) -> None:
        from aligner_core.training.examples import Example, reply_example
        from aligner_core.training.supervised import Phase, train_supervised

        location, tokenizer = open_tokenizer(stage)
        training = self.training

        def example(record: WeakLabel | Demonstration) -> Example:
            return reply_example(tokenizer, record, getattr(record, self.learns), record.confidence)

        kind: type[WeakLabel | Demonstration] = WeakLabel if self.learns == "correction" else Demonstration
        given = read_records(stage.file("records"), kind)
        records: Sequence[WeakLabel | Demonstration] = [record for record in given if record.confidence > 0]
        stage.facts["dropped_without_confidence"] = len(given) - len(records)
        watched: Sequence[WeakLabel | Demonstration] = ()
        if training.held_out:
            records, watched = held_out_by_question(records, training.held_out.share, self.seed)
        train_supervised(
            stage, location, tokenizer, [Phase([example(record) for record in records], training.epochs)], training,
            self.seed, held_out=[example(record) for record in watched],
        )  # fmt: skip
        if stage.is_main_process:
            store_card(stage, "A model fine-tuned on corrections", self)


def store_card(stage: StageContext, title: str, task: Task) -> None:
    """Write the README of the stage's model."""
    from aligner_core.files import write_text
    from aligner_core.provenance import git_revision, versions
    from aligner_core.training.model_card import model_card

    base = stage.inputs["model"]["location"]
    card = model_card(title, base, task.model_dump(mode="json"), stage.facts, versions(), git_revision())
    write_text(stage.folder / MODEL / "README.md", card)


def open_tokenizer(stage: StageContext, frame: str | None = None) -> tuple[ModelLocation, PreTrainedTokenizerBase]:
    """Where the stage's model lies, and its tokenizer, ready for training; `frame` replaces its chat template."""
    from transformers import AutoTokenizer

    from aligner_core.templates import prepare_tokenizer

    location = stage.model("model")
    tokenizer = AutoTokenizer.from_pretrained(location.folder, **location.arguments())
    return location, prepare_tokenizer(tokenizer, frame)
