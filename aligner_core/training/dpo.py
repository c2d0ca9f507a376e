"""Direct preference optimization, with TRL's DPOTrainer on our pairs, order, reference log-probabilities and loss.

TRL averages each micro-batch by itself, so that its supervised term depends on how a batch is cut; it knows no belief
per pair; and without a GPU kernel it multiplies every position by the output layer in fp32. What is kept of it is its
handling of adapters, ZeRO and checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase, set_seed
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from aligner_core.errors import Problem, UserError
from aligner_core.recipe import Dpo
from aligner_core.records import Pair
from aligner_core.scorer import pad_right
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.training.examples import IGNORED
from aligner_core.training.loop import optimizer_for, training_arguments
from aligner_core.training.order import InOrder, LengthSortedOrder, passes
from aligner_core.training.pairs import PairExample, select_pairs
from aligner_core.training.preference_loss import expected_loss, text_log_probs
from aligner_core.training.supervised import fitting_micro_batch, open_network, train_to_the_end
from aligner_core.work import PreferenceWork

# Sums over the pairs of a step; the metrics are their means.
METRICS = ("preference_loss", "sft_loss", "accuracy", "margin", "chosen_reward", "rejected_reward", "chosen_logp",
           "rejected_logp")  # fmt: skip
LAST_STEPS = 3


class DpoTrainer(InOrder, DPOTrainer):  # type: ignore[misc]
    """The loss of a step is the mean over the pairs of the global batch, however it is cut."""

    loss_is_scaled_for_ga = True
    section: Dpo
    _told: Any = 0  # sums since the last log, over this process's pairs
    _pairs = 0

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # these are token ids already

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset  # TRL's cache takes two models of one shape for one another under ZeRO-3

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> Any:
        pairs = torch.tensor(sum(len(batch["confidence"]) for batch in batch_samples), device=device)
        return self.accelerator.reduce(pairs, "sum")

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        each, told = pair_losses(model, inputs, self.section)
        self._told = self._told + told.detach().double().sum(1)
        self._pairs += len(each)
        # The pairs are those of all processes, and the gradients are averaged over them.
        loss: torch.Tensor = each.sum() / num_items_in_batch * self.accelerator.num_processes
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            sums = torch.cat([self._told, self._told.new_tensor([self._pairs])])
            *means, pairs = self.accelerator.reduce(sums, "sum").tolist()
            logs.update({name: value / pairs for name, value in zip(METRICS, means, strict=True)})
            self._told = self._pairs = 0
        super().log(logs, start_time)


def pair_losses(model: Any, batch: Mapping[str, torch.Tensor], section: Dpo) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss of every pair: the expected preference loss, and the chosen text's cross-entropy per token.

    Args:
        batch: `input_ids` and `labels` (2 x pairs, longest), the chosen texts first; `reference` (2 x pairs,)
            log-probabilities; `confidence` (pairs,), which also weighs the cross-entropy.

    Returns:
        (pairs,) losses and (metrics, pairs) values in the order of METRICS.
    """
    found, tokens = text_log_probs(model, batch["input_ids"], batch["labels"])
    ratios = found - batch["reference"]
    chosen, rejected = (ratios / tokens if section.loss == "sigmoid_norm" else ratios).chunk(2)
    preference = expected_loss(section.loss, chosen, rejected, section.strength, batch["confidence"])
    chosen_logp, rejected_logp = found.chunk(2)
    cross_entropy = -chosen_logp / tokens.chunk(2)[0]
    losses = preference + section.sft_weight * batch["confidence"] * cross_entropy
    rewards = section.strength * torch.stack([chosen, rejected])
    margins = rewards[0] - rewards[1]
    preferred = (margins.sign() + 1) / 2  # a tie is half right
    rows = [preference, cross_entropy, preferred, margins, *rewards, chosen_logp, rejected_logp]
    return losses, torch.stack(rows)


