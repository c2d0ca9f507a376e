"""What every training has in common: arguments from recipe and profile, state on disk, how it runs to its end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aligner_core.errors import Problem, UserError
from aligner_core.files import open_folder, write_json
from aligner_core.profile import Profile
from aligner_core.recipe import Training
from aligner_core.stage_context import CHECKPOINTS, StageContext
from aligner_core.training.checkpoints import keep_only, newest
from aligner_core.training.deepspeed_setup import allow_bfloat16, deepspeed_config, start_deepspeed
from aligner_core.training.optimizer import MasterWeightAdamW
from aligner_core.training.processes import from_main


class StageCallback(TrainerCallback):
    """Progress, metrics, and a checkpoint every so many minutes; a loss that is no number ends the training."""

    def __init__(self, stage: StageContext, doing: str) -> None:
        self._stage = stage
        self._doing = doing
        self._last_save = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._report(state)
        if self._stage.is_main_process:
            self._stage.metrics.rewind(state.global_step or -1)  # what is told before the first step has step 0

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._report(state)
        waited = time.monotonic() - self._last_save
        control.should_save = from_main(waited > self._stage.profile.checkpoint_minutes * 60)
        if control.should_save:
            self._last_save = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        keep_only(folder, state.global_step, self._stage.profile)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kw: Any
    ) -> None:
        """Called before a checkpoint of the same step is written."""
        if not logs or "loss" not in logs:  # the closing summary is all timings
            return
        require_numbers(logs, state.global_step, self._stage.profile)
        if self._stage.is_main_process:
            self._stage.metrics.log(state.global_step, **logs)

    def _report(self, state: TrainerState) -> None:
        if self._stage.is_main_process:
            self._stage.progress.begin(self._doing, state.max_steps, "steps", state.global_step)


def require_numbers(logs: Mapping[str, float], step: int, profile: Profile) -> None:
    """Look at the gradient too, which spoils weights a step before the loss tells; DeepSpeed leaves such a step out.

    Raises:
        UserError: if the weights after this step are of no use.
    """
    names = ["loss"] if profile.uses_deepspeed else ["loss", "grad_norm"]
    if spoilt := [f"{name} is {logs[name]}" for name in names if not math.isfinite(logs.get(name, 0.0))]:
        what = f"{' and '.join(spoilt)} after step {step}"
        raise UserError(Problem("training.learning_rate", what, "lower it, or raise training.lr_warmup"))


def training_arguments(stage: StageContext, training: Training, seed: int, micro_batch: int) -> dict[str, Any]:
    """Arguments for any `TrainingArguments` class. Accumulation follows from global batch, processes, micro-batch."""
    profile = stage.profile
    if profile.uses_deepspeed:
        start_deepspeed(profile)
    accumulation = max(1, training.global_batch // (micro_batch * profile.processes))
    return {
        "output_dir": str(stage.folder / CHECKPOINTS),
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "num_train_epochs": 1,  # the passes are in the order of the records
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.schedule,
        "warmup_steps": training.lr_warmup,  # a fraction is read as a share of all steps
        "weight_decay": training.weight_decay,
        "adam_beta1": training.betas[0],
        "adam_beta2": training.betas[1],
        "max_grad_norm": training.max_grad_norm,
        "seed": seed,
        "data_seed": seed,
        "gradient_checkpointing": profile.gradient_checkpointing,
        "save_strategy": "no",
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": profile.device.kind == "cuda",
        "bf16": False,  # the weights themselves are bfloat16, see MasterWeightAdamW; DeepSpeed has its own setting
        **_place(profile),
    }


def _place(profile: Profile) -> dict[str, Any]:
    if profile.uses_deepspeed:
        return {
            "deepspeed": deepspeed_config(profile),
            "accelerator_config": {"use_configured_state": True},
            **({"bf16": True} if profile.device.kind == "cuda" and profile.precision == "bfloat16" else {}),
        }
    return {"use_cpu": profile.device.kind == "cpu"}


def optimizer_for(
    model: torch.nn.Module, training: Training, profile: Profile
) -> tuple[torch.optim.Optimizer | None, None]:
    """Ours with one process; under DeepSpeed, DeepSpeed's."""
    if profile.uses_deepspeed:
        return None, None
    betas, decay = training.betas, training.weight_decay
    model.to(profile.device.kind)  # before the copies are made, which stay where the weights are
    return MasterWeightAdamW(model.parameters(), training.learning_rate, betas, decay), None


def run_training(stage: StageContext, trainer: Trainer, doing: str, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Train to the end from the newest whole checkpoint, note the facts.

    Raises:
        UserError: if the loss stopped being a number, or other processes wrote the checkpoint than would read it.
    """
    for callback in (StageCallback(stage, doing), *callbacks):  # the first forgets metrics that the others log again
        trainer.add_callback(callback)
    if stage.profile.uses_deepspeed:
        allow_bfloat16(trainer.args)
    found = newest(stage.folder / CHECKPOINTS, stage.profile)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(found[0]) if found else None)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    stage.facts |= {
        "steps": trainer.state.global_step,
        "loss_first": round(losses[0], 4),
        "loss_last": round(sum(losses[-3:]) / len(losses[-3:]), 4),
        "train_seconds": round(time.monotonic() - started, 1),
        "processes": trainer.args.world_size,
        "zero_stage": _zero_stage(stage.profile, trainer),
    }


def _zero_stage(profile: Profile, trainer: Trainer) -> int:
    """The stage that the engine really runs; the Trainer is known to leave DeepSpeed out without a word."""
    engine: Any = trainer.model_wrapped
    running = engine.zero_optimization_stage() if trainer.is_deepspeed_enabled else 0
    if running != profile.zero.stage:
        raise RuntimeError(f"ZeRO-{profile.zero.stage} was asked for, and ZeRO-{running} ran")
    return int(running)


def save_model(stage: StageContext, trainer: Trainer) -> Path:
    """Leave the weights as `model/`."""
    folder = stage.folder / "model"
    save_weights(stage, trainer, folder)
    return folder


def save_weights(
    stage: StageContext, trainer: Trainer, folder: Path, beside: Mapping[str, Mapping[str, Any]] = {}
) -> None:
    """A plain folder (safetensors, no pickled arguments) that is whole or not there. All processes must call it.

    Args:
        beside: JSON files that tell of the weights, by their names.
    """
    with open_folder(folder) if stage.is_main_process else nullcontext(folder) as writing:
        trainer.save_model(str(writing))
        if stage.is_main_process:
            (writing / "training_args.bin").unlink(missing_ok=True)
            for name, told in beside.items():
                write_json(writing / name, told)
