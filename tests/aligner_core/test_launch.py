"""The processes of a stage: how they are started, and that they end with the runner, whatever ends that."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.files import write_text
from aligner_core.launch import launch_command
from aligner_core.profile import Profile
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task

PATIENCE = 120  # seconds, on a busy machine


class Endless(Task):
    """Tells which process it is, and never ends."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True

    def run(self, stage: StageContext) -> None:
        write_text(stage.folder / f"process-{os.environ['RANK']}", str(os.getpid()))
        time.sleep(10 * PATIENCE)


RUNNER = """
import sys
from pathlib import Path
from aligner_core.configuration import find_profile, read_yaml
from aligner_core.display import PlainDisplay
from aligner_core.profile import Profile
from aligner_core.runner import run_stages
from aligner_core.stages import Stage
from tests.aligner_core.test_launch import Endless

if __name__ == "__main__":
    place = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, "processes": 2})
    run_stages(Path(sys.argv[1]), [Stage("endless", Endless())], place, PlainDisplay())
"""


def until(reached: Callable[[], bool]) -> bool:
    """Whether that came about."""
    end = time.monotonic() + PATIENCE
    while not reached() and time.monotonic() < end:
        time.sleep(0.1)
    return reached()


def facts_of(process: int) -> list[str]:
    """State, parent and so on of a process; of none that has ended, though nobody has asked how."""
    try:
        facts = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [] if facts[0] == "Z" else facts


@pytest.mark.slow
def test_no_process_of_a_distributed_stage_outlives_a_runner_that_is_killed(tmp_path: Path) -> None:
    runner = subprocess.Popen([sys.executable, "-c", RUNNER, str(tmp_path)])

    def processes() -> list[int]:
        return [int(path.read_text()) for path in tmp_path.glob("stages/*.partial/process-*")]

    assert until(lambda: len(processes()) == 2)
    launcher = int(facts_of(processes()[0])[1])
    assert launcher != runner.pid
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert until(lambda: not any(map(facts_of, [launcher, *processes()])))


def test_a_hostfile_of_one_node_needs_no_launcher_that_would_leave_its_processes_behind() -> None:
    launch = {"kind": "hostfile", "hostfile": "hosts"}
    profile = Profile.model_validate({**read_yaml(find_profile("h100x8")), "processes": 8, "launch": launch})
    command = launch_command(Path("folder"), profile)
    assert {"torch.distributed.run", "--nproc_per_node=8", "--standalone"} < set(command)
