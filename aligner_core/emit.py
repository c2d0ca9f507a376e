"""The files that start a run on several nodes: an sbatch script, or a DeepSpeed hostfile with a script.

Both end in `w2s run` on the first node, which runs the stages of one process there and starts the distributed ones on
all nodes, as launch.py says. So all that differs between one machine and eight is the profile.
"""

from __future__ import annotations

import math
import os
import shlex
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aligner_core.errors import Problem, UserError
from aligner_core.files import write_json, write_text
from aligner_core.launch import launch_environment
from aligner_core.profile import Launch, Profile

Kind = Literal["slurm", "hostfile"]
MARGIN = 1.5  # of the planned time; what is left when it is over goes on with the next submission

SLURM = """#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node={per_node}
#SBATCH --exclusive
#SBATCH --mem=0
#SBATCH --time={hours}:00:00
#SBATCH --output={folder}/%j.log
#SBATCH --requeue
#
# Submit with: sbatch --partition=... --account=... {script}
# Submit it again, and it continues: what is finished is kept.
"""
HOSTFILE = """#!/usr/bin/env bash
# Start on the first machine of {hostfile}: bash {script}
# Start it again, and it continues: what is finished is kept.
"""
BODY = """
# {work} (this project, recipes, data) and {runs} must be on a file system that all nodes see.
set -euo pipefail
cd {work}
{environment}

exec {command}
"""
SLURM_HINTS = """
# export HF_HOME=/shared/huggingface   # else every node downloads models of its own
# export HF_HUB_OFFLINE=1              # no network on the nodes: models and data must be in HF_HOME
# export NCCL_SOCKET_IFNAME=ib0        # if the nodes cannot find each other"""
HOSTFILE_HINTS = """# Variables of all nodes, which DeepSpeed reads too: lines NAME=value and nothing else.
# You may need HF_HOME on a shared file system, HF_HUB_OFFLINE=1 without a network, or NCCL_SOCKET_IFNAME.
set -a; source {file}; set +a"""
UNNAMED = (
    "# The names of your machines, the first one first; DeepSpeed reaches them by ssh without a password (pdsh).\n"
)


@dataclass(frozen=True)
class Start:
    """What the emitted script is to start. `program` is w2s or ida."""

    program: str
    recipe: str
    overrides: Sequence[str]
    runs: Path
    name: str
    seconds: float


def emit(kind: Kind, start: Start, profile: Profile, folder: Path) -> list[Path]:
    """Write the files into `folder`.

    Raises:
        UserError: if there is nothing to distribute.
    """
    if profile.nodes == 1:
        run = f"{start.program} run {start.recipe} --profile {profile.name}"
        fix = f"choose a profile with nodes: 2 or more, or start it on its node: {run}"
        raise UserError(Problem(f"--emit {kind}", f"profile {profile.name} has one node", fix))
    folder = folder.resolve()
    profile_file, script = folder / "profile.json", folder / ("run.sbatch" if kind == "slurm" else "run.sh")
    hostfile = folder / "hostfile"
    launch = Launch(kind=kind, hostfile=str(hostfile) if kind == "hostfile" else None)
    placed = profile.model_copy(update={"launch": launch})
    write_json(profile_file, placed.model_dump(mode="json"))
    written = [script, profile_file]
    environment = _environment(placed)
    if kind == "hostfile":
        environment_file = folder / "environment"
        environment["DS_ENV_FILE"] = str(environment_file)
        write_text(environment_file, "".join(f"{name}={value}\n" for name, value in environment.items()))
        per_node = profile.processes // profile.nodes
        if not hostfile.exists():  # it may hold the names by now
            write_text(hostfile, UNNAMED + "".join(f"node{n} slots={per_node}\n" for n in range(1, profile.nodes + 1)))
        written += [hostfile, environment_file]
    write_text(script, _script(kind, start, placed, script, profile_file, environment))
    return written


def _script(
    kind: Kind, start: Start, profile: Profile, script: Path, profile_file: Path, environment: dict[str, str]
) -> str:
    head = (SLURM if kind == "slurm" else HOSTFILE).format(
        name=start.name,
        nodes=profile.nodes,
        per_node=profile.device.count,
        hours=max(1, math.ceil(MARGIN * start.seconds / 3600)),
        folder=script.parent,
        script=script,
        hostfile=profile.launch.hostfile,
    )
    if kind == "slurm":
        exports = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        variables = "\n".join(exports) + SLURM_HINTS
    else:
        variables = HOSTFILE_HINTS.format(file=shlex.quote(environment["DS_ENV_FILE"]))
    body = BODY.format(
        work=shlex.quote(os.getcwd()),
        runs=shlex.quote(str(start.runs.resolve())),
        environment=variables,
        command=shlex.join(_command(start, profile_file)),
    )
    return head + body


def _command(start: Start, profile_file: Path) -> list[str]:
    program = Path(sysconfig.get_path("scripts")) / start.program
    recipe = str(Path(start.recipe).resolve()) if Path(start.recipe).is_file() else start.recipe
    overrides = [part for override in start.overrides for part in ("--set", override)]
    return [
        str(program),
        "run",
        recipe,
        "--profile",
        str(profile_file),
        "--runs",
        str(start.runs.resolve()),
        *overrides,
    ]


def _environment(profile: Profile) -> dict[str, str]:
    """Of every process on every node."""
    own = {"PYTHONPATH": os.environ["PYTHONPATH"]} if os.environ.get("PYTHONPATH") else {}
    return {**launch_environment(profile), **own}
