"""Supervised fine-tuning on (prompt, target) examples, with TRL's SFTTrainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase, Trainer, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from aligner_core.estimates import micro_batch_size
from aligner_core.profile import Profile
from aligner_core.recipe import Training
from aligner_core.scorer import pad_right
from aligner_core.shapes import shape_from_config
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training import causal_attention
from aligner_core.training.adapters import merge_adapters, with_adapters
from aligner_core.training.examples import IGNORED, Example, length_histogram, within_length
from aligner_core.training.held_out import BestWeights, HeldOutTable, KeepSteps
from aligner_core.training.loop import optimizer_for, run_training, save_model, training_arguments
from aligner_core.training.order import InOrder, LengthSortedOrder, interleaved, passes
from aligner_core.work import TrainingWork

VOCABULARY_MULTIPLE = 64  # what matrix kernels and tensor parallelism are happy with


@dataclass(frozen=True)
class Phase:
    """Examples, and how often they are passed over."""

    examples: Sequence[Example]
    epochs: float


class SupervisedTrainer(InOrder, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer with our order of records and our loss."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        """Cross-entropy over all supervised tokens of the global batch, each with the same weight."""
        total, _ = supervised_loss(model, inputs["input_ids"], inputs["labels"], inputs["weights"])
        # The tokens are those of all processes, and the gradients are averaged over them.
        loss: torch.Tensor = total / num_items_in_batch * self.accelerator.num_processes
        return loss

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> Any:
        """Supervised tokens of the global batch, each counted with its example's weight."""
        counted = [_weighted_tokens(batch["labels"][:, 1:], batch["weights"]) for batch in batch_samples]
        return self.accelerator.reduce(torch.stack(counted).sum().to(device), "sum")


