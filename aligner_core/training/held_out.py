"""What happens at certain steps of a training: held-out records are looked at, the best and listed weights kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState

from aligner_core.files import read_json, write_json
from aligner_core.recipe import HeldOut
from aligner_core.scorer import pad_right
from aligner_core.stage_context import StageContext
from aligner_core.training.examples import IGNORED, Example
from aligner_core.training.loop import save_weights

EVALUATIONS = 10  # in a training, where the recipe does not say how often
HISTORY = "held_out.json"

Batch = TypeVar("Batch")
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
        ordered = sorted(examples, key=len)
        self._batches = [ordered[start : start + micro_batch] for start in range(0, len(ordered), micro_batch)]
        self._loss = loss
        self._table = table

        self._path = stage.folder / HISTORY
        self._history: list[Evaluation] = (
            [Evaluation(**row) for row in read_json(self._path)] if self._path.is_file() else []
        )

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == 0:
            self._evaluate(state, control)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        every = self._settings.every or max(1, state.max_steps // EVALUATIONS)
        if state.global_step % every == 0 or state.global_step == state.max_steps:
            self._evaluate(state, control)

    def restore(self) -> Path:
        """Make the best weights the result; returns their folder."""
        found = best(self._history)
        folder = self._stage.folder / "model"
        if self._stage.is_main_process:
            shutil.move(self._stage.folder / "best", folder)
            shutil.rmtree(self._stage.folder / "checkpoints", ignore_errors=True)
        self._stage.facts |= {"best_step": found.step, "held_out_loss": round(found.loss, 4)}
        return folder

    def _evaluate(self, state: TrainerState, control: TrainerControl) -> None:
        network = self._trainer.model_wrapped
        network.eval()
        loss = mean_loss(network, self._batches, self._loss, self._trainer.accelerator)
        told = self._table(network, state.global_step) if self._table else {}
        network.train()
        # An interrupted training repeats evaluations that it had made before.
        self._history = [*(row for row in self._history if row.step < state.global_step)]
        self._history.append(Evaluation(state.global_step, loss))
        if best(self._history).step == state.global_step:
            save_weights(self._stage, self._trainer, self._stage.folder / "best")
        if self._stage.is_main_process:
            self._stage.metrics.log(state.global_step, held_out_loss=loss, **told)
            write_json(self._path, [asdict(row) for row in self._history])
        patience = self._settings.patience
        if patience is not None and since_best(self._history) >= patience:
            control.should_training_stop = True


def best(history: Sequence[Evaluation]) -> Evaluation:
    """The evaluation with the lowest loss; of equals the earliest."""
    return min(history, key=lambda row: (row.loss, row.step))


def since_best(history: Sequence[Evaluation]) -> int:
    """How many evaluations came after the best one."""
    return len(history) - 1 - history.index(best(history))


@torch.no_grad()
def mean_loss(network: Any, batches: Sequence[Sequence[Example]], loss: Loss, accelerator: Any) -> float:
    """Loss per supervised token over all batches, shared out over the processes."""
    total = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for chosen, counts in shared_out(batches, accelerator):
        input_ids, _ = pad_right([item.input_ids for item in chosen])
        labels, _ = pad_right([item.labels for item in chosen], IGNORED)
        summed, tokens = loss(network, input_ids.to(accelerator.device), labels.to(accelerator.device))
        if counts:
            total += torch.stack([summed.double(), tokens.double()])
    summed_loss, tokens_seen = accelerator.reduce(total, "sum").tolist()
    return float(summed_loss / tokens_seen)


def shared_out(batches: Sequence[Batch], accelerator: Any) -> Iterator[tuple[Batch, bool]]:
    """This process's share of the batches, and whether each counts.

    Every process gets equally many, since sharded weights are gathered in each forward pass; the last may be there
    for that alone.
    """
    processes = accelerator.num_processes
    for start in range(0, len(batches), processes):
        place = start + accelerator.process_index
        yield batches[min(place, len(batches) - 1)], place < len(batches)
