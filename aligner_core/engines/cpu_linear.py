"""Linear layers for decoding in bf16 on CPUs: weights are laid out once as oneDNN wants them, not at every call.

A step that decodes few sequences is bound by reading weights; there this halves its time. Results are the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from aligner_core.profile import Profile

ROWS = 32  # tokens per step that the layout is chosen for; others work as well


class PackedLinear(torch.nn.Module):
    """What `torch.nn.Linear` computes; it can neither be trained nor saved."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self._bias = linear.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(states, self._weight, self._bias, "none", [], "")
        return result


def packing_helps(profile: Profile) -> bool:
    """Whether layers are laid out so here: in bf16, on a CPU that oneDNN multiplies it on."""
    on_cpu = profile.device.kind == "cpu" and profile.precision == "bfloat16"
    return on_cpu and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack_linear_layers(model: torch.nn.Module) -> list[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """Replace every linear layer of a model that is only used for inference; returns what was replaced where."""
    replaced = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, PackedLinear(child))
                replaced.append((module, name, child))
    return replaced


@contextmanager
def packed_linear_layers(model: torch.nn.Module) -> Iterator[None]:
    """While a model under training decodes, its linear layers are packed; they see no later change of its weights."""
    replaced = pack_linear_layers(model)
    try:
        yield
    finally:
        for module, name, linear in replaced:
            setattr(module, name, linear)
