"""PPO as a whole: a step equals an independent implementation, a toy reward is learnt, runs resume and agree."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from aligner_core.engines.protocol import Room, Sampling, open_engine
from aligner_core.errors import UserError
from aligner_core.estimates.decoding import cache_bytes
from aligner_core.files import file_digest, read_json, read_jsonl, write_json, write_jsonl
from aligner_core.launch import launch_environment
from aligner_core.ppo import parts as opening
from aligner_core.ppo.alarms import alarms
from aligner_core.ppo.learners import Descent, OneProcess
from aligner_core.ppo.networks import response_values, value_model
from aligner_core.ppo.rollouts import Asked, EngineSampler, Rollout, Text, collate
from aligner_core.profile import Profile
from aligner_core.recipe import Lora
from aligner_core.recipe.students import Ppo
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.tasks.policy import TrainPpo
from aligner_core.work import PolicyWork
from tests.aligner_core.test_estimates import SHAPES
from tests.aligner_core.toy_ppo import (
    NEW_TOKENS,
    ShareOfLetter,
    describe,
    labels,
    profile,
    questions,
    stage_in,
    toy_loop,
    toy_model,
    toy_reward,
)

TOY = Ppo(
    iterations=60, prompts=32, global_batch=32, updates=2, max_length=64, learning_rate=3e-3,
    value_learning_rate=1e-3, ptx=0, cost_weight=0, kl=0.03, whiten_advantages=True, max_kl=16,
)  # fmt: skip
SHORT = TOY.model_copy(update={"iterations": 4, "prompts": 16, "global_batch": 8, "ptx": 0.5, "cost_weight": 0.5})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelLocation:
    return toy_model(tmp_path_factory.mktemp("toy") / "model")


def train(folder: Path, model: ModelLocation, section: Ppo, place: Profile | None = None, seed: int = 1) -> list[Any]:
    toy_loop(stage_in(folder, place or profile()), model, section, seed).run()
    return read_jsonl(folder / "iterations.jsonl")


class Recording(OneProcess):
    """Keeps the weights before each step and the gradients that it was given."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__(network, Descent((0.9, 0.95), 0.0, 1e9))
        self.networks: list[Any] = []
        self.gradients: list[dict[str, torch.Tensor]] = []

    def step(self, learning_rate: float) -> float:
        found = {name: weight.grad for name, weight in self.network.named_parameters() if weight.grad is not None}
        self.gradients.append({name: gradient.clone() for name, gradient in found.items()})
        self.networks.append(copy.deepcopy(self.network).requires_grad_(True))
        self.networks[-1].zero_grad()
        return super().step(learning_rate)


