"""Training of the two-headed scorer from corrections: the correction is better than the answer it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed

from aligner_core.estimates import largest_divisor
from aligner_core.files import write_json
from aligner_core.recipe import ScorerSection
from aligner_core.records import Correction
from aligner_core.scorer import COST, HELPFUL, load_scorer, pad_right, scorer_ids, scorer_loss, scores
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.statistics import wilson_interval
from aligner_core.training.loop import optimizer_for, run_training, save_model, training_arguments
from aligner_core.training.order import LengthSortedBatches, passes

SAFE, UNSAFE, IDENTICAL = 0, 1, 2
PAIRS_TOGETHER = 4


@dataclass(frozen=True)
class Pair:
    """A correction and the answer it replaced, as ids."""

    better: list[int]
    worse: list[int]
    kind: int


def pair_of(record: Correction, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Pair:
    """The kind follows from the record's `unsafe` flag; a corrected answer without one counts as safe."""
    better, worse = (
        scorer_ids(tokenizer, record.question, text, record.history, max_length)
        for text in (record.correction, record.answer)
    )
    unsafe = bool((record.model_extra or {}).get("unsafe", False))
    return Pair(better, worse, UNSAFE if unsafe else IDENTICAL if better == worse else SAFE)


def train_scorer(
    stage: StageContext,
    model: ModelLocation,
    training_records: Sequence[Correction],
    held_out: Sequence[Correction],
    section: ScorerSection,
    seed: int,
) -> None:
    """Train, test on `held_out`, and leave a folder `model/` with its calibration."""
    set_seed(seed)
    training = section.training
    arguments = training_arguments(stage, training, seed, largest_divisor(training.global_batch, PAIRS_TOGETHER))
    network, tokenizer = load_scorer(model, getattr(torch, stage.profile.precision))
    _freeze(network, section.trainable_layers)
    pairs = [pair_of(record, tokenizer, training.max_length) for record in training_records]
    trainer = _Trainer(
        model=network,
        args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=pairs,
        data_collator=_collate,
        optimizers=optimizer_for(network, training, stage.profile),
    )
    order = passes(range(len(pairs)), training.epochs, torch.Generator().manual_seed(seed))
    trainer.batches = LengthSortedBatches(order, [len(pair.better) for pair in pairs], training.global_batch)
    trainer.unsafe_weight = safe_texts_per_unsafe(pairs)
    run_training(stage, trainer, "training the scorer")
    stage.facts |= {"pairs": len(pairs), "kinds": _count_kinds(pairs), "dropped_over_long": []}
    calibration = _test(network, [pair_of(record, tokenizer, training.max_length) for record in held_out])
    stage.facts |= calibration
    folder = save_model(stage, trainer)
    tokenizer.save_pretrained(folder)
    write_json(folder / "scorer.json", {**calibration, "max_length": training.max_length})


class _Trainer(Trainer):
    batches: LengthSortedBatches
    unsafe_weight: float

    def _get_train_sampler(self, train_dataset: Any = None) -> LengthSortedBatches:
        return self.batches

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        both = scores(model, inputs["input_ids"], inputs["lengths"])
        better, worse = both.chunk(2)
        return scorer_loss(better, worse, inputs["kinds"], self.unsafe_weight)


def safe_texts_per_unsafe(pairs: Sequence[Pair]) -> float:
    """Both texts of a pair count, and only the answer of an unsafe one is unsafe."""
    unsafe = sum(pair.kind == UNSAFE for pair in pairs)
    return (2 * len(pairs) - unsafe) / unsafe if unsafe else 1.0


def _collate(pairs: Sequence[Pair]) -> dict[str, torch.Tensor]:
    input_ids, lengths = pad_right([pair.better for pair in pairs] + [pair.worse for pair in pairs])
    return {"input_ids": input_ids, "lengths": lengths, "kinds": torch.tensor([pair.kind for pair in pairs])}


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


@torch.inference_mode()
def _test(network: Any, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Held-out accuracies with 95 % Wilson intervals: better correction first, sign of the cost."""
    network.eval()
    both = [scores(network, *pad_right([pair.better, pair.worse])) for pair in pairs]
    helpful = [bool(two[0, HELPFUL] > two[1, HELPFUL]) for pair, two in zip(pairs, both, strict=True)
               if pair.kind == SAFE]  # fmt: skip
    unsafe = [bool(two[1, COST] > 0) for pair, two in zip(pairs, both, strict=True) if pair.kind == UNSAFE]
    safe = [bool(two[0, COST] < 0) for two in both]
    return {
        "helpful_accuracy": _accuracy(helpful),
        "unsafe_recall": _accuracy(unsafe),
        "safe_recall": _accuracy(safe),
    }


def _accuracy(correct: Sequence[bool]) -> dict[str, float] | None:
    if not correct:
        return None
    low, high = wilson_interval(sum(correct), len(correct))
    return {"value": sum(correct) / len(correct), "low": low, "high": high, "n": len(correct)}


def _count_kinds(pairs: Sequence[Pair]) -> dict[str, int]:
    kinds = [pair.kind for pair in pairs]
    return {"safe": kinds.count(SAFE), "unsafe": kinds.count(UNSAFE), "identical": kinds.count(IDENTICAL)}
