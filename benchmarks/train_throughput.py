"""How fast corrections are learnt: the original code's way, TRL's SFTTrainer at its defaults, and ours.

    python benchmarks/train_throughput.py [--data FILE] [--records 96]

One process, the same records in the same optimizer steps of 16, the same model and dtype, no checkpointing. The
original's way: random micro-batches of four, padded to the longest of them, and logits of every position. Prints
tokens per second of the training itself, padding, and peak memory over what was there before; and what 6 operations
per weight and token come to, as a share of the rate at which this machine multiplies bf16 matrices in the same run.
The last line is JSON. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, set_seed
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.data_sources import local_path
from aligner_core.embedded_models import local_folder
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import Training
from aligner_core.records import Correction, read_records
from aligner_core.scorer import pad_right
from aligner_core.shapes import matrix_parameters, shape_from_config
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.templates import correction_template, prepare_tokenizer
from aligner_core.training.aligner import ExampleMaker
from aligner_core.training.examples import IGNORED, Example
from aligner_core.training.optimizer import MasterWeightAdamW
from aligner_core.training.order import passes
from aligner_core.training.supervised import Phase, supervised_loss, train_supervised

GLOBAL_BATCH, MICRO_BATCH = 16, 4
LEARNING_RATE = 1e-4
HELD_OUT = 16


@dataclass(frozen=True)
class Result:
    """`padded` is the number of positions that were computed, padding included; memory in GiB."""

    seconds: float
    padded: int
    memory: float
    loss: float


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="embedded:corrections", help="Q-A-C records")
    options.add_argument("--model", default="embedded:smollm2-135m-instruct")
    options.add_argument("--records", type=int, default=96)
    options.add_argument("--max-length", type=int, default=2048)
    given = options.parse_args()
    folder = local_folder(given.model)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    examples = read_examples(given.data, tokenizer, given.records + HELD_OUT, given.max_length)
    training, held_out = examples[: given.records], examples[given.records :]
    rate = matrix_rate()
    print(f"{len(training)} records, {sum(map(len, training)):,} tokens, {torch.get_num_threads()} threads, "
          f"bf16 matrix rate {rate / 1e12:.2f} TFLOP/s", flush=True)  # fmt: skip
    ways: dict[str, Callable[[], Result]] = {
        "original": lambda: original(folder, training, held_out),
        "TRL": lambda: trl(folder, tokenizer, training, held_out),
        "ours": lambda: ours(folder, tokenizer, training, held_out, given.max_length),
    }
    results = {}
    for name, way in ways.items():
        results[name] = way()
        report(name, results[name], training)
    weights = matrix_parameters(shape_from_config(AutoConfig.from_pretrained(folder).to_dict()))
    ours_, original_, trl_ = results["ours"], results["original"], results["TRL"]
    operations = 6 * weights * sum(map(len, training)) / ours_.seconds
    print(json.dumps({
        "ratio_vs_original": round(original_.seconds / ours_.seconds, 2),
        "ratio_vs_trl": round(trl_.seconds / ours_.seconds, 2),
        "ratio_peak_memory": round(ours_.memory / min(original_.memory, trl_.memory), 2),
        "share_of_matrix_rate": round(operations / rate, 3),
        "supervised_tokens_per_second": round(sum(item.supervised for item in training) / ours_.seconds, 1),
        "held_out_loss": {name: round(result.loss, 4) for name, result in results.items()},
    }))  # fmt: skip


def read_examples(data: str, tokenizer: Any, amount: int, max_length: int) -> list[Example]:
    path = local_path(data)
    assert path is not None, "name a file"
    make = ExampleMaker(tokenizer, correction_template("chat@1"), max_length, False)
    records = read_records(path, Correction)
    random.Random(0).shuffle(records)
    fitting = (example for example in map(make.residual, records) if len(example) <= max_length)
    return [example for example, _ in zip(fitting, range(amount), strict=False)]


def original(folder: str, examples: Sequence[Example], held_out: Sequence[Example]) -> Result:
    """Loss of each micro-batch by the model's own code, averaged over micro-batches."""
    network = load(folder)
    optimizer = MasterWeightAdamW(network.parameters(), LEARNING_RATE, (0.9, 0.95), 0.0)
    order = passes(range(len(examples)), 1, torch.Generator().manual_seed(0))
    padded = 0
    with Measured() as measured:
        for start in range(0, len(order), MICRO_BATCH):
            batch = [examples[index] for index in order[start : start + MICRO_BATCH]]
            input_ids, lengths = pad_right([item.input_ids for item in batch])
            labels, _ = pad_right([item.labels for item in batch], IGNORED)
            mask = (torch.arange(input_ids.shape[1])[None] < lengths[:, None]).long()
            loss = network(input_ids=input_ids, attention_mask=mask, labels=labels, use_cache=False).loss
            (loss / (GLOBAL_BATCH // MICRO_BATCH)).backward()
            padded += input_ids.numel()
            if (start + MICRO_BATCH) % GLOBAL_BATCH == 0 or start + MICRO_BATCH >= len(order):
                torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()
    return Result(measured.seconds, padded, measured.memory, held_out_loss(network, held_out))


def trl(folder: str, tokenizer: Any, examples: Sequence[Example], held_out: Sequence[Example]) -> Result:
    """The defaults of SFTTrainer, but for what must be the same in all ways."""
    rows = [{"input_ids": item.input_ids, "labels": item.labels} for item in examples]
    padded = 0
    with tempfile.TemporaryDirectory() as outputs:
        arguments = SFTConfig(
            outputs, per_device_train_batch_size=MICRO_BATCH, gradient_accumulation_steps=GLOBAL_BATCH // MICRO_BATCH,
            num_train_epochs=1, learning_rate=LEARNING_RATE, gradient_checkpointing=False, bf16=False, max_length=None,
            save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
        )  # fmt: skip
        trainer = SFTTrainer(
            load(folder), arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        for batch in trainer.get_train_dataloader():
            padded += batch["input_ids"].numel()
        with Measured() as measured:
            trainer.train()
        return Result(measured.seconds, padded, measured.memory, held_out_loss(trainer.model, held_out))


def ours(
    folder: str, tokenizer: Any, examples: Sequence[Example], held_out: Sequence[Example], max_length: int
) -> Result:
    """What a stage runs."""
    training = Training(
        epochs=1, learning_rate=LEARNING_RATE, global_batch=GLOBAL_BATCH, max_length=max_length, schedule="linear",
        lr_warmup=0.0,
    )  # fmt: skip
    document = {**read_yaml(find_profile("cpu")), "micro_batch": MICRO_BATCH, "checkpoint_minutes": 1000}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        stage = StageContext(place, {}, Profile.model_validate(document), Progress(place), MetricLog(place, "ours"))
        with Measured() as measured:
            train_supervised(stage, ModelLocation(folder), tokenizer, [Phase(examples, 1)], training, seed=0)
        seconds = stage.facts["train_seconds"]
        return Result(
            seconds, padded_ours(examples), measured.memory, held_out_loss(load(str(place / "model")), held_out)
        )


def padded_ours(examples: Sequence[Example]) -> int:
    order = passes(range(len(examples)), 1, torch.Generator().manual_seed(0))
    lengths = [len(examples[index]) for index in order]
    steps = [sorted(lengths[start : start + GLOBAL_BATCH]) for start in range(0, len(lengths), GLOBAL_BATCH)]
    parts = [step[start : start + MICRO_BATCH] for step in steps for start in range(0, len(step), MICRO_BATCH)]
    return sum(max(part) * len(part) for part in parts)


def load(folder: str) -> Any:
    set_seed(0)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).train()


@torch.no_grad()
def held_out_loss(network: Any, examples: Sequence[Example]) -> float:
    network.eval()
    total = tokens = 0.0
    for item in examples:
        summed, count = supervised_loss(network, torch.tensor([item.input_ids]), torch.tensor([item.labels]))
        total, tokens = total + float(summed), tokens + float(count)
    return total / tokens


class Measured:
    """Wall time, and the process's peak memory over what it had at the beginning (Linux)."""

    def __enter__(self) -> Measured:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        self._before = _status("VmRSS")
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._started
        self.memory = (_status("VmHWM") - self._before) / 2**20


def _status(key: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key + ":"))


def matrix_rate(size: int = 2048, times: int = 20) -> float:
    """Operations per second of a square bf16 product: the best of several."""
    left, right = torch.randn(2, size, size).bfloat16()
    best = math.inf
    for _ in range(times):
        started = time.perf_counter()
        left @ right
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def report(name: str, result: Result, examples: Sequence[Example]) -> None:
    tokens, supervised = sum(map(len, examples)), sum(item.supervised for item in examples)
    print(f"{name:<10}{result.seconds:>8.1f} s {tokens / result.seconds:>8.0f} tokens/s "
          f"{supervised / result.seconds:>7.0f} supervised tokens/s   {1 - tokens / result.padded:>5.1%} padding   "
          f"{result.memory:>5.2f} GiB peak   held-out loss {result.loss:.4f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
