"""DPO follows an independent implementation, and the same trajectory on any number of processes and after kills."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from aligner_core.embedded_models import local_folder
from aligner_core.errors import UserError
from aligner_core.files import file_digest, read_json, read_jsonl
from aligner_core.model_ids import model_identity
from aligner_core.recipe import Dpo, HeldOut, Lora
from aligner_core.records import Pair, read_records
from aligner_core.stages import Source, Stage
from aligner_core.tasks.preference import ReferenceLogProbs
from aligner_core.templates import prepare_tokenizer
from aligner_core.training.dpo import collate_pairs, matched, pair_losses, rows_of
from aligner_core.training.pairs import select_pairs
from tests.aligner_core.killing import before_step, run_until_killed
from tests.aligner_core.preference_stage import (
    MODEL,
    SECTION,
    TRAINING,
    describe_dpo,
    describe_reference,
    run,
    smoke,
    write_pairs,
)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    write_pairs(path)
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    describe_reference(folder, smoke(), pairs)
    run(folder, smoke())
    return folder / "reference.jsonl"


@pytest.fixture(scope="module")
def one_process(tmp_path_factory: pytest.TempPathFactory, pairs: Path, reference: Path) -> Path:
    folder = tmp_path_factory.mktemp("one")
    describe_dpo(folder, smoke(), pairs, reference)
    run(folder, smoke())
    return folder


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]


def log_probabilities(reference: Path) -> dict[str, tuple[float, float]]:
    return {row["id"]: (row["chosen_logp"], row["rejected_logp"]) for row in read_jsonl(reference)}


def test_the_policy_starts_at_its_reference_and_learns_to_tell_the_texts_apart(one_process: Path) -> None:
    rows = read_jsonl(one_process / "metrics.jsonl")
    assert rows[0]["margin"] == pytest.approx(0, abs=1e-3)
    assert rows[0]["preference_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert rows[-1]["margin"] > 0.1
    facts = read_json(one_process / "facts.json")
    assert facts["accuracy_last"] > 0.9
    assert facts["accuracy_last"] == pytest.approx(sum(row["accuracy"] for row in rows[-3:]) / 3, abs=1e-3)


def test_identical_near_and_over_long_pairs_never_reach_the_loss(one_process: Path, reference: Path) -> None:
    facts = read_json(one_process / "facts.json")
    assert (facts["pairs"], facts["dropped_identical"], facts["dropped_near_copies"]) == (24, 1, 1)
    assert facts["dropped_over_long"] == ["long"]
    assert set(log_probabilities(reference)) == {*map(str, range(24)), "near"}


def test_the_trajectory_is_that_of_a_short_independent_implementation(
    one_process: Path, pairs: Path, reference: Path
) -> None:
    folder = local_folder(MODEL)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    policy = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    frozen = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    records = [row for row in read_records(pairs, Pair) if row.id.isdigit()]
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0)
    generator = torch.Generator().manual_seed(1)
    order = [index for _ in range(2) for index in torch.randperm(24, generator=generator).tolist()]
    rates = read_jsonl(one_process / "metrics.jsonl")

    def log_prob(network: Any, record: Pair, text: str) -> tuple[torch.Tensor, int]:
        turns = [{"role": "user", "content": record.question}]
        framed = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(framed, add_special_tokens=False)["input_ids"]
        target = [*tokenizer(text.strip(), add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        every = network(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
        rows = range(len(prompt) - 1, len(prompt) + len(target) - 1)
        return torch.stack([every[row, token] for row, token in zip(rows, target, strict=True)]).sum(), len(target)

    found = []
    for step in range(4):
        total = torch.zeros(())
        for record in (records[index] for index in order[8 * step : 8 * step + 8]):
            better, length = log_prob(policy, record, record.chosen)
            worse, _ = log_prob(policy, record, record.rejected)
            with torch.no_grad():
                margin = log_prob(frozen, record, record.chosen)[0] - log_prob(frozen, record, record.rejected)[0]
            logit = 0.1 * (better - worse - margin)
            belief = record.confidence
            preference = belief * (1 + (-logit).exp()).log() + (1 - belief) * (1 + logit.exp()).log()
            total = total + (preference - 0.5 * belief * better / length) / 8
        found.append(total.item())
        total.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = rates[step]["learning_rate"]
        optimizer.step()
        optimizer.zero_grad()
    assert losses(one_process)[:4] == pytest.approx(found, abs=2e-4)


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "apo_zero"])
def test_certain_pairs_have_the_loss_that_trl_gives_them(
    loss: Any, pairs: Path, reference: Path, tmp_path: Path
) -> None:
    folder = local_folder(MODEL)
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(folder))
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chosen = select_pairs(tokenizer, read_records(pairs, Pair)[:4], 512, "drop").pairs
    # Away from the true reference, so that no loss is that of a tie.
    known = [(better - 1.5, worse + 2.0) for better, worse in matched(chosen, read_jsonl(reference))]
    columns = [
        {"prompt_ids": pair.chosen.input_ids[: -pair.chosen.supervised],
         "chosen_ids": pair.chosen.input_ids[-pair.chosen.supervised :],
         "rejected_ids": pair.rejected.input_ids[-pair.rejected.supervised :],
         "ref_chosen_logps": better, "ref_rejected_logps": worse}
        for pair, (better, worse) in zip(chosen, known, strict=True)
    ]  # fmt: skip
    section = Dpo(loss=loss)
    theirs = Tokenised(
        model=network, train_dataset=Dataset.from_list(columns), processing_class=tokenizer,
        args=DPOConfig(str(tmp_path), loss_type=[loss], beta=section.strength, precompute_ref_log_probs=True,
                       use_cpu=True, bf16=False, report_to="none"),
    )  # fmt: skip
    certain = [replace(pair, confidence=1.0) for pair in chosen]
    ours, _ = pair_losses(network, collate_pairs(rows_of(certain, known)), section)
    assert float(ours.mean()) == pytest.approx(float(theirs.compute_loss(network, theirs.data_collator(columns))))


@pytest.mark.parametrize("micro_batch", [1, 8])
def test_how_a_global_batch_is_cut_does_not_change_the_losses(
    one_process: Path, pairs: Path, reference: Path, tmp_path: Path, micro_batch: int
) -> None:
    profile = smoke(micro_batch=micro_batch)
    describe_dpo(tmp_path, profile, pairs, reference)
    run(tmp_path, profile)
    assert losses(tmp_path) == pytest.approx(losses(one_process), abs=1e-4)


def test_a_training_killed_after_a_checkpoint_ends_with_the_same_bits(
    one_process: Path, pairs: Path, reference: Path, tmp_path: Path
) -> None:
    profile = smoke(checkpoint_minutes=0.0001)
    describe_dpo(tmp_path, profile, pairs, reference)
    run_until_killed(tmp_path, profile, before_step(4))
    run(tmp_path, profile)
    assert losses(tmp_path) == losses(one_process)
    whole, resumed = (file_digest(folder / "model" / "model.safetensors") for folder in (one_process, tmp_path))
    assert resumed == whole
    facts = [read_json(folder / "facts.json") for folder in (one_process, tmp_path)]
    assert facts[1]["accuracy_last"] == facts[0]["accuracy_last"]


@pytest.mark.slow
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_two_processes_with_zero_follow_one_process(
    one_process: Path, pairs: Path, reference: Path, tmp_path: Path, zero: int
) -> None:
    profile = smoke(processes=2, zero={"stage": zero})
    describe_dpo(tmp_path, profile, pairs, reference)
    run(tmp_path, profile)
    assert losses(tmp_path) == pytest.approx(losses(one_process), abs=1e-3)
    facts = read_json(tmp_path / "facts.json")
    assert (facts["processes"], facts["zero_stage"]) == (2, zero)
    alone, together = (load_file(folder / "model" / "model.safetensors") for folder in (one_process, tmp_path))
    for name, tensor in alone.items():
        torch.testing.assert_close(together[name], tensor, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_adapters_on_two_processes_follow_one_process(pairs: Path, reference: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"lora": Lora(rank=4), "learning_rate": 1e-3})
    section = SECTION.model_copy(update={"training": training})
    for name, profile in {"one": smoke(), "two": smoke(processes=2, zero={"stage": 3})}.items():
        describe_dpo(tmp_path / name, profile, pairs, reference, section)
        run(tmp_path / name, profile)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=1e-3)
    assert {path.name for path in (tmp_path / "one" / "adapter").iterdir()} >= {"adapter_config.json"}
    assert not (tmp_path / "one" / "adapter" / "ref").exists()
    merged = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two")]
    for name, tensor in merged[0].items():
        torch.testing.assert_close(merged[1][name], tensor, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_reference_log_probabilities_under_zero_3_are_the_models_own(
    pairs: Path, reference: Path, tmp_path: Path
) -> None:
    """Two models of one shape: other identities, other values, and those that one process finds."""
    other = another_of_the_same_shape(tmp_path / "other")
    sharded = smoke(processes=2, zero={"stage": 3})
    for name, model, profile in (("same", None, sharded), ("other", other, sharded), ("alone", other, smoke())):
        describe_reference(tmp_path / name, profile, pairs, model)
        run(tmp_path / name, profile)
    here, same, changed, alone = (
        log_probabilities(path)
        for path in (reference, *(tmp_path / name / "reference.jsonl" for name in ("same", "other", "alone")))
    )
    for name, values in here.items():
        assert same[name] == pytest.approx(values, abs=1e-3)
        assert changed[name] == pytest.approx(alone[name], abs=1e-3)
        assert changed[name] != pytest.approx(values, abs=0.1)


def test_the_reference_of_another_model_of_the_same_shape_is_another_stage(tmp_path: Path) -> None:
    task = ReferenceLogProbs(precision="float32", max_length=512)
    source = Source("pairs.jsonl", "pairs")
    models = [local_folder(MODEL), another_of_the_same_shape(tmp_path)]
    stages = [
        Stage("reference", task, {"model": Source(model, model_identity(model)), "pairs": source}) for model in models
    ]
    again = Stage("reference", task, {"model": Source(models[0], model_identity(models[0])), "pairs": source})
    assert stages[0].identity == again.identity
    assert stages[0].identity != stages[1].identity


def test_an_interrupted_reference_keeps_its_shards(pairs: Path, reference: Path, tmp_path: Path) -> None:
    describe_reference(tmp_path, smoke(), pairs)
    run(tmp_path, smoke())
    (shard,) = (tmp_path / "shards" / "reference").iterdir()
    written = shard.stat().st_mtime_ns
    (tmp_path / "reference.jsonl").unlink()
    run(tmp_path, smoke())
    assert shard.stat().st_mtime_ns == written
    assert log_probabilities(tmp_path / "reference.jsonl") == log_probabilities(reference)


def test_a_pair_without_its_reference_is_named(pairs: Path, reference: Path) -> None:
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(local_folder(MODEL)))
    chosen = select_pairs(tokenizer, read_records(pairs, Pair), 512, "drop").pairs
    rows = [row for row in read_jsonl(reference) if row["id"] != "3"]
    next(row for row in rows if row["id"] == "5")["chosen_tokens"] += 1
    with pytest.raises(UserError) as caught:
        matched(chosen, rows)
    assert [(problem.where, problem.what) for problem in caught.value.problems] == [
        ("pair 3", "has no reference log-probability"),
        ("pair 5", "has other tokens than its reference log-probabilities"),
    ]


def test_settings_without_a_meaning_for_pairs_are_refused() -> None:
    for change in ({"over_long": "truncate_answer"}, {"held_out": HeldOut()}):
        with pytest.raises(ValidationError):
            Dpo.model_validate({"training": TRAINING.model_copy(update=change).model_dump()})


class Tokenised(DPOTrainer):  # type: ignore[misc]
    """TRL's loss on pairs that are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, dataset: Dataset, *_: Any) -> Dataset:
        return dataset


def another_of_the_same_shape(folder: Path) -> str:
    shutil.copytree(local_folder(MODEL), folder, dirs_exist_ok=True)
    weights = load_file(folder / "model.safetensors")
    save_file(
        {name: tensor.flip(0).contiguous() for name, tensor in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return str(folder)