@pytest.mark.parametrize("micro_batch", [3, 64])
def test_loss_and_gradients_of_two_steps_equal_an_independent_implementation(
    tmp_path: Path, model: ModelLocation, micro_batch: int
) -> None:
    section = SHORT.model_copy(
        update={"iterations": 1, "prompts": 16, "global_batch": 16, "whiten_scores": True, "unfinished_penalty": 0.3,
                "temperature": 0.8, "gamma": 0.9, "learning_rate": 0.05, "lr_warmup": 0.0, "clip_ratio": 0.1,
                "clip_value": 0.05}
    )  # fmt: skip
    loop = toy_loop(stage_in(tmp_path / "run", profile(micro_batch=micro_batch)), model, section)
    parts = loop.parts
    reference = copy.deepcopy(parts.policy.network)
    with torch.no_grad():
        torch.manual_seed(3)
        for network in (parts.policy.network, parts.value.network):
            for weight in network.parameters():
                weight += 0.1 * torch.randn_like(weight)
    policy, value = Recording(parts.policy.network), Recording(parts.value.network)
    drawn: list[Rollout] = []

    class Remembering:
        def sample(self, asked: Sequence[Asked], seeds: Sequence[int]) -> list[Rollout]:
            drawn.extend(parts.sampler.sample(asked, seeds))
            return drawn

        def close(self) -> None: ...

    loop.parts = dataclasses.replace(parts, policy=policy, value=value, sampler=Remembering(), micro_batch=micro_batch)
    loop.run()
    (row,) = read_jsonl(tmp_path / "run" / "iterations.jsonl")

    def log_probs(network: Any, rollout: Rollout) -> torch.Tensor:
        ids = torch.tensor([[*rollout.asked.prompt, *rollout.response]])
        logits = network(input_ids=ids).logits[0, len(rollout.asked.prompt) - 1 : -1] / 0.8
        return logits.log_softmax(-1)[torch.arange(len(rollout.response)), torch.tensor(rollout.response)]

    def values(network: Any, rollout: Rollout) -> torch.Tensor:
        ids = torch.tensor([[*rollout.asked.prompt, *rollout.response]])
        return network(ids)[0, len(rollout.asked.prompt) - 1 : -1]

    with torch.no_grad():
        old = [log_probs(policy.networks[0], rollout) for rollout in drawn]
        referred = [log_probs(reference, rollout) for rollout in drawn]
        old_values = [values(value.networks[0], rollout) for rollout in drawn]
    told = ShareOfLetter().score([(item.asked.question.question, item.text, None) for item in drawn])
    raw = [reward - 0.5 * cost - 0.3 * (not item.finished) for (reward, cost), item in zip(told, drawn, strict=True)]
    mean = sum(raw) / len(raw)
    spread = math.sqrt(sum((score - mean) ** 2 for score in raw) / len(raw))
    advantages, returns = [], []
    for score, new, ref, guess in zip(raw, old, referred, old_values, strict=True):
        rewards = (-0.03 * (new - ref)).tolist()
        rewards[-1] += (score - mean) / spread
        following, later, row_advantages = 0.0, 0.0, []
        for reward, state in zip(reversed(rewards), reversed(guess.tolist()), strict=True):
            later = reward + 0.9 * following - state + 0.9 * 0.95 * later
            following = state
            row_advantages.insert(0, later)
        advantages.append(torch.tensor(row_advantages))
        returns.append(advantages[-1] + guess)
    flat = torch.cat(advantages)
    advantages = [(item - flat.mean()) / flat.std(correction=0) for item in advantages]
    examples = labels(AutoTokenizer.from_pretrained(model.folder))
    policy_losses, value_losses, ptx_losses = [], [], []
    for step in range(2):
        network = policy.networks[step]
        losses = []
        for rollout, before, advantage in zip(drawn, old, advantages, strict=True):
            ratio = (log_probs(network, rollout) - before).exp()
            losses.append(-torch.min(ratio * advantage, ratio.clamp(0.9, 1.1) * advantage).mean())
        policy_losses.append(sum(losses) / len(losses))
        crossed, tokens = torch.zeros(()), 0
        for example in examples:
            logits = network(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
            goal = torch.tensor(example.labels[1:])
            crossed = crossed + torch.nn.functional.cross_entropy(logits, goal, ignore_index=-100, reduction="sum")
            tokens += int((goal != -100).sum())
        ptx_losses.append(crossed / tokens)
        (policy_losses[-1] + 0.5 * ptx_losses[-1]).backward()
        for name, weight in network.named_parameters():
            torch.testing.assert_close(policy.gradients[step][name], weight.grad, rtol=1e-4, atol=2e-6)
        errors = []
        for rollout, before, goal in zip(drawn, old_values, returns, strict=True):
            now = values(value.networks[step], rollout)
            near = before + (now - before).clamp(-0.05, 0.05)
            errors.append(0.5 * torch.max((now - goal) ** 2, (near - goal) ** 2).mean())
        value_losses.append(sum(errors) / len(errors))
        value_losses[-1].backward()
        for name, weight in value.networks[step].named_parameters():
            torch.testing.assert_close(value.gradients[step][name], weight.grad, rtol=1e-4, atol=2e-6)
    for name, found in {"policy_loss": policy_losses, "value_loss": value_losses, "ptx_loss": ptx_losses}.items():
        assert row[name] == pytest.approx(float(sum(found) / 2), rel=1e-4, abs=1e-6)
    assert row["policy_clipped"] > 0
    assert row["tokens"] == sum(map(len, drawn)) + 2 * sum(map(len, examples))
    assert row["score"] == pytest.approx(mean, abs=1e-6)
    assert row["kl"] == pytest.approx(float(sum((a - b).sum() for a, b in zip(old, referred, strict=True)) / 16))


def learns(folder: Path, seed: int) -> None:
    rows = train(folder, toy_model(folder.parent / f"{folder.name}-model", seed), TOY, seed=seed)
    assert rows[0]["score"] < 0.1
    assert sum(row["score"] for row in rows[-3:]) / 3 > 0.8
    assert max(row["kl"] for row in rows) < TOY.max_kl


def test_a_toy_reward_rises_from_under_a_tenth_to_over_four_fifths(tmp_path: Path) -> None:
    learns(tmp_path / "run", seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_so_it_does_on_other_seeds(tmp_path: Path, seed: int) -> None:
    learns(tmp_path / "run", seed)


class Dying(ShareOfLetter):
    """Scores so many times, and then the power fails."""

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def score(self, texts: Sequence[Text]) -> list[tuple[float, float]]:
        self._calls -= 1
        if self._calls < 0:
            raise KeyboardInterrupt
        return super().score(texts)


@pytest.mark.parametrize("minutes", [1e-9, 1e9])
def test_a_training_that_was_killed_ends_with_the_same_bits(
    tmp_path: Path, model: ModelLocation, minutes: float
) -> None:
    whole, place = stage_in(tmp_path / "whole", profile()), profile(checkpoint_minutes=minutes)
    toy_loop(whole, model, SHORT).run()
    for calls in (1, 2):
        loop = toy_loop(stage_in(tmp_path / "killed", place), model, SHORT)
        loop.parts = dataclasses.replace(loop.parts, scorer=Dying(calls))
        with pytest.raises(KeyboardInterrupt):
            loop.run()
    (tmp_path / "killed" / "checkpoints" / "iteration-000099").mkdir(parents=True)  # half-written
    with (tmp_path / "killed" / "iterations.jsonl").open("a") as stream:
        stream.write('{"iteration": 3, "sco')
    resumed = stage_in(tmp_path / "killed", place)
    toy_loop(resumed, model, SHORT).run()
    assert resumed.facts["tokens"] == whole.facts["tokens"] > 0
    for name in ("iterations.jsonl", "rollouts.jsonl", "model/model.safetensors"):
        assert file_digest(tmp_path / "killed" / name) == file_digest(tmp_path / "whole" / name)


def in_processes(
    folder: Path, model: ModelLocation, section: Ppo, place: Profile, reward: ModelLocation | None = None
) -> list[Any]:
    describe(folder, model, section, place, reward.folder if reward else None)
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={place.processes}", "--standalone"]
    command = [sys.executable, *launcher, "--module", "tests.aligner_core.toy_ppo", str(folder)]
    environment = {**os.environ, **launch_environment(place)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    facts = read_json(folder / "facts.json")
    assert (facts["processes"], facts["zero_stage"]) == (place.processes, place.zero.stage)
    return read_jsonl(folder / "iterations.jsonl")


@pytest.mark.parametrize(
    ("zero", "lora"),
    [(3, None), pytest.param(1, None, marks=pytest.mark.slow), pytest.param(2, None, marks=pytest.mark.slow),
     pytest.param(3, 4, marks=pytest.mark.slow)],
)  # fmt: skip
def test_two_processes_with_zero_follow_one_process(
    tmp_path: Path, model: ModelLocation, zero: int, lora: int | None
) -> None:
    section = SHORT.model_copy(update={"lora": Lora(rank=lora) if lora else None})
    reward = toy_reward(tmp_path / "reward", model)
    toy_loop(stage_in(tmp_path / "one", profile()), model, section, reward=reward).run()
    alone = read_jsonl(tmp_path / "one" / "iterations.jsonl")
    place = profile(processes=2, zero={"stage": zero}, micro_batch=4)
    together = in_processes(tmp_path / "two", model, section, place, reward)
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, abs=2e-3), (one, two)
    first, second = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=0, atol=2e-3)


@pytest.mark.slow
def test_a_sharded_training_resumes_too(tmp_path: Path, model: ModelLocation) -> None:
    place = profile(processes=2, zero={"stage": 3}, checkpoint_minutes=1e-9)
    whole = in_processes(tmp_path / "whole", model, SHORT, place)
    describe(tmp_path / "killed", model, SHORT, place)
    killer = (
        "import os, sys; from pathlib import Path; from tests.aligner_core import toy_ppo\n"
        "from aligner_core.ppo.loop import Loop; iterate = Loop._iterate\n"
        "def die(self, iteration, first):\n"
        "    if iteration == 2: os._exit(9)\n"
        "    return iterate(self, iteration, first)\n"
        "Loop._iterate = die; toy_ppo.main(Path(sys.argv[1]))"
    )
    (tmp_path / "killer.py").write_text(killer)
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [sys.executable, *launcher, str(tmp_path / "killer.py"), str(tmp_path / "killed")]
    assert subprocess.run(command, env={**os.environ, **launch_environment(place)}, capture_output=True).returncode
    assert len(read_jsonl(tmp_path / "killed" / "iterations.jsonl")) == 2
    resumed = in_processes(tmp_path / "killed", model, SHORT, place)
    for one, two in zip(whole, resumed, strict=True):
        assert two == pytest.approx(one, abs=1e-4)


def test_adapters_are_trained_against_the_policy_without_them_and_merged(tmp_path: Path, model: ModelLocation) -> None:
    section = TOY.model_copy(update={"iterations": 12, "lora": Lora(rank=8, alpha=16), "learning_rate": 1e-2})
    rows = train(tmp_path / "run", model, section)
    assert rows[0]["kl"] == 0
    assert rows[-1]["kl"] > 0.5
    assert rows[-1]["score"] > rows[0]["score"] + 0.1
    before = AutoModelForCausalLM.from_pretrained(model.folder)
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert before.state_dict().keys() == after.state_dict().keys()
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)
    assert torch.equal(before.lm_head.weight, after.lm_head.weight)