def supervised_loss(
    model: Any, input_ids: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross-entropy of the supervised tokens, and their number; both weighted, where weights are given.

    Their quotient is a cross-entropy per token whatever the weights: those say how much an example counts beside the
    others of a batch, and equal ones change nothing.

    Logits are computed only where some row is supervised. TRL does likewise, but multiplies by the output layer in
    fp32 and twice, which takes half of a step on a CPU. No attention mask is given: rows are padded on the right,
    where no true position looks, and without a mask every attention kernel takes its causal path.

    Args:
        input_ids, labels: (batch, longest); labels are IGNORED where there is no loss.
        weights: (batch,) of the examples.
    """
    weights = torch.ones(len(labels), device=labels.device) if weights is None else weights
    shifted = labels[:, 1:]
    kept = (shifted != IGNORED).any(0).nonzero().flatten()
    logits = model(input_ids=input_ids, logits_to_keep=kept, use_cache=False).logits
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), shifted[:, kept].flatten(), ignore_index=IGNORED, reduction="none"
    )
    return (each.view(len(labels), -1).sum(1) * weights).sum(), _weighted_tokens(shifted, weights)


def collate_examples(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A padded batch; what the rows are padded with is never looked at."""
    return {
        "input_ids": pad_right([row["input_ids"] for row in rows])[0],
        "labels": pad_right([row["labels"] for row in rows], IGNORED)[0],
        "weights": torch.tensor([row["weight"] for row in rows]),
    }


def _weighted_tokens(shifted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return ((shifted != IGNORED).sum(1) * weights).sum()


def train_supervised(
    stage: StageContext,
    model: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
    phases: Sequence[Phase],
    training: Training,
    seed: int,
    mixed: bool = False,
    held_out: Sequence[Example] = (),
    table: HeldOutTable | None = None,
) -> None:
    """Train `model` on the phases, one after the other or `mixed`, and leave a plain folder `model/`.

    Args:
        held_out: examples that are watched, not trained on; the weights with the lowest loss on them are the result.
        table: what else is told of the model at each evaluation.

    Raises:
        UserError: if no example is left within the length limit.
    """
    examples, order = _ordered(stage, phases, training, seed, mixed)
    set_seed(seed)
    micro_batch = fitting_micro_batch(stage, model, examples, training)
    # Before the network is read, since under ZeRO-3 they shard it meanwhile.
    arguments = SFTConfig(
        **training_arguments(stage, training, seed, micro_batch), max_length=None, shuffle_dataset=False,
        remove_unused_columns=False,
    )  # fmt: skip
    network = open_network(stage, model, tokenizer, training)
    trainer = SupervisedTrainer(
        model=network,
        args=arguments,
        train_dataset=Dataset.from_list(
            [{"input_ids": item.input_ids, "labels": item.labels, "weight": item.weight} for item in examples]
        ),
        data_collator=collate_examples,
        processing_class=tokenizer,
        optimizers=optimizer_for(network, training, stage.profile),
    )
    trainer.order = LengthSortedOrder(order, [len(item) for item in examples], training.global_batch)
    best = None
    if held_out and training.held_out:
        watched, _ = within_length(held_out, training.max_length, training.over_long)
        best = BestWeights(stage, trainer, training.held_out, watched, micro_batch, supervised_loss, table)
    train_to_the_end(stage, trainer, model, tokenizer, training, "training", best)


def train_to_the_end(
    stage: StageContext,
    trainer: Trainer,
    model: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
    training: Training,
    doing: str,
    best: BestWeights | None = None,
) -> None:
    """Train, and leave the last or the best weights as `model/`; adapters are merged, and kept as `adapter/`."""
    keep = KeepSteps(stage, trainer, training.keep_steps)
    run_training(stage, trainer, doing, [best, keep] if best else [keep])
    folder = best.restore() if best else save_model(stage, trainer)
    if training.lora and stage.is_main_process:
        merge_adapters(model, folder, stage.folder / "adapter", tokenizer)


def open_network(
    stage: StageContext, model: ModelLocation, tokenizer: PreTrainedTokenizerBase, training: Training
) -> Any:
    """The network to train, with room for all of the tokenizer's tokens, and with adapters if they are trained."""
    network = load_network(stage, model)
    if len(tokenizer) > network.config.vocab_size:
        network.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=VOCABULARY_MULTIPLE)
    return with_adapters(network, training.lora, stage.profile.gradient_checkpointing) if training.lora else network


def load_network(stage: StageContext, model: ModelLocation) -> Any:
    """The causal language model in the profile's precision and with its attention."""
    return AutoModelForCausalLM.from_pretrained(
        model.folder, dtype=getattr(torch, stage.profile.precision), attn_implementation=attention(stage.profile),
        **model.arguments(),
    )  # fmt: skip


def attention(profile: Profile) -> str | None:
    """What the profile names; else ours on a CPU, and elsewhere what transformers thinks best."""
    return profile.attention or (causal_attention.NAME if profile.device.kind == "cpu" else None)


def _ordered(
    stage: StageContext, phases: Sequence[Phase], training: Training, seed: int, mixed: bool
) -> tuple[list[Example], list[int]]:
    """All examples that fit, and the order in which they are trained on; notes the facts."""
    generator = torch.Generator().manual_seed(seed)
    examples: list[Example] = []
    orders: list[list[int]] = []
    left_out: list[str] = []
    for phase in phases:
        kept, dropped = within_length(phase.examples, training.max_length, training.over_long)
        orders.append(passes(range(len(examples), len(examples) + len(kept)), phase.epochs, generator))
        examples += kept
        left_out += dropped
    order = interleaved(orders[0], orders[1], generator) if mixed else [index for part in orders for index in part]
    stage.facts |= {
        "examples": len(examples),
        "dropped_over_long": left_out,
        "token_lengths": length_histogram(examples),
        "tokens": sum(len(examples[index]) for index in order),
        "supervised_tokens": sum(examples[index].supervised for index in order),
    }
    return examples, order


def fitting_micro_batch(
    stage: StageContext,
    model: ModelLocation,
    sequences: Sequence[Example],
    training: Training,
    kind: type[TrainingWork] = TrainingWork,
) -> int:
    """Examples per pass, as planned; an example of `kind` is so many of the sequences."""
    mean = sum(map(len, sequences)) // len(sequences) + 1
    supervised = sum(sequence.supervised for sequence in sequences) // len(sequences) + 1
    shape = shape_from_config(AutoConfig.from_pretrained(model.folder, **model.arguments()).to_dict())
    work = kind(
        shape, len(sequences) // kind.sequences, mean, supervised, training.epochs, training.global_batch,
        training.max_length, lora_rank=training.lora.rank if training.lora else None,
    )  # fmt: skip
    return micro_batch_size(work, stage.profile)
