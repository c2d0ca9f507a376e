"""What the trainings of all score models share: their records as ids, the order, the network, and the test at the end.

The network's own forward reads the score at the last true token, so that TRL's loss and DeepSpeed's engine, which call
it, read what is read later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed
from transformers.modeling_outputs import SequenceClassifierOutput

from aligner_core.estimates import largest_divisor, micro_batch_size
from aligner_core.files import write_json
from aligner_core.recipe import ScoreModelSection, Training
from aligner_core.records import Answer, Correction, Turn
from aligner_core.scorer import BATCH, by_length, load_scorer, pad_right, scorer_ids, scores
from aligner_core.shapes import shape_from_config
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training.loop import optimizer_for, run_training, save_model, training_arguments
from aligner_core.training.order import InOrder, LengthSortedOrder, passes
from aligner_core.training.processes import shared_out
from aligner_core.training.score_losses import IDENTICAL, SAFE, UNSAFE
from aligner_core.work import PreferenceWork

RECORDS_TOGETHER = 4

Batch = dict[str, torch.Tensor]
Loss = Callable[[torch.Tensor, Batch], torch.Tensor]  # scores of a batch's texts, and the batch


class Encoder:
    """Texts as ids of at most `limit` tokens: the end, where the score is read. `cut` counts the shortened ones."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, limit: int) -> None:
        self._tokenizer = tokenizer
        self._limit = limit
        self.cut = 0

    def __call__(self, question: str, text: str, history: Sequence[Turn] | None) -> list[int]:
        ids = scorer_ids(self._tokenizer, question, text, history)
        self.cut += len(ids) > self._limit
        return ids[-self._limit :]


@dataclass(frozen=True)
class Labelled:
    """An answer, and the better text in its place if there is one, as ids."""

    worse: list[int]
    better: list[int] | None
    kind: int

    @property
    def length(self) -> int:
        return max(len(self.worse), len(self.better or ()))


def labelled(record: Answer, encode: Encoder) -> Labelled:
    """The kind follows from the record's `unsafe`; an answer without it counts as safe."""
    worse = encode(record.question, record.answer, record.history)
    unsafe = bool(record.row().get("unsafe", False))
    if not isinstance(record, Correction):
        return Labelled(worse, None, UNSAFE if unsafe else SAFE)
    better = encode(record.question, record.correction, record.history)
    return Labelled(worse, better, UNSAFE if unsafe else IDENTICAL if better == worse else SAFE)


def safe_texts_per_unsafe(records: Sequence[Labelled]) -> float:
    """All texts count, and only the answer of an unsafe record is unsafe."""
    unsafe = sum(record.kind == UNSAFE for record in records)
    texts = len(records) + sum(record.better is not None for record in records)
    return (texts - unsafe) / unsafe if unsafe else 1.0


