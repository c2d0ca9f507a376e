"""What DeepSpeed is told, and how it is started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aligner_core.errors import Problem, UserError
from aligner_core.profile import Profile


def deepspeed_config(profile: Profile) -> dict[str, Any]:
    """ZeRO as the profile says; sizes marked "auto" are filled in from the training arguments."""
    zero: dict[str, Any] = {"stage": profile.zero.stage, "overlap_comm": profile.device.kind == "cuda"}
    if profile.zero.stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    if profile.zero.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": profile.device.kind == "cuda"}
        if profile.zero.stage == 3:
            zero["offload_param"] = {"device": "cpu", "pin_memory": profile.device.kind == "cuda"}
    return {
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": profile.precision == "bfloat16"},
        "zero_optimization": zero,
        # Offloaded states need DeepSpeed's own CPU Adam on a GPU; elsewhere torch's needs no compiler.
        "zero_force_ds_cpu_optimizer": profile.device.kind == "cuda" and profile.zero.offload,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": "auto",
                "betas": "auto",
                "eps": "auto",
                "weight_decay": "auto",
                **({"torch_adam": True} if profile.device.kind == "cpu" else {}),
            },
        },
    }


def start_deepspeed(profile: Profile) -> None:
    """Make accelerate use DeepSpeed, before any training arguments exist.

    On the CPU the Trainer would otherwise train without it, silently.
    """
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    backend = {"backend": "gloo"} if profile.device.kind == "cpu" else {}
    if PartialState(**backend).distributed_type != DistributedType.DEEPSPEED:
        fix = "install deepspeed as pinned in pyproject.toml"
        raise UserError(Problem("zero", "DeepSpeed did not start", fix))


def allow_bfloat16(arguments: Any) -> None:
    """Let DeepSpeed train in bfloat16 on a CPU, though transformers knows bfloat16 under DeepSpeed on GPUs alone."""
    settings = arguments.hf_deepspeed_config
    settings.mismatches = [mismatch for mismatch in settings.mismatches if "bf16" not in mismatch]


@contextmanager
def whole_weights() -> Iterator[None]:
    """Models loaded inside are whole on every process, though ZeRO-3 shards what is loaded for training."""
    from transformers.integrations import deepspeed

    sharded = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = sharded


def frozen_engine(profile: Profile, load: Callable[[], Any]) -> tuple[Any, Any]:
    """A network for forward passes alone: whole on every process, or sharded over them under ZeRO-3.

    Args:
        load: opens the network; under ZeRO-3 it is sharded while it is read.

    Returns:
        the network, and accelerate's state: which process this is, of how many, and its device.
    """
    if profile.uses_deepspeed:
        start_deepspeed(profile)
    from accelerate import PartialState

    place = PartialState(**({} if profile.uses_deepspeed else {"cpu": profile.device.kind == "cpu"}))
    if profile.zero.stage < 3:
        return load().to(place.device).eval(), place
    import deepspeed
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    settings = deepspeed_config(profile)
    zero = {key: value for key, value in settings["zero_optimization"].items() if key != "offload_optimizer"}
    config = {"train_micro_batch_size_per_gpu": 1, "bf16": settings["bf16"], "zero_optimization": zero}
    # from_pretrained shards for as long as this lives
    sharding = HfDeepSpeedConfig(config)  # type: ignore[no-untyped-call]
    engine = deepspeed.initialize(model=load(), config=config)[0]
    del sharding
    engine.eval()
    return engine, place
