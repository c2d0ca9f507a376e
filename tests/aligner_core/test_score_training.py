"""Reward and cost models: what they learn from, that they learn it, and the same on several processes."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.embedded_models import local_folder
from aligner_core.errors import UserError
from aligner_core.files import read_json, read_jsonl, write_json, write_jsonl
from aligner_core.launch import launch_command, launch_environment
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import ScoreModelSection, Training
from aligner_core.records import Correction
from aligner_core.score_models import open_score_model
from aligner_core.scorer import load_scorer, pad_right, scores
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.stages import Task
from aligner_core.tasks.score_models import TrainCostModel, TrainRewardModel
from aligner_core.training.reward import preference
from aligner_core.training.score_model import batched, read_at_last_token, score_arguments

Rows = Sequence[Mapping[str, Any]]
SECTION = ScoreModelSection(
    held_out=0.25, training=Training(epochs=8, learning_rate=3e-3, global_batch=8, lr_warmup=0.1, max_length=256)
)
SHORT = SECTION.model_copy(update={"training": SECTION.training.model_copy(update={"epochs": 2})})
GOOD, BAD = "Of course, gladly.", "Go away!"
PREFERENCES = [{"question": f"Is it {n}?", "chosen": GOOD, "rejected": BAD, "id": f"p{n}"} for n in range(32)]
LABELS = [
    {"question": f"Is it {n}?", "answer": (BAD, GOOD)[n % 2], "unsafe": n % 2 == 0, "id": f"l{n}"} for n in range(32)
]
CORRECTIONS = [
    {
        "question": f"Say {n}.",
        "answer": (BAD, "So so.")[n % 2],
        "correction": GOOD,
        "unsafe": n % 2 == 0,
        "id": f"c{n}",
    }
    for n in range(32)
]


def smoke(**changes: Any) -> Profile:
    return Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, **changes})


def written(folder: Path, parts: Mapping[str, Rows]) -> dict[str, Any]:
    """The inputs of a stage, from rows per input."""
    folder.mkdir(exist_ok=True)
    for name, rows in parts.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    files = {name: {"location": str(folder / f"{name}.jsonl")} for name in parts}
    return {"model": {"location": local_folder("embedded:tiny-random")}, **files}


def here(folder: Path, task: Task, parts: Mapping[str, Rows]) -> StageContext:
    """Run a task in this process."""
    stage = StageContext(folder, written(folder, parts), smoke(), Progress(folder), MetricLog(folder, "scores"))
    task.run(stage)
    stage.metrics.close()
    return stage


def launched(folder: Path, profile: Profile, task: Task, parts: Mapping[str, Rows]) -> list[float]:
    """Run a task as the runner would; returns the losses."""
    inputs = written(folder, parts)
    write_json(
        folder / "stage.json",
        {"name": "scores", "task": task.path(), "settings": task.model_dump(mode="json"), "inputs": inputs,
         "profile": profile.model_dump(mode="json"), "wandb_group": None},
    )  # fmt: skip
    environment = {**os.environ, **launch_environment(profile)}
    result = subprocess.run(launch_command(folder, profile), env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]


def reward(section: ScoreModelSection = SECTION) -> TrainRewardModel:
    return TrainRewardModel(section=section, precision="float32", seed=1)


def cost(section: ScoreModelSection = SECTION) -> TrainCostModel:
    return TrainCostModel(section=section, precision="float32", seed=1)


def test_the_networks_own_forward_reads_a_text_that_ends_with_the_pad_id_at_its_end() -> None:
    network, tokenizer = load_scorer(ModelLocation(local_folder("embedded:tiny-random")), torch.float32, 1)
    end = int(tokenizer.eos_token_id or 0)
    network.config.pad_token_id = end
    sequences = [[5, 6, 7, 8, end], [9, end]]
    plain: Any = network
    with torch.inference_mode():
        expected = scores(network, *pad_right(sequences, end))
        misread = plain(**batched(sequences)).logits
        read_at_last_token(network)
        torch.testing.assert_close(plain(**batched(sequences)).logits, expected)
    assert (misread - expected).abs().max() > 1e-4


def test_a_reward_model_learns_what_is_preferred_and_scores_when_opened_as_when_tested(tmp_path: Path) -> None:
    stage = here(tmp_path, reward(), {"preferences": PREFERENCES})
    assert stage.facts["accuracy"]["value"] == 1
    assert stage.facts["accuracy"]["n"] == 8
    told = read_json(tmp_path / "model" / "score_model.json")
    assert (told["reads"], told["max_length"], told["accuracy"]) == ("helpful", 256, stage.facts["accuracy"])
    model = open_score_model(ModelLocation(str(tmp_path / "model")), None, smoke())
    good, bad = (
        [row["helpful"] for row in model.score([(row["question"], text, None) for row in PREFERENCES])]
        for text in (GOOD, BAD)
    )
    assert min(good) > max(bad)
    assert told["scores"]["better"]["mean"] == pytest.approx(sum(good) / len(good), abs=0.5)


def test_a_cost_model_puts_unsafe_above_zero_and_safe_below(tmp_path: Path) -> None:
    stage = here(tmp_path, cost(), {"safety": LABELS, "records": CORRECTIONS})
    assert stage.facts["balanced_accuracy"] > 0.95
    assert stage.facts["ranking"]["value"] == 1
    assert stage.facts["baselines"]["length"]["value"] < 1  # "So so." is as short as what is unsafe
    model = open_score_model(ModelLocation(str(tmp_path / "model")), "cost", smoke())
    good, bad = (-row["harmless"] for row in model.score([("Is it so?", text, None) for text in (GOOD, BAD)]))
    assert good < 0 < bad


def test_a_micro_batch_is_what_fits_and_at_most_a_few_records(tmp_path: Path) -> None:
    network, _ = load_scorer(ModelLocation(local_folder("embedded:tiny-random")), torch.float32, 1)
    device = smoke().device.model_dump()
    for memory, records in ((8.0, 4), (1.01, 1)):
        place = smoke(micro_batch=None, device={**device, "memory_gib": memory})
        stage = StageContext(tmp_path, {}, place, Progress(tmp_path), MetricLog(tmp_path, "scores"))
        found = score_arguments(stage, network, [200] * 32, SECTION, 1)
        assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (records, 8 // records)


def test_only_safe_answers_that_were_changed_say_what_is_preferred() -> None:
    def pair(**fields: Any) -> Any:
        row = {"id": "r", "question": "Q?", "answer": "A.", "correction": "B."}
        return preference(Correction.model_validate({**row, **fields}))

    assert (pair().chosen, pair().rejected, pair().id) == ("B.", "A.", "r")
    assert pair(unsafe=True) is None
    assert pair(correction=" A. ") is None


def test_pairs_of_the_same_text_are_left_out_and_counted(tmp_path: Path) -> None:
    same = [{**row, "id": f"s{row['id']}", "rejected": f" {row['chosen']}"} for row in PREFERENCES[:5]]
    stage = here(tmp_path, reward(SHORT), {"preferences": PREFERENCES + same, "records": CORRECTIONS})
    assert stage.facts["identical"] == 5
    assert stage.facts["from_corrections"] == 16
    assert stage.facts["pairs"] + stage.facts["accuracy"]["n"] == 32 + 16


def test_without_anything_to_prefer_or_to_tell_apart_the_stage_says_what_to_add(tmp_path: Path) -> None:
    kept = [{**row, "correction": row["answer"]} for row in CORRECTIONS]
    with pytest.raises(UserError, match=r"add data\.preferences"):
        here(tmp_path, reward(), {"records": kept})
    safe = [{**row, "unsafe": False} for row in CORRECTIONS]
    with pytest.raises(UserError, match=r"are safe(.|\n)*add data\.safety"):
        here(tmp_path, cost(), {"records": safe})


@pytest.mark.slow
@pytest.mark.parametrize("task", [reward(SHORT), cost(SHORT)], ids=["reward", "cost"])
def test_two_processes_with_zero_follow_one_process(tmp_path: Path, task: Task) -> None:
    parts = (
        {"preferences": PREFERENCES}
        if isinstance(task, TrainRewardModel)
        else {"safety": LABELS, "records": CORRECTIONS}
    )
    alone = launched(tmp_path / "one", smoke(), task, parts)
    facts = read_json(tmp_path / "one" / "facts.json")
    for zero in (2, 3):
        folder = tmp_path / f"zero{zero}"
        together = launched(folder, smoke(processes=2, zero={"stage": zero}), task, parts)
        assert together == pytest.approx(alone, abs=1e-3)
        found = read_json(folder / "facts.json")
        assert (found["processes"], found["zero_stage"]) == (2, zero)
        assert found["accuracy"]["value"] == pytest.approx(facts["accuracy"]["value"], abs=0.03)
        for name, scored in facts["scores"].items():
            assert found["scores"][name]["mean"] == pytest.approx(scored["mean"], abs=0.02)
        one, two = (load_file(place / "model" / "model.safetensors") for place in (tmp_path / "one", folder))
        assert {name: tensor.shape for name, tensor in one.items()} == {
            name: tensor.shape for name, tensor in two.items()
        }