def test_dropout_of_adapters_is_refused_because_ppo_has_none() -> None:
    with pytest.raises(ValidationError, match="PPO has none"):
        Ppo.model_validate({"lora": {"dropout": 0.1}})
    assert Ppo.model_validate({"lora": {"rank": 4}}).lora == Lora(rank=4)


def test_gradient_checkpointing_changes_nothing(tmp_path: Path, model: ModelLocation) -> None:
    plain = train(tmp_path / "plain", model, SHORT)
    recomputed = train(tmp_path / "recomputed", model, SHORT, profile(gradient_checkpointing=True))
    for one, two in zip(plain, recomputed, strict=True):
        assert two == pytest.approx(one, abs=1e-4)


def test_a_rollout_keeps_its_ids_and_tells_whether_it_reached_its_end(tmp_path: Path, model: ModelLocation) -> None:
    loop = toy_loop(stage_in(tmp_path / "run", profile(generation={"batch": 3})), model, TOY)
    asked, seeds = loop.questions[:40], list(range(40))
    rollouts = loop.parts.sampler.sample(asked, seeds)
    end = AutoTokenizer.from_pretrained(model.folder).eos_token_id
    assert {rollout.finished for rollout in rollouts} == {True, False}
    for rollout in rollouts:
        assert rollout.finished == (rollout.response[-1] == end)
        assert end not in rollout.response[:-1]
        assert rollout.finished or len(rollout.response) == NEW_TOKENS


