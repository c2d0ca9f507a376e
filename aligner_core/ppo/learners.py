"""Networks that learn: in one process, or sharded over several by DeepSpeed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aligner_core.profile import Profile
from aligner_core.training.deepspeed_setup import deepspeed_config
from aligner_core.training.optimizer import MasterWeightAdamW

STATE = "optimizer.pt"


@dataclass(frozen=True)
class Descent:
    """AdamW's settings but the learning rate, which is given at each step."""

    betas: tuple[float, float]
    weight_decay: float
    max_grad_norm: float


class Learner(Protocol):
    """A network under training. Gradients of several backward passes add up until the step.

    With several processes a step takes the mean of their gradients, and all must make the same calls.
    """

    @property
    def network(self) -> Any:
        """To be called for a forward pass."""

    def backward(self, loss: Tensor) -> None: ...

    def step(self, learning_rate: float) -> float:
        """Clip the gradients, update the weights; returns the norm before clipping."""

    def whole(self) -> AbstractContextManager[Any]:
        """The bare network with all its weights in this process, to decode with."""

    def weights(self) -> dict[str, Tensor] | None:
        """All weights, or those of the adapters, by name; None on processes that need not write them."""

    def save(self, folder: Path) -> None:
        """Write the state of the training."""

    def load(self, folder: Path) -> None: ...


class OneProcess:
    """fp32 copies of the weights and their moments in this process."""

    def __init__(self, network: nn.Module, descent: Descent) -> None:
        self.network = network
        self._trained = [weight for weight in network.parameters() if weight.requires_grad]
        self._max_norm = descent.max_grad_norm
        self._optimizer = MasterWeightAdamW(self._trained, 0.0, descent.betas, descent.weight_decay)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, learning_rate: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        norm = nn.utils.clip_grad_norm_(self._trained, self._max_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)

    def whole(self) -> AbstractContextManager[Any]:
        return nullcontext(self.network)

    def weights(self) -> dict[str, Tensor]:
        return self.network.state_dict()

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(self._optimizer.state_dict(), folder / STATE)

    def load(self, folder: Path) -> None:
        # The weights that are trained are the rounded images of the optimizer's copies.
        self._optimizer.load_state_dict(torch.load(folder / STATE, weights_only=True))


class Sharded:
    """DeepSpeed's engine: ZeRO as the profile says."""

    def __init__(self, network: nn.Module, descent: Descent, profile: Profile) -> None:
        import deepspeed

        self._stage = profile.zero.stage
        groups = _groups(network, descent.weight_decay)
        self.network, *_ = deepspeed.initialize(
            model=network, model_parameters=groups, config=_config(profile, descent)
        )
        running = self.network.zero_optimization_stage()
        if running != self._stage:
            raise RuntimeError(f"ZeRO-{self._stage} was asked for, and ZeRO-{running} ran")

    def backward(self, loss: Tensor) -> None:
        self.network.backward(loss)

    def step(self, learning_rate: float) -> float:
        for group in self.network.optimizer.param_groups:
            group["lr"] = learning_rate
        self.network.step()
        return float(self.network.get_global_grad_norm() or 0.0)

    @contextmanager
    def whole(self) -> Iterator[Any]:
        if self._stage < 3:
            yield self.network.module
            return
        import deepspeed
        from trl.models.utils import add_hooks, remove_hooks

        with deepspeed.zero.GatheredParameters(list(self.network.module.parameters())):
            remove_hooks(self.network)  # they would give each layer's weights back after its first use
            yield self.network.module
            add_hooks(self.network)

    def weights(self) -> dict[str, Tensor] | None:
        if self._stage == 3:
            return self.network._zero3_consolidated_16bit_state_dict()  # type: ignore[no-any-return]
        return self.network.module.state_dict()  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        self.network.save_checkpoint(str(folder), tag="state", exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        self.network.load_checkpoint(str(folder), tag="state", load_module_strict=False)


def deepspeed_loading(profile: Profile) -> Any:
    """While the returned object lives, `from_pretrained` shards what it loads; None where nothing is to be sharded."""
    if profile.zero.stage < 3:
        return None
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    return HfDeepSpeedConfig(_config(profile, Descent((0, 0), 0, 0)))  # type: ignore[no-untyped-call]


def _config(profile: Profile, descent: Descent) -> dict[str, Any]:
    config = deepspeed_config(profile)
    optimizer = {"lr": 0.0, "betas": list(descent.betas), "eps": 1e-8, "weight_decay": descent.weight_decay}
    config["optimizer"]["params"] |= optimizer
    config["zero_optimization"]["overlap_comm"] &= profile.zero.stage >= 2
    return config | {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": descent.max_grad_norm,
        "managed_gradient_accumulation": False,  # a step is a step, whatever was accumulated before it
    }


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """As MasterWeightAdamW has it: matrices decay, vectors do not."""
    trained = [weight for weight in network.parameters() if weight.requires_grad]
    matrices = [weight for weight in trained if len(getattr(weight, "ds_shape", weight.shape)) > 1]
    vectors = [weight for weight in trained if len(getattr(weight, "ds_shape", weight.shape)) <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
