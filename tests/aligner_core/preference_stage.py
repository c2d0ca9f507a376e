"""Preference stages run as the runner would, on pairs of a few bytes and a tiny model."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path
from typing import Any

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.embedded_models import local_folder
from aligner_core.files import write_json, write_jsonl
from aligner_core.launch import launch_command, launch_environment
from aligner_core.profile import Profile
from aligner_core.recipe import Dpo, Training
from aligner_core.stages import Task
from aligner_core.tasks.preference import ReferenceLogProbs, TrainDpo

TRAINING = Training(epochs=2, learning_rate=1e-4, global_batch=8, lr_warmup=0.1, max_length=512)
SECTION = Dpo(sft_weight=0.5, training=TRAINING)
MODEL = "embedded:tiny-random"


def smoke(**changes: Any) -> Profile:
    return Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, **changes})


def write_pairs(path: Path, amount: int = 24) -> None:
    """Pairs of unequal lengths and beliefs; one of them identical, one nearly so, one too long."""
    source = random.Random(0)
    rows = [
        {"id": str(number), "question": f"Say {number}.", "chosen": "abc " * source.randint(1, 20),
         "rejected": "no " * source.randint(1, 20), "confidence": source.choice([0.6, 0.8, 1.0])}
        for number in range(amount)
    ]  # fmt: skip
    rows.append({"id": "identical", "question": "Why?", "chosen": "so ", "rejected": " so"})
    rows.append({"id": "near", "question": "Why?", "chosen": "so " * 50 + "it is", "rejected": "so " * 50 + "it was"})
    rows.append({"id": "long", "question": "Why?", "chosen": "a " * 300, "rejected": "b"})
    write_jsonl(path, rows)


def describe(folder: Path, task: Task, inputs: dict[str, Path | str], profile: Profile) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    description = {
        "name": "test",
        "task": task.path(),
        "settings": task.model_dump(mode="json"),
        "inputs": {name: {"location": str(place)} for name, place in inputs.items()},
        "profile": profile.model_dump(mode="json"),
        "wandb_group": None,
    }
    write_json(folder / "stage.json", description)


def run(folder: Path, profile: Profile) -> None:
    environment = {**os.environ, **launch_environment(profile)}
    result = subprocess.run(launch_command(folder, profile), env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]


def describe_reference(folder: Path, profile: Profile, pairs: Path, model: str | None = None) -> None:
    task = ReferenceLogProbs(precision=profile.precision, max_length=TRAINING.max_length)
    describe(folder, task, {"model": model or local_folder(MODEL), "pairs": pairs}, profile)


def describe_dpo(folder: Path, profile: Profile, pairs: Path, reference: Path, section: Dpo = SECTION) -> None:
    task = TrainDpo(section=section, precision=profile.precision, seed=1)
    inputs = {"model": local_folder(MODEL), "pairs": pairs, "reference": reference}
    describe(folder, task, inputs, profile)
