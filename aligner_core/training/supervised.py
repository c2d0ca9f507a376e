"""Supervised fine-tuning on (prompt, target) examples, with TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from aligner_core.estimates import micro_batch_size
from aligner_core.recipe import Training
from aligner_core.shapes import shape_from_config
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training.examples import IGNORED, Example, within_length
from aligner_core.training.loop import (
    LengthSortedBatches,
    optimizer_for,
    run_training,
    save_model,
    training_arguments,
)
from aligner_core.work import TrainingWork


class _Trainer(SFTTrainer):  # type: ignore[misc]
    batches: LengthSortedBatches

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> LengthSortedBatches:
        return self.batches

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Cross-entropy over all supervised tokens of the global batch, each with the same weight.

        Logits are computed only where some row is supervised. TRL does likewise, but multiplies by the output layer
        in fp32 and twice, which takes half of a step on a CPU.
        """
        labels = inputs["labels"][:, 1:]
        kept = (labels != IGNORED).any(0).nonzero().flatten()
        logits = model(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            logits_to_keep=kept,
            use_cache=False,
        ).logits
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels[:, kept].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        tokens = num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum()
        # The tokens are those of all processes, and the gradients are averaged over them.
        loss: torch.Tensor = total / tokens * self.accelerator.num_processes
        return loss


def train_supervised(
    stage: StageContext,
    model: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    training: Training,
    seed: int,
) -> None:
    """Train `model` on `examples` and leave a folder `model/` that `from_pretrained` loads.

    Raises:
        UserError: if no example is left within the length limit.
    """
    kept, dropped = within_length(examples, training.max_length, training.over_long)
    stage.facts |= {
        "examples": len(kept),
        "dropped_over_long": dropped,
        "tokens_per_epoch": sum(map(len, kept)),
        "supervised_tokens_per_epoch": sum(example.supervised for example in kept),
    }
    set_seed(seed)
    arguments = training_arguments(stage, training, seed, _micro_batch(stage, model, kept, training))
    network = AutoModelForCausalLM.from_pretrained(
        model.folder, dtype=getattr(torch, stage.profile.precision), **model.arguments()
    )
    trainer = _Trainer(
        model=network,
        args=SFTConfig(**arguments, max_length=None, shuffle_dataset=False),
        train_dataset=Dataset.from_list([{"input_ids": item.input_ids, "labels": item.labels} for item in kept]),
        processing_class=tokenizer,
        optimizers=optimizer_for(network, training, stage.profile),
    )
    trainer.batches = LengthSortedBatches([len(item) for item in kept], training.global_batch, seed)
    run_training(stage, trainer, "training")
    save_model(stage, trainer)


def _micro_batch(stage: StageContext, model: ModelLocation, examples: Sequence[Example], training: Training) -> int:
    mean = sum(map(len, examples)) // len(examples) + 1
    supervised = sum(example.supervised for example in examples) // len(examples) + 1
    shape = shape_from_config(AutoConfig.from_pretrained(model.folder, **model.arguments()).to_dict())
    work = TrainingWork(shape, len(examples), mean, supervised, training.epochs,
                        training.global_batch, training.max_length)  # fmt: skip
    return micro_batch_size(work, stage.profile)
