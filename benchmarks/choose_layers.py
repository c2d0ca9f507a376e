"""Which layers of the embedded model its weaker siblings do without, and what that costs.

    python benchmarks/choose_layers.py order          the removal order, greedily (half an hour on two cores)
    python benchmarks/choose_layers.py compare 24     held-out perplexity after equal training, whole and cut

`order` prints what `REMOVAL_ORDER` in aligner_core/embedded_models.py holds. `compare` trains both on 300 embedded
corrections (question -> correction, as the quickstart does) and reads perplexity on 100 held-out references.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.data_sources import EMBEDDED
from aligner_core.embedded_models import local_folder
from aligner_core.files import write_json, write_jsonl
from aligner_core.launch import launch_command, launch_environment
from aligner_core.mixing import by_hash
from aligner_core.model_ids import ALL_LAYERS, MINIMUM_LAYERS
from aligner_core.profile import Profile
from aligner_core.recipe import Training
from aligner_core.records import Correction, Question, read_records
from aligner_core.scorer import pad_right
from aligner_core.tasks.train import TrainToAnswer
from aligner_core.templates import conversation, prompt_ids, target_ids

MODEL = "embedded:smollm2-135m-instruct"
TRAINING = Training(epochs=1, learning_rate=1e-4, global_batch=16, lr_warmup=0.1, max_length=512)


def held_out(amount: int) -> list[tuple[list[int], list[int]]]:
    """(prompt, target) ids of evaluation questions and their references."""
    tokenizer = AutoTokenizer.from_pretrained(local_folder(MODEL))
    records = by_hash(read_records(EMBEDDED / "eval.jsonl", Question))[:amount]
    return [
        (prompt_ids(tokenizer, conversation(row.question)),
         [*target_ids(tokenizer, (row.model_extra or {})["reference"]), tokenizer.eos_token_id])
        for row in records
    ]  # fmt: skip


@torch.inference_mode()
def perplexity(model: torch.nn.Module, pairs: list[tuple[list[int], list[int]]], batch: int = 16) -> float:
    """exp of the mean loss over all target tokens."""
    total, tokens = 0.0, 0
    for start in range(0, len(pairs), batch):
        chosen = pairs[start : start + batch]
        ids, lengths = pad_right([prompt + target for prompt, target in chosen])
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        for row, (prompt, target) in zip(logits, chosen, strict=True):
            at = row[len(prompt) - 1 : len(prompt) + len(target) - 1].float()
            total += torch.nn.functional.cross_entropy(at, torch.tensor(target), reduction="sum").item()
            tokens += len(target)
    return math.exp(total / tokens)


def removal_order(amount: int) -> list[int]:
    """Greedy: at each turn the layer whose removal raises held-out perplexity least."""
    pairs = held_out(amount)
    model = AutoModelForCausalLM.from_pretrained(local_folder(MODEL), dtype=torch.bfloat16).eval()
    layers = list(model.model.layers)

    def without(removed: list[int]) -> float:
        kept = [layer for index, layer in enumerate(layers) if index not in removed]
        model.model.layers = torch.nn.ModuleList(kept)
        model.config.num_hidden_layers = len(kept)
        return perplexity(model, pairs)

    order: list[int] = []
    while len(order) < ALL_LAYERS - MINIMUM_LAYERS:
        rest = [index for index in range(ALL_LAYERS) if index not in order]
        value, index = min((without([*order, index]), index) for index in rest)
        order.append(index)
        print(f"{ALL_LAYERS - len(order)} layers: without {index}, perplexity {value:.1f}", flush=True)
    return order


def trained_perplexity(model: str, folder: Path) -> float:
    """Train as the runner does, in a process of its own, and read the held-out perplexity."""
    profile = Profile.model_validate(read_yaml(find_profile("cpu")))
    folder.mkdir()
    rows = by_hash(read_records(EMBEDDED / "corrections.jsonl", Correction))[:300]
    write_jsonl(folder / "records.jsonl", (row.row() for row in rows))
    task = TrainToAnswer(training=TRAINING, precision=profile.precision, seed=1)
    inputs = {"model": {"location": model}, "records": {"location": str(folder / "records.jsonl")}}
    write_json(
        folder / "stage.json",
        {"name": "compare", "task": task.path(), "settings": task.model_dump(mode="json"), "inputs": inputs,
         "profile": profile.model_dump(mode="json"), "wandb_group": None},
    )  # fmt: skip
    environment = {**os.environ, **launch_environment(profile)}
    subprocess.run(launch_command(folder, profile), env=environment, check=True, capture_output=True)
    trained = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.bfloat16).eval()
    return perplexity(trained, held_out(100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["order", "compare"])
    parser.add_argument("layers", type=int, nargs="?", default=24)
    arguments = parser.parse_args()
    if arguments.what == "order":
        print(json.dumps({"order": removal_order(16)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        whole = trained_perplexity(MODEL, Path(folder) / "whole")
        cut = trained_perplexity(f"{MODEL}?layers={arguments.layers}", Path(folder) / "cut")
    print(f"held-out perplexity after training: {ALL_LAYERS} layers {whole:.2f}, {arguments.layers} layers {cut:.2f}")
    print(json.dumps({"ratio_perplexity": round(cut / whole, 3)}))


if __name__ == "__main__":
    main()
