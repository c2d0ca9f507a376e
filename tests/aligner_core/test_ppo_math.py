"""PPO's arithmetic equals what its equations say, written out one rollout and one token at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aligner_core.ppo.advantages import (
    generalized_advantages,
    mean_and_spread,
    moments,
    sequence_scores,
    token_rewards,
    whitened,
)
from aligner_core.ppo.losses import entropies, kl_estimates, policy_loss, rollout_means, value_loss
from aligner_core.ppo.schedule import cosine, own_share, repeated, warm_up

GARBAGE = 1e6  # what padding holds in inputs
floats = st.floats(-3, 3, allow_nan=False, width=32)


@dataclass
class Ragged:
    """Rollouts as lists, and right-padded with garbage."""

    rows: dict[str, list[list[float]]]
    mask: Tensor

    def padded(self, name: str) -> Tensor:
        longest = self.mask.shape[1]
        return torch.tensor([row + [GARBAGE] * (longest - len(row)) for row in self.rows[name]], dtype=torch.float64)


@st.composite
def ragged(draw: Any, *names: str) -> Ragged:
    lengths = draw(st.lists(st.integers(1, 7), min_size=1, max_size=5))
    rows = {name: [draw(st.lists(floats, min_size=length, max_size=length)) for length in lengths] for name in names}
    return Ragged(rows, torch.arange(max(lengths)) < torch.tensor(lengths)[:, None])


def close(tensor: Tensor, rows: list[list[float]]) -> bool:
    """True values equal the rows', and padding is 0."""
    longest = tensor.shape[1]
    wanted = torch.tensor([row + [0.0] * (longest - len(row)) for row in rows], dtype=tensor.dtype)
    torch.testing.assert_close(tensor, wanted, rtol=1e-6, atol=1e-6)
    return True


@given(ragged("log_probs", "reference", "values"), st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.5), st.data())
def test_advantages_and_returns_equal_a_written_out_loop(
    rollouts: Ragged, gamma: float, gae_lambda: float, kl: float, data: Any
) -> None:
    count = len(rollouts.mask)
    scores = data.draw(st.lists(floats, min_size=count, max_size=count))
    expected_advantages, expected_returns = [], []
    for row in range(count):
        log_probs, reference, values = (rollouts.rows[name][row] for name in ("log_probs", "reference", "values"))
        length = len(values)
        rewards = [-kl * (log_probs[t] - reference[t]) for t in range(length)]
        rewards[-1] += scores[row]
        advantages = []
        for t in range(length):
            total = 0.0
            for later in range(t, length):
                following = values[later + 1] if later + 1 < length else 0.0
                total += (gamma * gae_lambda) ** (later - t) * (rewards[later] + gamma * following - values[later])
            advantages.append(total)
        expected_advantages.append(advantages)
        expected_returns.append([advantage + value for advantage, value in zip(advantages, values, strict=True)])
    rewards_found = token_rewards(
        torch.tensor(scores, dtype=torch.float64), rollouts.padded("log_probs"), rollouts.padded("reference"),
        rollouts.mask, kl,
    )  # fmt: skip
    advantages_found, returns_found = generalized_advantages(
        rewards_found, rollouts.padded("values"), rollouts.mask, gamma, gae_lambda
    )
    assert close(advantages_found, expected_advantages)
    assert close(returns_found, expected_returns)


@given(ragged("rewards", "values"))
def test_with_lambda_and_gamma_one_a_return_is_the_sum_of_what_is_still_to_come(rollouts: Ragged) -> None:
    _, returns = generalized_advantages(rollouts.padded("rewards"), rollouts.padded("values"), rollouts.mask, 1.0, 1.0)
    assert close(returns, [[sum(row[token:]) for token in range(len(row))] for row in rollouts.rows["rewards"]])


def test_scores_weigh_costs_punish_the_unfinished_and_are_clipped() -> None:
    rewards, costs = torch.tensor([1.0, 1.0, 99.0, -99.0]), torch.tensor([0.5, 0.5, 0.0, 0.0])
    finished = torch.tensor([True, False, True, True])
    scores = sequence_scores(rewards, costs, finished, cost_weight=2.0, unfinished_penalty=3.0, clip=50.0)
    assert scores.tolist() == [0.0, -3.0, 50.0, -50.0]


@given(ragged("values"), st.integers(1, 4))
def test_whitened_values_have_mean_zero_and_spread_one_however_they_are_cut(rollouts: Ragged, cut: int) -> None:
    values, mask = rollouts.padded("values"), rollouts.mask
    parts = [moments(values[start : start + cut], mask[start : start + cut]) for start in range(0, len(values), cut)]
    totals = torch.stack(parts).sum(0)
    flat = [value for row in rollouts.rows["values"] for value in row]
    mean, spread = mean_and_spread(totals)
    assert mean == pytest.approx(sum(flat) / len(flat), abs=1e-6)
    white = whitened(values, mask, totals)
    assert (white[~mask] == 0).all()
    if spread > 1e-3:
        assert white[mask].mean().item() == pytest.approx(0, abs=1e-5)
        assert white[mask].std(correction=0).item() == pytest.approx(1, abs=1e-4)


