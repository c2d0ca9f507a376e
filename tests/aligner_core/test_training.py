"""Trainings follow the same trajectory however they are cut up: by kills, by micro-batches, by processes."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.embedded_models import local_folder
from aligner_core.files import file_digest, read_json, read_jsonl, write_json, write_jsonl
from aligner_core.launch import launch_command, launch_environment
from aligner_core.profile import Profile
from aligner_core.recipe import HeldOut, Lora, Training
from aligner_core.scorer import pad_right
from aligner_core.tasks.train import TrainToAnswer
from aligner_core.training.examples import build_example
from aligner_core.training.supervised import supervised_loss
from tests.aligner_core.killing import BEFORE_THE_CARD, before_step, run_until_killed

TRAINING = Training(epochs=2, learning_rate=1e-3, global_batch=8, lr_warmup=0.1, max_length=512)


def smoke(**changes: Any) -> Profile:
    return Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, **changes})


def train(
    folder: Path,
    profile: Profile,
    training: Training = TRAINING,
    records: int = 48,
    confidence: Callable[[int], float] | None = None,
) -> list[float]:
    """Run one training as the runner would; returns the losses."""
    describe(folder, profile, training, records, confidence)
    environment = {**os.environ, **launch_environment(profile)}
    result = subprocess.run(launch_command(folder, profile), env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]


def describe(
    folder: Path,
    profile: Profile,
    training: Training,
    records: int,
    confidence: Callable[[int], float] | None = None,
) -> None:
    folder.mkdir(exist_ok=True)
    source = random.Random(0)
    write_jsonl(
        folder / "records.jsonl",
        (
            {"id": str(number), "question": f"Say {number}.", "answer": "no",
             "correction": "abc" * source.randint(1, 20), **({"confidence": confidence(number)} if confidence else {})}
            for number in range(records)
        ),
    )  # fmt: skip
    task = TrainToAnswer(training=training, precision=profile.precision, seed=1)
    write_json(
        folder / "stage.json",
        {
            "name": "test",
            "task": task.path(),
            "settings": task.model_dump(mode="json"),
            "inputs": {
                "model": {"location": local_folder("embedded:tiny-random")},
                "records": {"location": str(folder / "records.jsonl")},
            },
            "profile": profile.model_dump(mode="json"),
            "wandb_group": None,
        },
    )


def weights(folder: Path) -> str:
    return file_digest(folder / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[float], Path]:
    folder = tmp_path_factory.mktemp("one")
    return train(folder, smoke()), folder


def test_the_loss_falls_and_the_result_is_a_plain_model_folder(one_process: tuple[list[float], Path]) -> None:
    losses, folder = one_process
    assert len(losses) == 12
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert {path.name for path in (folder / "model").iterdir()} >= {"config.json", "model.safetensors"}
    assert not [path for path in (folder / "model").iterdir() if path.suffix in (".bin", ".pt")]


def test_a_training_killed_after_any_checkpoint_ends_with_the_same_bits(
    one_process: tuple[list[float], Path], tmp_path: Path
) -> None:
    losses, whole = one_process
    profile = smoke(checkpoint_minutes=0.0001)
    describe(tmp_path / "killed", profile, TRAINING, 48)
    for step in (3, 7):  # in the first epoch and in the second
        run_until_killed(tmp_path / "killed", profile, before_step(step))
    half_written = tmp_path / "killed" / "checkpoints" / "checkpoint-99"
    half_written.mkdir()
    (half_written / "trainer_state.json").write_text("{")
    assert train(tmp_path / "killed", profile) == losses
    assert weights(tmp_path / "killed") == weights(whole)


def test_a_training_killed_after_its_end_begins_at_its_last_checkpoint(
    one_process: tuple[list[float], Path], tmp_path: Path
) -> None:
    profile = smoke(checkpoint_minutes=0.0001)
    describe(tmp_path, profile, TRAINING, 48)
    run_until_killed(tmp_path, profile, BEFORE_THE_CARD)
    [last] = (tmp_path / "checkpoints").glob("*/whole.json")
    assert read_json(last)["done"] == 12
    assert train(tmp_path, profile) == one_process[0]
    assert weights(tmp_path) == weights(one_process[1])


def test_under_zero_3_weights_are_sharded_while_they_are_read(tmp_path: Path) -> None:
    profile = smoke(zero={"stage": 3})
    describe(tmp_path, profile, TRAINING, 8)
    probe = (
        "import os, sys; from pathlib import Path; from aligner_core import stage_process; "
        "from aligner_core.training import supervised; load = supervised.load_network\n"
        "def sharded(stage, model):\n"
        "    os._exit(7 if all(hasattr(weight, 'ds_id') for weight in load(stage, model).parameters()) else 8)\n"
        "supervised.load_network = sharded\n"
        "sys.exit(stage_process.main(Path(sys.argv[1])))"
    )
    (tmp_path / "probe.py").write_text(probe)
    command = [*launch_command(tmp_path, profile)[:-3], str(tmp_path / "probe.py"), str(tmp_path)]
    result = subprocess.run(command, env={**os.environ, **launch_environment(profile)}, capture_output=True, text=True)
    assert "exitcode  : 7" in result.stderr, result.stderr[-3000:]


def test_equal_confidence_changes_nothing_and_the_doubtful_half_counts_less(
    one_process: tuple[list[float], Path], tmp_path: Path
) -> None:
    assert train(tmp_path / "equal", smoke(), confidence=lambda _: 0.5) == pytest.approx(one_process[0], abs=1e-5)
    doubted = train(tmp_path / "half", smoke(), confidence=lambda number: 0.1 if number % 2 else 1.0)
    assert doubted != pytest.approx(one_process[0], abs=1e-2)


def test_records_without_any_confidence_are_left_out_and_counted(tmp_path: Path) -> None:
    train(tmp_path, smoke(), TRAINING.model_copy(update={"epochs": 1}), confidence=lambda number: float(number % 2))
    facts = read_json(tmp_path / "facts.json")
    assert (facts["examples"], facts["dropped_without_confidence"]) == (24, 24)


@given(st.lists(st.floats(0.1, 1), min_size=3, max_size=3))
@settings(max_examples=20)
def test_a_weighted_loss_is_the_weighted_mean_of_the_rows_losses(weights: list[float]) -> None:
    network = AutoModelForCausalLM.from_pretrained(local_folder("embedded:tiny-random"), dtype=torch.float32)
    rows = [build_example([1, 2, 3], list(range(4, 4 + length)), 0, "r") for length in (1, 5, 9)]
    input_ids, labels = pad_right([row.input_ids for row in rows])[0], pad_right([row.labels for row in rows], -100)[0]
    with torch.no_grad():
        total, tokens = supervised_loss(network, input_ids, labels, torch.tensor(weights))
        alone = [
            supervised_loss(network, *(torch.tensor([ids]) for ids in (row.input_ids, row.labels))) for row in rows
        ]
    summed = sum(weight * float(loss) for weight, (loss, _) in zip(weights, alone, strict=True))
    counted = sum(weight * row.supervised for weight, row in zip(weights, rows, strict=True))
    assert float(total / tokens) == pytest.approx(summed / counted, rel=1e-4)


@pytest.mark.parametrize("micro_batch", [1, 8])
def test_how_a_global_batch_is_cut_does_not_change_the_losses(
    one_process: tuple[list[float], Path], tmp_path: Path, micro_batch: int
) -> None:
    losses = train(tmp_path / "cut", smoke(micro_batch=micro_batch))
    assert losses == pytest.approx(one_process[0], abs=1e-4)


@pytest.mark.parametrize("zero", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_two_processes_with_zero_follow_one_process(
    one_process: tuple[list[float], Path], tmp_path: Path, zero: int
) -> None:
    profile = smoke(processes=2, zero={"stage": zero})
    losses = train(tmp_path / "two", profile)
    assert losses == pytest.approx(one_process[0], abs=1e-3)
    facts = read_json(tmp_path / "two" / "facts.json")
    assert (facts["processes"], facts["zero_stage"]) == (2, zero)
    alone = load_file(one_process[1] / "model" / "model.safetensors")
    together = load_file(tmp_path / "two" / "model" / "model.safetensors")
    assert {name: tensor.shape for name, tensor in alone.items()} == {
        name: tensor.shape for name, tensor in together.items()
    }


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_adapters_on_two_processes_follow_one_process(tmp_path: Path, zero: int) -> None:
    training = TRAINING.model_copy(update={"lora": Lora(rank=4), "learning_rate": 1e-2})
    alone = train(tmp_path / "one", smoke(), training)
    together = train(tmp_path / "two", smoke(processes=2, zero={"stage": zero}), training)
    assert together == pytest.approx(alone, abs=1e-3)
    merged = [load_file(tmp_path / folder / "model" / "model.safetensors") for folder in ("one", "two")]
    for name, tensor in merged[0].items():
        torch.testing.assert_close(merged[1][name], tensor, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_held_out_records_are_watched_alike_on_two_processes(tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"held_out": HeldOut(share=0.25, every=4)})
    folders = {"one": smoke(), "two": smoke(processes=2, zero={"stage": 3}, micro_batch=1)}
    watched = []
    for name, profile in folders.items():
        train(tmp_path / name, profile, training)
        watched.append([row["loss"] for row in read_json(tmp_path / name / "held_out.json")])
    assert len(watched[0]) > 2
    assert watched[1] == pytest.approx(watched[0], abs=1e-3)


def test_a_record_over_the_limit_is_dropped_counted_and_named(tmp_path: Path) -> None:
    folder = tmp_path / "short"
    train(folder, smoke(), TRAINING.model_copy(update={"max_length": 60, "epochs": 1}))
    facts = read_json(folder / "facts.json")
    assert facts["dropped_over_long"]
    assert facts["examples"] + len(facts["dropped_over_long"]) == 48


def test_when_no_record_fits_the_stage_says_so_before_training(tmp_path: Path) -> None:
    profile = smoke()
    describe(tmp_path / "none", profile, TRAINING.model_copy(update={"max_length": 4}), 8)
    command = launch_command(tmp_path / "none", profile)
    assert subprocess.run(command, env={**os.environ, **launch_environment(profile)}).returncode == 2
    problems = json.loads((tmp_path / "none" / "problems.json").read_text())
    assert "no example is within max_length 4" in problems[0]["what"]