def test_a_rollout_does_not_depend_on_those_it_is_sampled_with(tmp_path: Path, model: ModelLocation) -> None:
    loop = toy_loop(stage_in(tmp_path / "run", profile()), model, TOY)
    asked, seeds = loop.questions[:12], list(range(12))
    together = loop.parts.sampler.sample(asked, seeds)
    assert loop.parts.sampler.sample(asked[::-3], seeds[::-3]) == together[::-3]
    assert loop.parts.sampler.sample(asked, seeds[::-1]) != together


def test_an_engine_that_takes_the_policys_weights_samples_as_the_policy_itself(
    tmp_path: Path, model: ModelLocation
) -> None:
    expected = train(tmp_path / "memory", model, SHORT)
    stage = stage_in(tmp_path / "engine", profile())
    loop = toy_loop(stage, model, SHORT)
    sampling = Sampling(NEW_TOKENS, temperature=1.0)
    engine = open_engine(stage, model)
    sampler = EngineSampler(engine, loop.parts.export, tmp_path / "weights", sampling)
    loop.parts = dataclasses.replace(loop.parts, sampler=sampler)
    loop.run()
    assert not hasattr(engine, "_model"), "it would keep its memory"
    assert not (tmp_path / "weights").exists(), "they are as large as the model beside them"
    for one, two in zip(expected, read_jsonl(tmp_path / "engine" / "iterations.jsonl"), strict=True):
        assert two == pytest.approx(one, abs=1e-4)


