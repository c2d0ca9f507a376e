"""Training the Aligner: from Q-A-C records to the identity and residual examples of each phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from aligner_core.recipe import AlignerSection
from aligner_core.records import Correction
from aligner_core.splits import held_out_by_question, share_of
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.tasks.train import AlignerPhase
from aligner_core.templates import CorrectionTemplate, prompt_ids, target_ids
from aligner_core.training.correction_table import CorrectionTable
from aligner_core.training.examples import Example, build_example, longest_fitting
from aligner_core.training.supervised import Phase, train_supervised


def train_aligner(
    stage: StageContext,
    model: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
    template: CorrectionTemplate,
    records: Sequence[Correction],
    section: AlignerSection,
    phase: AlignerPhase,
    seed: int,
) -> None:
    """Train one phase, or both in one training, and leave a folder `model/`."""
    training, warm_up = section.training, section.warm_up
    if section.records:
        records = share_of(records, min(1.0, section.records / len(records)), seed)
    held_out: Sequence[Correction] = ()
    if training.held_out:
        records, held_out = held_out_by_question(records, training.held_out.share, seed)
    make = ExampleMaker(tokenizer, template, training.max_length, training.over_long == "truncate_answer")
    phases: list[Phase] = []
    if phase != "residual":
        phases.append(Phase(_identities(make, share_of(records, warm_up.fraction, seed)), warm_up.epochs))
    if phase != "warm-up":
        phases.append(Phase([make.residual(record) for record in records], training.epochs))
    stage.facts["answers_truncated"] = list(dict.fromkeys(make.truncated))
    shown = held_out[: training.held_out.corrected] if training.held_out else ()
    train_supervised(
        stage, model, tokenizer, phases, training, seed, mixed=phase == "both" and warm_up.mode == "mixed",
        held_out=_identities(make, held_out) if phase == "warm-up" else [make.residual(record) for record in held_out],
        table=CorrectionTable(stage, tokenizer, template, shown) if shown else None,
    )  # fmt: skip


def _identities(make: ExampleMaker, records: Sequence[Correction]) -> list[Example]:
    """Q-A-A of all records but those of a blank answer, in which there is nothing to learn."""
    return [make.identity(record) for record in records if record.answer.strip()]


class ExampleMaker:
    """Makes examples of one template; shortens answers that make an example too long, where that is allowed.

    An answer that the ground truth leaves as it is has the template's keep token for its target, if it has one.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, template: CorrectionTemplate, max_length: int, truncates: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._max_length = max_length
        self._truncates = truncates
        self.truncated: list[str] = []

    def identity(self, record: Correction) -> Example:
        """Q-A-A."""
        return self._example(record, lambda answer: answer)

    def residual(self, record: Correction) -> Example:
        """Q-A-C."""
        return self._example(record, lambda answer: record.correction)

    def _example(self, record: Correction, target: Callable[[str], str]) -> Example:
        """`target` is what is taught, given the answer that is shown."""
        example = self._build(record, record.answer, target)
        if not self._truncates or len(example) <= self._max_length:
            return example
        answer = longest_fitting(
            record.answer, lambda text: len(self._build(record, text, target)) <= self._max_length
        )
        if answer is None:
            return example
        self.truncated.append(record.id)
        return self._build(record, answer, target)

    def _build(self, record: Correction, answer: str, target: Callable[[str], str]) -> Example:
        prompt = prompt_ids(self._tokenizer, self._template.messages(record.question, answer, record.history))
        taught = self._target(record, target(answer))
        return build_example(prompt, taught, int(self._tokenizer.eos_token_id), record.id)

    def _target(self, record: Correction, target: str) -> list[int]:
        keep = self._template.keep
        if keep and record.correction.strip() == record.answer.strip():
            return [self._tokenizer.get_added_vocab()[keep]]
        return target_ids(self._tokenizer, target)
