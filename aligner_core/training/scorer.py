"""Training of the two-headed scorer from corrections: the correction is better than the answer it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aligner_core.recipe import ScorerSection
from aligner_core.records import Correction
from aligner_core.score_quality import proportion
from aligner_core.scorer import CALIBRATION, COST, HELPFUL
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training.score_losses import SAFE, UNSAFE, scorer_loss
from aligner_core.training.score_model import (
    Batch,
    Encoder,
    Labelled,
    both_sides,
    held_out_scores,
    labelled,
    leave,
    open_trunk,
    safe_texts_per_unsafe,
    train_labelled,
)


def train_scorer(
    stage: StageContext,
    model: ModelLocation,
    training_records: Sequence[Correction],
    held_out: Sequence[Correction],
    section: ScorerSection,
    seed: int,
) -> None:
    """Train, test on `held_out`, and leave a folder `model/` with its calibration."""
    network, tokenizer = open_trunk(stage, model, 2, section, seed)
    encode = Encoder(tokenizer, section.training.max_length)
    records = [labelled(record, encode) for record in training_records]
    unsafe_weight = safe_texts_per_unsafe(records)

    def loss(found: torch.Tensor, batch: Batch) -> torch.Tensor:
        return scorer_loss(*both_sides(found, batch["paired"]), batch["kinds"], unsafe_weight)

    trainer = train_labelled(stage, network, tokenizer, records, section, seed, loss, "training the scorer")
    quality = _quality(trainer, [labelled(record, encode) for record in held_out])
    stage.facts["cut"] = encode.cut
    leave(stage, trainer, CALIBRATION, {**quality, "max_length": section.training.max_length})


def _quality(trainer: Any, records: Sequence[Labelled]) -> dict[str, Any]:
    """Held-out accuracies with intervals: better correction first, sign of the cost."""
    better = held_out_scores(trainer, [record.better or [] for record in records])
    worse = held_out_scores(trainer, [record.worse for record in records])
    kinds = torch.tensor([record.kind for record in records])
    return {
        "helpful_accuracy": proportion((better > worse)[kinds == SAFE, HELPFUL]),
        "unsafe_recall": proportion(worse[kinds == UNSAFE, COST] > 0),
        "safe_recall": proportion(better[:, COST] < 0),
    }