@given(ragged("new", "old", "advantages"), st.floats(0.05, 0.5))
def test_the_policy_loss_equals_a_written_out_loop(rollouts: Ragged, clip: float) -> None:
    losses, shares = policy_loss(
        rollouts.padded("new"), rollouts.padded("old"), whole(rollouts, "advantages"), rollouts.mask, clip
    )
    for row, (loss, share) in enumerate(zip(losses.tolist(), shares.tolist(), strict=True)):
        terms, clipped = [], 0
        for new, old, advantage in zip(*(rollouts.rows[name][row] for name in rollouts.rows), strict=True):
            ratio = math.exp(new - old)
            bounded = min(max(ratio, 1 - clip), 1 + clip)
            terms.append(-min(ratio * advantage, bounded * advantage))
            clipped += bounded * advantage < ratio * advantage
        assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-6, abs=1e-6)
        assert share == pytest.approx(clipped / len(terms))


@given(ragged("new", "old", "returns"), st.floats(0.05, 5))
def test_the_value_loss_equals_a_written_out_loop(rollouts: Ragged, clip: float) -> None:
    losses, shares = value_loss(*(whole(rollouts, name) for name in rollouts.rows), rollouts.mask, clip)
    for row, (loss, share) in enumerate(zip(losses.tolist(), shares.tolist(), strict=True)):
        terms, clipped = [], 0
        for new, old, goal in zip(*(rollouts.rows[name][row] for name in rollouts.rows), strict=True):
            near = min(max(new, old - clip), old + clip)
            terms.append(0.5 * max((new - goal) ** 2, (near - goal) ** 2))
            clipped += (near - goal) ** 2 > (new - goal) ** 2
        assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-6, abs=1e-6)
        assert share == pytest.approx(clipped / len(terms))


def whole(rollouts: Ragged, name: str) -> Tensor:
    return torch.where(rollouts.mask, rollouts.padded(name), 0.0)


def test_at_equal_policies_the_gradient_is_the_plain_policy_gradient() -> None:
    torch.manual_seed(0)
    log_probs = torch.randn(3, 4, requires_grad=True)
    advantages, mask = torch.randn(3, 4), torch.ones(3, 4, dtype=torch.bool)
    policy_loss(log_probs, log_probs.detach(), advantages, mask, 0.2)[0].mean().backward()
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, -advantages / 12)


def test_each_rollout_counts_the_same_whatever_its_length() -> None:
    values, mask = torch.tensor([[1.0, 9.0], [2.0, 4.0]]), torch.tensor([[True, False], [True, True]])
    assert rollout_means(values, mask).tolist() == [1.0, 3.0]


def test_both_divergence_estimates_have_the_true_mean_and_the_second_is_never_negative() -> None:
    torch.manual_seed(0)
    policy, reference = torch.randn(6).log_softmax(-1), torch.randn(6).log_softmax(-1)
    true = (policy.exp() * (policy - reference)).sum()
    drawn = torch.multinomial(policy.exp(), 200_000, replacement=True)
    plain, third = kl_estimates(policy[drawn][:, None], reference[drawn][:, None], torch.ones(200_000, 1).bool())
    assert plain.mean().item() == pytest.approx(true.item(), abs=0.02)
    assert third.mean().item() == pytest.approx(true.item(), abs=0.02)
    assert (third >= 0).all()
    assert third.std() < plain.std()


@given(st.lists(floats, min_size=2, max_size=9))
def test_entropy_equals_the_sum_over_the_vocabulary(logits: list[float]) -> None:
    total = sum(map(math.exp, logits))
    expected = -sum(math.exp(z) / total * math.log(math.exp(z) / total) for z in logits)
    assert entropies(torch.tensor(logits, dtype=torch.float64)).item() == pytest.approx(expected, abs=1e-6)


def test_learning_rates_rise_then_the_policys_falls_as_a_cosine_and_the_values_stays() -> None:
    policy = [cosine(step, 100, 0.1) for step in range(100)]
    value = [warm_up(step, 100, 0.1) for step in range(100)]
    assert policy[:10] == value[:10] == sorted(policy[:10])
    assert 0 < policy[0] < policy[9] < policy[10] == 1.0
    assert policy[10:] == sorted(policy[10:], reverse=True)
    assert policy[55] == pytest.approx(0.5)
    assert 0 < policy[-1] < 0.01
    assert value[10:] == [1.0] * 90


@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 5))
def test_all_questions_are_asked_equally_often_up_to_one(rows: int, wanted: int, seed: int) -> None:
    order = repeated(rows, wanted, seed)
    counts = [order.count(row) for row in range(rows)]
    assert len(order) == wanted
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 4), st.integers(1, 6))
def test_the_processes_shares_are_a_batch_taken_apart(processes: int, each: int) -> None:
    rows = list(range(processes * each))
    shares = [own_share(rows, rank, processes) for rank in range(processes)]
    assert sorted(row for share in shares for row in share) == rows
    assert {len(share) for share in shares} == {each}
