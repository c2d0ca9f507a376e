"""Training of a reward model from preferences, with TRL's RewardTrainer."""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset
from trl.trainer.reward_config import RewardConfig
from trl.trainer.reward_trainer import RewardTrainer

from aligner_core.recipe import ScoreModelSection
from aligner_core.records import Correction, Pair
from aligner_core.score_models import SCORE_MODEL
from aligner_core.score_quality import pair_quality
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training.loop import optimizer_for, run_training
from aligner_core.training.order import InOrder
from aligner_core.training.score_model import Encoder, held_out_scores, leave, open_trunk, ordered, score_arguments


class OrderedRewardTrainer(InOrder, RewardTrainer):  # type: ignore[misc]
    """TRL's trainer with our order of records."""


def preference(record: Correction) -> Pair | None:
    """A correction is preferred over its answer, where that is safe and was changed; what is unsafe is cost's."""
    row = record.row()
    if row.get("unsafe", False) or record.answer.strip() == record.correction.strip():
        return None
    return Pair.model_validate({**row, "chosen": record.correction, "rejected": record.answer})


def train_reward_model(
    stage: StageContext,
    model: ModelLocation,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    section: ScoreModelSection,
    seed: int,
) -> None:
    """Train, test on `held_out`, and leave a folder `model/` with `score_model.json`."""
    network, tokenizer = open_trunk(stage, model, 1, section, seed)
    training = section.training
    encode = Encoder(tokenizer, training.max_length)
    rows = [
        {"chosen_ids": encode(pair.question, pair.chosen, pair.history),
         "rejected_ids": encode(pair.question, pair.rejected, pair.history)}
        for pair in pairs
    ]  # fmt: skip
    lengths = [max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    trainer = OrderedRewardTrainer(
        model=network,
        args=RewardConfig(**score_arguments(stage, network, lengths, section, seed), max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        optimizers=optimizer_for(network, training, stage.profile),
    )
    trainer.order = ordered(lengths, training, seed)
    run_training(stage, trainer, "training the reward model")
    better = held_out_scores(trainer, [encode(pair.question, pair.chosen, pair.history) for pair in held_out])
    worse = held_out_scores(trainer, [encode(pair.question, pair.rejected, pair.history) for pair in held_out])
    quality = pair_quality(
        better[:, 0].tolist(), worse[:, 0].tolist(),
        [len(pair.chosen) for pair in held_out], [len(pair.rejected) for pair in held_out],
    )  # fmt: skip
    stage.facts |= {"pairs": len(pairs), "cut": encode.cut}
    leave(stage, trainer, SCORE_MODEL, {"reads": "helpful", "max_length": training.max_length, **quality})