def train_dpo(
    stage: StageContext,
    model: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Pair],
    reference: Sequence[Mapping[str, Any]],
    section: Dpo,
    seed: int,
) -> None:
    """Train `model` on the pairs that the section keeps, and leave a plain folder `model/`.

    Args:
        reference: rows of `ReferenceLogProbs` for the same model and pairs.

    Raises:
        UserError: if no pair is left, or one has no reference log-probabilities.
    """
    training = section.training
    selected = select_pairs(tokenizer, records, training.max_length, training.over_long, section.min_edit)
    pairs = selected.pairs
    rows = rows_of(pairs, matched(pairs, reference))
    order = passes(range(len(pairs)), training.epochs, torch.Generator().manual_seed(seed))
    stage.facts |= {
        "pairs": len(pairs),
        "dropped_identical": len(selected.identical),
        "dropped_near_copies": len(selected.near_copies),
        "dropped_over_long": selected.over_long,
        "mean_confidence": round(sum(pair.confidence for pair in pairs) / len(pairs), 4),
        "tokens": sum(pairs[index].tokens for index in order),
        "supervised_tokens": sum(pairs[index].supervised for index in order),
    }
    set_seed(seed)
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    micro_batch = fitting_micro_batch(stage, model, texts, training, PreferenceWork)
    # Before the network is read, since under ZeRO-3 they shard it meanwhile.
    arguments = DPOConfig(
        **training_arguments(stage, training, seed, micro_batch), precompute_ref_log_probs=True, max_length=None,
        remove_unused_columns=False, disable_dropout=training.lora is None,
    )  # fmt: skip
    network = open_network(stage, model, tokenizer, training)
    trainer = DpoTrainer(
        model=network,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=collate_pairs,
        processing_class=tokenizer,
        optimizers=optimizer_for(network, training, stage.profile),
    )
    if training.lora:
        network.delete_adapter("ref")  # TRL's copy of the adapters as they were: the reference is known
    trainer.section = section
    trainer.order = LengthSortedOrder(order, [len(pair) for pair in pairs], training.global_batch)
    train_to_the_end(stage, trainer, model, tokenizer, training, "training on pairs")
    stage.facts |= _last_steps(trainer.state.log_history)


def matched(pairs: Sequence[PairExample], reference: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """(chosen, rejected) reference log-probabilities of every pair.

    Raises:
        UserError: if a pair has none, or had other tokens when they were computed.
    """
    known = {row["id"]: row for row in reference}
    problems: list[Problem] = []
    found: list[tuple[float, float]] = []
    for pair in pairs:
        row = known.get(pair.record)
        counted = row and (row["chosen_tokens"], row["rejected_tokens"])
        if row and counted == (pair.chosen.supervised, pair.rejected.supervised):
            found.append((row["chosen_logp"], row["rejected_logp"]))
        else:
            what = (
                "has other tokens than its reference log-probabilities" if row else "has no reference log-probability"
            )
            problems.append(
                Problem(f"pair {pair.record}", what, "compute them for the same model, pairs and max_length")
            )
    if problems:
        raise UserError(problems[:20])
    return found


def collate_pairs(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch for `pair_losses`: all chosen texts, then all rejected ones."""
    sides = ("chosen", "rejected")
    input_ids, _ = pad_right([row[f"{side}_ids"] for side in sides for row in rows])
    labels, _ = pad_right([row[f"{side}_labels"] for side in sides for row in rows], IGNORED)
    return {
        "input_ids": input_ids,
        "labels": labels,
        "reference": torch.tensor([row[f"{side}_reference"] for side in sides for row in rows]),
        "confidence": torch.tensor([row["confidence"] for row in rows]),
    }


def rows_of(pairs: Sequence[PairExample], reference: Sequence[tuple[float, float]]) -> list[dict[str, Any]]:
    """The rows that `collate_pairs` takes, with each pair's reference log-probabilities."""
    return [
        {"confidence": pair.confidence,
         "chosen_ids": pair.chosen.input_ids, "chosen_labels": pair.chosen.labels, "chosen_reference": better,
         "rejected_ids": pair.rejected.input_ids, "rejected_labels": pair.rejected.labels, "rejected_reference": worse}
        for pair, (better, worse) in zip(pairs, reference, strict=True)
    ]  # fmt: skip


def _last_steps(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means over the last tenth of the steps, and at least three: one step's pairs are few."""
    steps = [entry for entry in history if "accuracy" in entry]
    last = steps[-max(LAST_STEPS, len(steps) // 10) :]
    names = ("accuracy", "margin", "chosen_reward", "rejected_reward")
    return {f"{name}_last": round(sum(entry[name] for entry in last) / len(last), 4) for name in names}
