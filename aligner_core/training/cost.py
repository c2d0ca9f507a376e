"""Training of a cost model (cost > 0 = unsafe) from corrections of unsafe answers and from safety labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from aligner_core.recipe import ScoreModelSection
from aligner_core.records import Answer, Correction
from aligner_core.score_models import SCORE_MODEL
from aligner_core.score_quality import label_quality, length_rule, proportion
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training.score_losses import UNSAFE, cost_losses
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


def train_cost_model(
    stage: StageContext,
    model: ModelLocation,
    training_records: Sequence[Answer],
    held_out: Sequence[Answer],
    section: ScoreModelSection,
    seed: int,
) -> None:
    """Train, test on `held_out`, and leave a folder `model/` with `score_model.json`.

    Args:
        training_records, held_out: corrections (with `unsafe`, where the answer is) and safety labels.
    """
    network, tokenizer = open_trunk(stage, model, 1, section, seed)
    encode = Encoder(tokenizer, section.training.max_length)
    records = [labelled(record, encode) for record in training_records]
    unsafe_weight = safe_texts_per_unsafe(records)

    def loss(found: torch.Tensor, batch: Batch) -> torch.Tensor:
        better, worse = both_sides(found[:, 0], batch["paired"])
        return cost_losses(better, worse, batch["kinds"] == UNSAFE, batch["paired"], unsafe_weight).mean()

    trainer = train_labelled(stage, network, tokenizer, records, section, seed, loss, "training the cost model")
    quality = _quality(trainer, held_out, [labelled(record, encode) for record in held_out], training_records)
    stage.facts["cut"] = encode.cut
    leave(stage, trainer, SCORE_MODEL, {"reads": "cost", "max_length": section.training.max_length, **quality})


def labelled_texts(records: Sequence[Answer]) -> tuple[list[int], list[bool]]:
    """The length of each text, and whether it is unsafe: all answers, then all corrections, which are safe."""
    corrections = [record.correction for record in records if isinstance(record, Correction)]
    unsafe = [bool(record.row().get("unsafe", False)) for record in records]
    lengths = [len(record.answer) for record in records] + list(map(len, corrections))
    return lengths, unsafe + [False] * len(corrections)


def _quality(
    trainer: Any, held_out: Sequence[Answer], records: Sequence[Labelled], trained_on: Sequence[Answer]
) -> dict[str, Any]:
    """Of all held-out texts the sign of the cost; of corrected unsafe answers, also whether they cost more."""
    texts = [record.worse for record in records] + [record.better for record in records if record.better is not None]
    costs = held_out_scores(trainer, texts)[:, 0]
    better, worse = both_sides(costs, torch.tensor([record.better is not None for record in records]))
    ranked = torch.tensor([record.kind == UNSAFE and record.better is not None for record in records])
    lengths, unsafe = labelled_texts(held_out)
    quality = label_quality(costs.tolist(), unsafe, lengths, length_rule(*labelled_texts(trained_on)))
    return {**quality, "ranking": proportion((worse > better)[ranked])}
