"""Memory that `plan` expects of a training, beside what the training takes: the embedded 135M model on this machine.

    python benchmarks/plan_memory.py [CONFIGURATION ...]

Each configuration is a stage that is run as any stage is, on the longest of the embedded corrections: a whole training
has its peak there. What is measured is the anonymous memory of the stage's processes, every 20 ms, less what a
process has after its imports; what is planned is less BASE_GIB, which stands for that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.data_sources import read_source, size_of
from aligner_core.display import open_display
from aligner_core.estimates import BASE_GIB, GIB, estimate
from aligner_core.files import write_jsonl
from aligner_core.profile import Profile
from aligner_core.recipe import Lora, Role, Training
from aligner_core.records import Correction
from aligner_core.runner import run_stages
from aligner_core.shapes import shape_of
from aligner_core.stages import Source, Stage
from aligner_core.tasks.train import TrainToAnswer
from aligner_core.work import TrainingWork
from w2s.pipeline import model_source

MODEL = Role(model="embedded:smollm2-135m-instruct")
DATA = "embedded:corrections"
RECORDS = 16  # two optimizer steps: the second has the moments that the first one made
TRAINING = Training(epochs=1, learning_rate=1e-5, global_batch=8, max_length=512)
IMPORTS = "import aligner_core.preload, deepspeed, peft"


@dataclass(frozen=True)
class Configuration:
    """A place and a training that need memory in a way of their own."""

    profile: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)


CONFIGURATIONS = {
    "bfloat16": Configuration(),
    "float32_checkpointing": Configuration({"precision": "float32", "gradient_checkpointing": True}),
    "lora": Configuration({}, {"lora": Lora(rank=16)}),
    "zero2_two_processes": Configuration({"processes": 2, "zero": {"stage": 2}, "precision": "float32"}),
}


def main() -> None:
    names = sys.argv[1:] or list(CONFIGURATIONS)
    imported = anonymous_after_imports()
    print(f"{imported:.2f} GiB after imports ({BASE_GIB:.2f} planned)")
    ratios = {}
    for name in names:
        planned, measured = compare(CONFIGURATIONS[name], imported)
        ratios[f"ratio_{name}"] = round(planned / measured, 3)
        print(f"{name:<24}planned {planned:>6.2f} GiB, measured {measured:>6.2f} GiB: {planned / measured:.2f}",
              flush=True)  # fmt: skip
    print(json.dumps(ratios))


def compare(configuration: Configuration, imported: float) -> tuple[float, float]:
    """(planned, measured) GiB of all processes together, without what imports take."""
    document = {**read_yaml(find_profile("cpu")), "checkpoint_minutes": 1000, **configuration.profile}
    profile = Profile.model_validate(document)
    with tempfile.TemporaryDirectory() as folder:
        stage = training_stage(Path(folder), configuration, profile)
        with Peak(profile.processes) as peak:
            run_stages(Path(folder) / "run", [stage], profile, open_display())
    planned = estimate(stage.work, profile).memory_gib - BASE_GIB * profile.processes
    return planned, peak.gib - imported * profile.processes


def training_stage(folder: Path, configuration: Configuration, profile: Profile) -> Stage:
    training = TRAINING.model_copy(update=configuration.training)
    size = size_of(DATA)
    assert size is not None
    work = TrainingWork(
        shape_of(MODEL, "model"), RECORDS, size.question_tokens + size.text_tokens, size.text_tokens, training.epochs,
        training.global_batch, training.max_length, lora_rank=training.lora.rank if training.lora else None,
    )  # fmt: skip
    records = sorted(read_source(DATA, Correction, {}).records, key=lambda row: len(row.question + row.correction))
    file = folder / "records.jsonl"
    write_jsonl(file, [row.model_dump(mode="json", exclude_none=True) for row in records[-RECORDS:]])
    task = TrainToAnswer(training=training, precision=profile.precision, seed=0)
    inputs = {"model": model_source(MODEL), "records": Source(str(file), "longest")}
    return Stage("training", task, inputs, work)


def anonymous_after_imports() -> float:
    code = (
        f"{IMPORTS}\nprint([line for line in open('/proc/self/status') if line.startswith('RssAnon')][0].split()[1])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return int(output.split()[-1]) * 1024 / GIB


class Peak:
    """The most anonymous memory that the `count` largest processes under this one held together (Linux)."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._thread = threading.Thread(target=self._watch)
        self._done = False
        self.gib = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done = True
        self._thread.join()

    def _watch(self) -> None:
        searched, found = 0.0, []
        while not self._done:
            if time.monotonic() - searched > 0.5:
                found = [child.pid for child in psutil.Process(os.getpid()).children(recursive=True)]
                searched = time.monotonic()
            sizes = sorted(map(anonymous, found), reverse=True)[: self._count]
            self.gib = max(self.gib, sum(sizes) / GIB)
            time.sleep(0.02)


def anonymous(process: int) -> int:
    """Bytes of memory that is no file's; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
