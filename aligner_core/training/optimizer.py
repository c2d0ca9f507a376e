"""AdamW that keeps fp32 copies of low-precision weights."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class MasterWeightAdamW(torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter 2019) on fp32 copies; the model's weights are their rounded images.

    fp32 weights need no copies: they are trained themselves.

    In bfloat16 alone an update smaller than 1/256 of a weight is lost; here it accumulates in the copy, while the
    matrix products stay in bfloat16. This is what DeepSpeed does on several processes, for one process.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        trained = [weight for weight in weights if weight.requires_grad]
        # Norms and biases are vectors; decaying them is of no use.
        groups = [
            {"weights": [weight for weight in trained if weight.dim() > 1], "weight_decay": weight_decay},
            {"weights": [weight for weight in trained if weight.dim() <= 1], "weight_decay": 0.0},
        ]
        self._weights = [weight for group in groups for weight in group["weights"]]  # type: ignore[attr-defined]
        for group in groups:
            group["params"] = [nn.Parameter(weight.detach().float()) for weight in group.pop("weights")]  # type: ignore[attr-defined]
        super().__init__([group for group in groups if group["params"]], lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for master, weight in zip(self._masters(), self._weights, strict=True):
            master.grad = None if weight.grad is None else weight.grad.float()
        super().step()
        for master, weight in zip(self._masters(), self._weights, strict=True):
            weight.copy_(master)
            master.grad = None

    def zero_grad(self, set_to_none: bool = True) -> None:
        for weight in self._weights:
            weight.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "masters": [master.detach() for master in self._masters()]}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        masters = state_dict["masters"]
        super().load_state_dict({key: value for key, value in state_dict.items() if key != "masters"})
        for master, weight, saved in zip(self._masters(), self._weights, masters, strict=True):
            master.copy_(saved)
            weight.copy_(master)

    def _masters(self) -> list[nn.Parameter]:
        return [master for group in self.param_groups for master in group["params"]]
