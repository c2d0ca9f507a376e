"""How a stage's processes are started, and what DeepSpeed is told."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from aligner_core.errors import Problem, UserError
from aligner_core.profile import Profile

CHILD = "aligner_core.stage_process"


def uses_deepspeed(profile: Profile) -> bool:
    return profile.processes > 1 or profile.zero.stage > 0


def launch_command(folder: Path, profile: Profile, distributed: bool) -> list[str]:
    """The command that runs the stage described in `folder`, in one process or in the profile's number of them."""
    stage = [CHILD, str(folder)]
    if not (distributed and uses_deepspeed(profile)):
        return [sys.executable, "-m", *stage]
    per_node = profile.processes // profile.nodes
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={per_node}"]
    match profile.launch.kind:
        case "local":
            return [*torchrun, "--standalone", "--module", *stage]
        case "hostfile":
            hostfile = profile.launch.hostfile or "hostfile"
            launcher = ["deepspeed", f"--hostfile={hostfile}", f"--num_nodes={profile.nodes}"]
            return [*launcher, f"--num_gpus={per_node}", "--module", *stage]
        case "slurm":
            meeting = ["--rdzv_backend=c10d", '--rdzv_endpoint="$(hostname)":29500', f"--nnodes={profile.nodes}"]
            node = ["srun", f"--nodes={profile.nodes}", "--ntasks-per-node=1"]
            return [*node, *torchrun, *meeting, "--module", *stage]


def launch_environment(profile: Profile, distributed: bool) -> dict[str, str]:
    """Variables for the stage's processes."""
    environment = {"TOKENIZERS_PARALLELISM": "false"}
    if profile.device.kind == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if distributed and profile.processes > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // profile.processes))
    return environment


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
