"""AdamW on fp32 copies: the same as torch's on fp32 weights, and what it is for on bfloat16 ones."""

from __future__ import annotations

import io

import pytest
import torch
from torch import nn

from aligner_core.training.optimizer import MasterWeightAdamW

BETAS = (0.9, 0.95)


def network(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)).to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        inputs = torch.randn(32, 8, generator=torch.Generator().manual_seed(step))
        loss = model(inputs.to(dtype)).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def same(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_on_fp32_weights_it_is_torchs_adamw(decay: float) -> None:
    ours, theirs = network(), network()
    groups = [
        {"params": [weight for weight in theirs.parameters() if weight.dim() > 1], "weight_decay": decay},
        {"params": [weight for weight in theirs.parameters() if weight.dim() <= 1], "weight_decay": 0.0},
    ]
    train(ours, MasterWeightAdamW(ours.parameters(), 1e-2, BETAS, decay), range(20))
    train(theirs, torch.optim.AdamW(groups, lr=1e-2, betas=BETAS), range(20))
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)
    assert not same(ours, network())


def test_vectors_are_not_decayed() -> None:
    model = nn.LayerNorm(4)
    optimizer = MasterWeightAdamW(model.parameters(), 0.1, BETAS, 0.5)
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    assert torch.equal(model.weight, torch.ones(4))


def test_tiny_updates_of_bfloat16_weights_accumulate_that_plain_adamw_loses() -> None:
    ours, theirs = (nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16)) for _ in range(2))
    optimizers = MasterWeightAdamW([ours], 1e-4, BETAS, 0.0), torch.optim.AdamW([theirs], lr=1e-4, weight_decay=0.0)
    for _ in range(200):
        for weight, optimizer in zip((ours, theirs), optimizers, strict=True):
            weight.grad = torch.ones_like(weight)
            optimizer.step()
    assert torch.equal(theirs, torch.ones_like(theirs))
    torch.testing.assert_close(ours.float(), torch.full((2, 2), 0.98), rtol=0, atol=2**-8)


def test_bfloat16_weights_are_the_rounded_images_of_the_fp32_ones() -> None:
    low, full = network(torch.bfloat16), network(torch.bfloat16).float()
    first, second = (MasterWeightAdamW(model.parameters(), 1e-3, BETAS, 0.1) for model in (low, full))
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        for weight, image in zip(full.parameters(), low.parameters(), strict=True):
            image.grad = torch.randn(weight.shape, generator=generator).bfloat16()
            weight.grad = image.grad.float()
        first.step()
        second.step()
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(low.parameters(), full.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_state_continues_bit_for_bit(dtype: torch.dtype) -> None:
    whole = network(dtype)
    train(whole, MasterWeightAdamW(whole.parameters(), 1e-3, BETAS, 0.1), range(20))

    before = network(dtype)
    optimizer = MasterWeightAdamW(before.parameters(), 1e-3, BETAS, 0.1)
    train(before, optimizer, range(8))
    stored = io.BytesIO()
    torch.save(optimizer.state_dict(), stored)
    stored.seek(0)

    after = network(dtype, seed=1)
    resumed = MasterWeightAdamW(after.parameters(), 5.0, BETAS, 0.1)
    resumed.load_state_dict(torch.load(stored, weights_only=True))
    assert same(after, before)
    train(after, resumed, range(8, 20))
    assert same(after, whole)


def test_a_state_without_its_copies_is_refused() -> None:
    model = network()
    state = torch.optim.AdamW(model.parameters()).state_dict()
    with pytest.raises(KeyError, match="masters"):
        MasterWeightAdamW(model.parameters(), 1e-3, BETAS, 0.0).load_state_dict(state)


def test_frozen_weights_stay_and_cost_no_state() -> None:
    model = network()
    model[0].requires_grad_(False)
    frozen = [weight.clone() for weight in model[0].parameters()]
    optimizer = MasterWeightAdamW(model.parameters(), 1e-2, BETAS, 0.1)
    train(model, optimizer, range(3))
    assert all(torch.equal(a, b) for a, b in zip(model[0].parameters(), frozen, strict=True))
    assert sum(master.numel() for master in optimizer.state_dict()["masters"]) == 16 + 16 + 16 * 4 + 4


def test_a_weight_without_gradient_stays_as_it_is() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    optimizer = MasterWeightAdamW([used, unused], 0.1, BETAS, 0.5)
    used.grad = torch.ones_like(used)
    optimizer.step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))


def test_zero_grad_forgets_the_models_gradients() -> None:
    weight = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16))
    optimizer = MasterWeightAdamW([weight], 0.1, BETAS, 0.0)
    weight.grad = torch.ones_like(weight)
    optimizer.zero_grad()
    assert weight.grad is None


def test_a_schedulers_learning_rate_is_used() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = MasterWeightAdamW([weight], 0.5, BETAS, 0.0)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 0.0)
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))