@pytest.mark.slow
def test_with_vllm_the_reward_rises_which_it_would_not_with_stale_weights(
    tmp_path: Path, model: ModelLocation
) -> None:
    pytest.importorskip("vllm")
    program = (
        "import sys; from pathlib import Path; from tests.aligner_core import toy_ppo\n"
        "if __name__ == '__main__': toy_ppo.main(Path(sys.argv[1]))"
    )
    (tmp_path / "program.py").write_text(program)
    place = profile(generation={"engine": "vllm", "batch": 32})
    describe(tmp_path / "run", model, TOY.model_copy(update={"iterations": 20}), place)
    command = [sys.executable, str(tmp_path / "program.py"), str(tmp_path / "run")]
    environment = {**os.environ, **launch_environment(place)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    rows = read_jsonl(tmp_path / "run" / "iterations.jsonl")
    assert rows[0]["score"] < 0.1
    assert sum(row["score"] for row in rows[-3:]) / 3 > 0.4


def test_the_value_model_begins_with_the_reward_models_score_where_the_tokenizers_agree(
    tmp_path: Path, model: ModelLocation
) -> None:
    location = toy_reward(tmp_path / "reward", model)
    reward = AutoModelForSequenceClassification.from_pretrained(location.folder)
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    network, began = value_model(model, location, tokenizer, dtype=torch.float32)
    assert began == "reward"
    rollouts = [Rollout(Asked(questions()[0], (14, 1, 2)), response, "", True) for response in ((5,), (3, 4, 5))]
    batch = collate(rollouts, torch.device("cpu"))
    values = response_values(network, batch)
    hidden = reward.base_model(torch.tensor([[14, 1, 2, 3, 4]])).last_hidden_state
    torch.testing.assert_close(values[1], reward.score(hidden)[0, 2:, 0])
    assert values[0, 1:].tolist() == [0, 0]
    tokenizer.add_tokens(["another"])
    assert value_model(model, location, tokenizer, dtype=torch.float32)[1] == "policy"
    assert value_model(model, None, tokenizer, dtype=torch.float32)[0](batch.input_ids).abs().max() == 0


FINE = {"iteration": 5, "kl": 1.0, "entropy": 2.0, "length": 10.0, "score": 1.0, "score_spread": 0.5}


@pytest.mark.parametrize(
    ("limits", "change", "told"),
    [
        ({"max_kl": 5}, {"kl": 5.1}, "diverge"),
        ({"min_entropy": 0.5}, {"entropy": 0.4}, "entropy per token is 0.400"),
        ({"max_length_ratio": 2}, {"length": 21.0}, "21.0 tokens"),
        ({"max_length_ratio": 2}, {"length": 4.9}, "4.9 tokens"),
        ({"max_score_drop": 2}, {"score": -0.1}, "fell from 1.000 to -0.100"),
        ({}, {"kl": math.nan}, "not a number"),
    ],
)
def test_each_alarm_sounds_beyond_its_limit_and_not_before(
    limits: dict[str, float], change: dict[str, float], told: str
) -> None:
    section = Ppo.model_validate(limits)
    assert alarms(FINE, FINE, section) == []
    (problem,) = alarms({**FINE, **change}, FINE, section)
    assert told in problem.what
    assert problem.where.startswith("student.ppo.")
    assert problem.fix


def test_an_alarm_stops_the_run_and_keeps_the_policy_as_it_was(tmp_path: Path, model: ModelLocation) -> None:
    with pytest.raises(UserError, match=r"over max_kl 1.*is kept in"):
        train(tmp_path / "run", model, TOY.model_copy(update={"max_kl": 1.0}))
    rows = read_jsonl(tmp_path / "run" / "iterations.jsonl")
    assert 0 < len(rows) < TOY.iterations
    assert all(row["kl"] <= 1 for row in rows)
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "stopped")
    assert not (tmp_path / "run" / "model").exists()


