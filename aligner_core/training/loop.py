"""What every training has in common: arguments from recipe and profile, state on disk, how it runs to its end."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from aligner_core.files import read_json, write_text
from aligner_core.profile import Profile
from aligner_core.recipe import Training
from aligner_core.stage_context import StageContext
from aligner_core.training.deepspeed_setup import allow_bfloat16, deepspeed_config, start_deepspeed
from aligner_core.training.optimizer import MasterWeightAdamW

COMPLETE = "complete"


class StageCallback(TrainerCallback):
    """Progress, metrics, and a checkpoint every so many minutes."""

    def __init__(self, stage: StageContext, doing: str) -> None:
        self._stage = stage
        self._doing = doing
        self._last_save = time.monotonic()

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._report(state)
        if self._stage.is_main_process:
            self._stage.metrics.rewind(state.global_step)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._report(state)
        control.should_save = _agreed(time.monotonic() - self._last_save > self._stage.profile.checkpoint_minutes * 60)
        if control.should_save:
            self._last_save = time.monotonic()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._stage.is_main_process:
            write_text(Path(str(args.output_dir)) / f"checkpoint-{state.global_step}" / COMPLETE, "")

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **kw: Any
    ) -> None:
        if self._stage.is_main_process and logs and "loss" in logs:  # the closing summary is all timings
            self._stage.metrics.log(state.global_step, **logs)

    def _report(self, state: TrainerState) -> None:
        if self._stage.is_main_process:
            self._stage.progress.begin(self._doing, state.max_steps, "steps", state.global_step)


def _agreed(decision: bool) -> bool:
    """The main process's decision, on every process."""
    if not torch.distributed.is_initialized():
        return decision
    from accelerate.utils import broadcast_object_list

    return bool(broadcast_object_list([decision])[0])


def training_arguments(stage: StageContext, training: Training, seed: int, micro_batch: int) -> dict[str, Any]:
    """Arguments for any `TrainingArguments` class. Accumulation follows from global batch, processes, micro-batch."""
    profile = stage.profile
    if profile.uses_deepspeed:
        start_deepspeed(profile)
    accumulation = max(1, training.global_batch // (micro_batch * profile.processes))
    return {
        "output_dir": str(stage.folder / "checkpoints"),
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
        "save_total_limit": 1,
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


def run_training(stage: StageContext, trainer: Trainer, doing: str) -> None:
    """Train to the end from the newest whole checkpoint, note the facts.

    Raises:
        ArithmeticError: if the loss stopped being a number.
    """
    trainer.add_callback(StageCallback(stage, doing))
    if stage.profile.uses_deepspeed:
        allow_bfloat16(trainer.args)
    checkpoints = stage.folder / "checkpoints"
    started = time.monotonic()
    result = trainer.train(resume_from_checkpoint=_newest(checkpoints))
    if not math.isfinite(result.training_loss):
        raise ArithmeticError(f"the training loss is {result.training_loss}; lower the learning rate")
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
    """Leave the weights as `model/`, and no checkpoint."""
    folder = stage.folder / "model"
    save_weights(stage, trainer, folder)
    if stage.is_main_process:
        shutil.rmtree(stage.folder / "checkpoints", ignore_errors=True)
    return folder


def save_weights(stage: StageContext, trainer: Trainer, folder: Path) -> None:
    """A plain folder (safetensors, no pickled arguments) that is whole or not there. All processes must call it."""
    temporary = folder.with_name(folder.name + ".writing")
    trainer.save_model(str(temporary))
    if stage.is_main_process:
        (temporary / "training_args.bin").unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)


def _newest(checkpoints: Path) -> str | None:
    """The newest checkpoint that was written to its end; a half-written one is never read."""
    whole = [path.parent for path in checkpoints.glob(f"checkpoint-*/{COMPLETE}")]
    steps = {int(read_json(path / "trainer_state.json")["global_step"]): path for path in whole}
    return str(steps[max(steps)]) if steps else None
