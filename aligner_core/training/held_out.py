"""What happens at certain steps of a training: held-out records are looked at, the best and listed weights kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from aligner_core.files import read_json, write_json
from aligner_core.recipe import HeldOut
from aligner_core.scorer import by_length, pad_right
from aligner_core.stage_context import BEST, StageContext
from aligner_core.training.examples import IGNORED, Example
from aligner_core.training.loop import save_weights
from aligner_core.training.processes import shared_out

EVALUATIONS = 10  # in a training, where the recipe does not say how often
HISTORY = "held_out.json"
EVALUATION = "evaluation.json"  # beside the best weights: a kill may have come before the history told of them

Loss = Callable[[Any, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
HeldOutTable = Callable[[Any, int], dict[str, float]]  # (network, step) -> metrics


@dataclass(frozen=True)
class Evaluation:
    """Held-out loss per supervised token after a step."""

    step: int
    loss: float


class KeepSteps(TrainerCallback):
    """Keeps the weights after the listed steps, for scoring them later."""

    def __init__(self, stage: StageContext, trainer: Trainer, steps: Sequence[int]) -> None:
        self._stage = stage
        self._trainer = trainer
        self._steps = steps

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step in self._steps:
            save_weights(self._stage, self._trainer, self._stage.folder / "steps" / f"step-{state.global_step}")


class BestWeights(TrainerCallback):
    """Watches the held-out loss, keeps the weights that had the lowest, and stops when it no longer falls."""

    def __init__(
        self,
        stage: StageContext,
        trainer: Trainer,
        settings: HeldOut,
        examples: Sequence[Example],
        micro_batch: int,
        loss: Loss,
        table: HeldOutTable | None,
    ) -> None:
        self._stage = stage
        self._trainer = trainer
        self._settings = settings
        batches = by_length([len(example) for example in examples], micro_batch)
        self._batches = [[examples[index] for index in batch] for batch in batches]
        self._loss = loss
        self._table = table
        self._path = stage.folder / HISTORY
        self._history = [Evaluation(**row) for row in read_json(self._path)] if self._path.is_file() else []
        self._weights = stage.folder / BEST / "model"
        kept = self._weights / EVALUATION
        self._best = Evaluation(**read_json(kept)) if kept.is_file() else None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            self._evaluate(state, control)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        every = self._settings.every or max(1, state.max_steps // EVALUATIONS)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self._evaluate(state, control)

    def restore(self) -> Path:
        """Make the best weights the result, by links: a kill from here on finds them again. Returns their folder."""
        assert self._best is not None, "a training evaluates at its end"
        folder = self._stage.folder / "model"
        if self._stage.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
            told = shutil.ignore_patterns(EVALUATION)
            shutil.copytree(self._weights, folder, ignore=told, copy_function=os.link)
        self._stage.facts |= {"best_step": self._best.step, "held_out_loss": round(self._best.loss, 4)}
        return folder

    def _evaluate(self, state: TrainerState, control: TrainerControl) -> None:
        network = self._trainer.model_wrapped
        network.eval()
        loss = mean_loss(network, self._batches, self._loss, self._trainer.accelerator)
        told = self._table(network, state.global_step) if self._table else {}
        network.train()
        # An interrupted training repeats evaluations that it had made before.
        found = Evaluation(state.global_step, loss)
        self._history = [*(row for row in self._history if row.step < found.step), found]
        if self._best is None or found.loss < self._best.loss:
            self._best = found
            save_weights(self._stage, self._trainer, self._weights, {EVALUATION: asdict(found)})
        if self._stage.is_main_process:
            self._stage.metrics.log(state.global_step, held_out_loss=loss, **told)
            write_json(self._path, [asdict(row) for row in self._history])
        patience = self._settings.patience
        since_best = sum(row.step > self._best.step for row in self._history)
        if patience is not None and since_best >= patience:
            # A checkpoint of this step would be gone on from, beyond the stop.
            control.should_training_stop, control.should_save = True, False


@torch.no_grad()
def mean_loss(network: Any, batches: Sequence[Sequence[Example]], loss: Loss, accelerator: Any) -> float:
    """Loss per supervised token over all batches, shared out over the processes."""
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for chosen, counts in shared_out(batches):
        input_ids, _ = pad_right([item.input_ids for item in chosen])
        labels, _ = pad_right([item.labels for item in chosen], IGNORED)
        summed, tokens = loss(network, input_ids.to(accelerator.device), labels.to(accelerator.device))
        if counts:
            total += torch.stack([summed.double(), tokens.double()])
    summed_loss, tokens_seen = accelerator.reduce(total, "sum").tolist()
    return float(summed_loss / tokens_seen)