def batched(sequences: Sequence[Sequence[int]]) -> Batch:
    """Right-padded `input_ids` and their `attention_mask`, both (batch, longest)."""
    input_ids, lengths = pad_right(sequences)
    return {"input_ids": input_ids, "attention_mask": (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()}


def collate(records: Sequence[Labelled]) -> Batch:
    """The answers first, then the better texts of those that have one; see `both_sides`."""
    better = [record.better for record in records if record.better is not None]
    return {
        **batched([record.worse for record in records] + better),
        "kinds": torch.tensor([record.kind for record in records]),
        "paired": torch.tensor([record.better is not None for record in records]),
    }


def both_sides(found: torch.Tensor, paired: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(records, ...) scores of better texts (0 where there is none) and of answers, from those of a `collate`."""
    worse = found[: len(paired)]
    better = torch.zeros_like(worse)
    better[paired] = found[len(paired) :]
    return better, worse


def open_trunk(
    stage: StageContext, model: ModelLocation, labels: int, section: ScoreModelSection, seed: int
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The network to train, with fresh heads that depend on the seed alone."""
    set_seed(seed)
    network, tokenizer = load_scorer(model, getattr(torch, stage.profile.precision), labels)
    _freeze(network, section.trainable_layers)
    read_at_last_token(network)
    return network, tokenizer


def read_at_last_token(network: Any) -> None:
    """Make the network's forward read as `scores` does, whatever the pad id is."""

    def forward(input_ids: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> SequenceClassifierOutput:
        return SequenceClassifierOutput(logits=scores(network, input_ids, attention_mask.sum(1)))  # type: ignore[arg-type]

    network.forward = forward


def _freeze(network: Any, trainable_layers: int | None) -> None:
    """Train the last layers, the final norm and the heads alone."""
    if trainable_layers is None:
        return
    for weight in network.parameters():
        weight.requires_grad = False
    layers = network.base_model.layers
    for module in [*layers[len(layers) - trainable_layers :], network.base_model.norm, network.score]:
        for weight in module.parameters():
            weight.requires_grad = True


def score_arguments(
    stage: StageContext, network: Any, lengths: Sequence[int], section: ScoreModelSection, seed: int
) -> dict[str, Any]:
    """Arguments for the trainers of score models; a micro-batch is a few records, each with both its texts.

    Args:
        lengths: of each record's longer text.
    """
    training, profile = section.training, stage.profile
    shape = shape_from_config(network.config.to_dict())
    work = PreferenceWork(
        shape, len(lengths), sum(lengths) // len(lengths) + 1, 1, training.epochs, training.global_batch,
        training.max_length, (section.trainable_layers or shape.layers) / shape.layers,
    )  # fmt: skip
    share = max(1, training.global_batch // profile.processes)
    at_most = min(profile.micro_batch or RECORDS_TOGETHER, micro_batch_size(work, profile))
    micro_batch = largest_divisor(share, at_most)
    return {**training_arguments(stage, training, seed, micro_batch), "remove_unused_columns": False}


def ordered(lengths: Sequence[int], training: Training, seed: int) -> LengthSortedOrder:
    order = passes(range(len(lengths)), training.epochs, torch.Generator().manual_seed(seed))
    return LengthSortedOrder(order, lengths, training.global_batch)


class LabelledTrainer(InOrder, Trainer):
    """The trainer with our order of records, and a loss on the scores of their texts."""

    loss: Loss

    def compute_loss(self, model: Any, inputs: Batch, *args: Any, **kwargs: Any) -> Any:
        found = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        return self.loss(found, inputs)


def train_labelled(
    stage: StageContext,
    network: Any,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Labelled],
    section: ScoreModelSection,
    seed: int,
    loss: Loss,
    doing: str,
) -> Trainer:
    """Train on labelled answers; notes how many there were of each kind."""
    training, lengths = section.training, [record.length for record in records]
    trainer = LabelledTrainer(
        model=network,
        args=TrainingArguments(**score_arguments(stage, network, lengths, section, seed)),
        train_dataset=records,  # type: ignore[arg-type]
        data_collator=collate,
        processing_class=tokenizer,
        optimizers=optimizer_for(network, training, stage.profile),
    )
    trainer.order = ordered(lengths, training, seed)
    trainer.loss = loss
    run_training(stage, trainer, doing)
    kinds = [record.kind for record in records]
    stage.facts |= {
        "pairs": sum(record.better is not None for record in records),
        "kinds": {"safe": kinds.count(SAFE), "unsafe": kinds.count(UNSAFE), "identical": kinds.count(IDENTICAL)},
    }
    return trainer


@torch.no_grad()
def held_out_scores(trainer: Trainer, sequences: Sequence[Sequence[int]]) -> torch.Tensor:
    """(sequences, labels) scores by the trained network, the same on every process."""
    network: Any = trainer.model_wrapped
    network.eval()
    device = trainer.accelerator.device
    found = torch.zeros(len(sequences), network.score.out_features, dtype=torch.float64, device=device)
    for chosen, counts in shared_out(by_length([len(sequence) for sequence in sequences], BATCH)):
        batch = {name: tensor.to(device) for name, tensor in batched([sequences[index] for index in chosen]).items()}
        logits = network(**batch).logits
        if counts:
            found[chosen] = logits.double()
    reduced: torch.Tensor = trainer.accelerator.reduce(found, "sum")
    return reduced.cpu()


def leave(stage: StageContext, trainer: Trainer, description: str, said: dict[str, Any]) -> None:
    """The weights as `model/`, with what a reader needs to know of them in the file `description`."""
    stage.facts |= said
    folder = save_model(stage, trainer)
    if stage.is_main_process:
        write_json(folder / description, said)
