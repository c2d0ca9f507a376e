"""How a stage's processes are started: one process, or the profile's launcher for a distributed stage."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Protocol

from aligner_core.extension_locks import remove_stale_locks
from aligner_core.profile import Profile

CHILD = "aligner_core.stage_process"
RENDEZVOUS_PORT = 29500
_PR_SET_PDEATHSIG = 1


class Processes(Protocol):
    """The part of `subprocess.Popen` that the runner needs."""

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def terminate(self) -> None: ...


def start_processes(folder: Path, profile: Profile) -> Processes:
    """Start the stage described in `folder`; its output goes to `log.txt` there."""
    environment = launch_environment(profile)
    forks = profile.device.kind == "cpu" and profile.generation.engine == "transformers"
    if forks and not profile.uses_deepspeed:
        return _ForkedProcess(folder, environment)
    if profile.launch.kind == "local":
        remove_stale_locks()
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            launch_command(folder, profile), stdout=log, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env={**os.environ, **environment},
            preexec_fn=partial(end_with_parent, signal.SIGTERM),  # on which launchers end all processes of theirs
        )  # fmt: skip


def end_with_parent(number: signal.Signals) -> None:
    """From now on this process gets that signal when its parent ends, however that ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


class _ForkedProcess:
    """A process forked from one that has imported torch and the trainers already: five seconds saved per stage.

    Only without CUDA, which does not survive a fork, and without vLLM, which starts processes of its own.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["aligner_core.preload"])
        os.environ.update(environment)
        self._process = context.Process(target=_run_forked, args=(folder, dict(os.environ)))
        self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0

    def terminate(self) -> None:
        self._process.terminate()


def _run_forked(folder: Path, environment: dict[str, str]) -> None:
    from aligner_core import stage_process

    threading.Thread(target=_end_with_runner, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.exit(stage_process.main(folder))


def _end_with_runner() -> None:
    """The forked process's parent is the fork server, so the runner's death is watched for here."""
    runner = multiprocessing.parent_process()
    if runner is not None:
        runner.join()
        os.kill(os.getpid(), signal.SIGKILL)


def launch_command(folder: Path, profile: Profile) -> list[str]:
    """The command that runs the stage described in `folder`, in one process or in the profile's number of them.

    With several nodes it is given on the first of them, and reaches the others through srun or ssh.
    """
    stage = [CHILD, str(folder)]
    if not profile.uses_deepspeed:
        return [sys.executable, "-m", *stage]
    per_node = profile.processes // profile.nodes
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={per_node}"]
    match profile.launch.kind:
        case "hostfile" if profile.nodes > 1:
            hostfile = profile.launch.hostfile or "hostfile"
            launcher = [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={hostfile}"]
            size = [f"--num_nodes={profile.nodes}", f"--num_gpus={per_node}"]
            return [*launcher, *size, "--no_local_rank", "--module", *stage]
        case "slurm":
            # A task that were bound to the one core that a step gets by default would starve its processes.
            node = [
                "srun",
                f"--nodes={profile.nodes}",
                "--ntasks-per-node=1",
                "--cpu-bind=none",
                "--kill-on-bad-exit=1",
            ]
            meeting = ["--rdzv_backend=c10d", f"--rdzv_endpoint={_this_node()}:{RENDEZVOUS_PORT}",
                       f"--rdzv_id={folder.name}", f"--nnodes={profile.nodes}"]  # fmt: skip
            return [*node, *torchrun, *meeting, "--module", *stage]
        case _:
            # On one node DeepSpeed's launcher starts its processes here too, but leaves them behind when it is ended.
            return [*torchrun, "--standalone", "--module", *stage]


def _this_node() -> str:
    """The name by which the other nodes of a SLURM job know this one."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def launch_environment(profile: Profile) -> dict[str, str]:
    """Variables for the stage's processes."""
    environment = {"TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if profile.device.kind == "cpu":
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        if profile.processes > 1:
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // profile.processes))
    return environment