def test_a_question_that_leaves_no_room_is_left_out_and_named(tmp_path: Path, model: ModelLocation) -> None:
    stage = stage_in(tmp_path / "run", profile())
    loop = toy_loop(stage, model, TOY.model_copy(update={"max_length": NEW_TOKENS + 3}))
    assert 0 < len(loop.questions) < 64
    assert len(stage.facts["dropped_over_long"]) == 64 - len(loop.questions)
    with pytest.raises(UserError, match="no question leaves room"):
        toy_loop(stage, model, TOY.model_copy(update={"max_length": NEW_TOKENS + 1}))


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_vllm_is_given_its_share_of_a_gpu_which_it_shares_with_the_training(
    tmp_path: Path, model: ModelLocation, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    given: list[Room | None] = []
    monkeypatch.setattr(opening, "open_engine", lambda stage, start, drafts, room: given.append(room))
    device = {**profile().device.model_dump(), "kind": kind}
    stage = stage_in(tmp_path / "run", profile(device=device, generation={"engine": "vllm", "batch": 4}))
    shape = SHAPES["7b"]
    work = PolicyWork(shape, shape, (shape,), 1, 16, 100, 200, 300, 16)
    opening._sampler(stage, model, None, None, Sampling(200), work, None)
    sequence = cache_bytes(shape, 300, stage.profile)
    assert given == [Room(int(5 * sequence), 300) if kind == "cuda" else None]


@pytest.fixture
def ppo_stage(tmp_path: Path, model: ModelLocation) -> StageContext:
    """A stage with toy models; the reward model reads the last ten tokens of a text alone."""
    for seed, name in enumerate(("reward", "cost")):
        toy_reward(tmp_path / name, model, seed)
    write_json(tmp_path / "reward" / "score_model.json", {"reads": "helpful", "max_length": 10})
    write_jsonl(tmp_path / "questions.jsonl", (row.row() for row in questions(16)))
    write_jsonl(
        tmp_path / "labels.jsonl",
        ({**row.row(), "answer": "a", "correction": "b c", "upstream": "toy"} for row in questions(8)),
    )
    inputs = {name: str(tmp_path / name) for name in ("reward", "cost", "questions.jsonl", "labels.jsonl")}
    stage = stage_in(tmp_path / "stage", profile())
    stage.inputs = {
        "model": {"location": model.folder},
        **{name.removesuffix(".jsonl"): {"location": location} for name, location in inputs.items()},
    }
    return stage


def train_stage(stage: StageContext) -> None:
    section = SHORT.model_copy(update={"iterations": 2, "cost_weight": 2.0})
    TrainPpo(section=section, max_new_tokens=6, precision="float32", engine="transformers", seed=3).run(stage)


def test_score_models_are_opened_by_a_process_that_knows_its_device(
    ppo_stage: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        act = getattr(opening, name)

        def acting(*arguments: Any) -> Any:
            done.append(name)
            return act(*arguments)

        return acting

    for name in ("join", "RewardAndCost"):
        monkeypatch.setattr(opening, name, noting(name))
    train_stage(ppo_stage)
    assert done == ["join", "RewardAndCost"]


def test_the_stage_trains_with_reward_and_cost_models_and_leaves_a_plain_model(
    tmp_path: Path, model: ModelLocation, ppo_stage: StageContext
) -> None:
    tokenizer, stage = AutoTokenizer.from_pretrained(model.folder), ppo_stage
    train_stage(stage)
    for row in read_jsonl(tmp_path / "stage" / "iterations.jsonl"):
        assert row["cost"] != 0
        assert row["score"] == pytest.approx(row["reward"] - 2 * row["cost"], abs=1e-5)
        assert 1 <= row["length"] <= 6
        assert row["ptx_loss"] > 0
    assert stage.facts["value_start"] == "reward"
    assert 0 < stage.facts["cut"] < 2 * SHORT.prompts
    folder = tmp_path / "stage" / "model"
    AutoModelForCausalLM.from_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).chat_template == tokenizer.chat_template
    assert "PPO" in (folder / "README.md").read_text()
    assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt")]
    assert {row["iteration"] for row in read_jsonl(tmp_path / "stage" / "rollouts.jsonl")} == {0, 1}
