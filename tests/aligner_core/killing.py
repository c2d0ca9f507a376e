"""A stage's process that dies at a chosen moment."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from aligner_core.launch import launch_environment
from aligner_core.profile import Profile

BEFORE_THE_CARD = "from aligner_core.tasks import train; train.store_card = lambda *given: os._exit(9)"


def before_step(step: int) -> str:
    """A training dies when so many steps are done."""
    return (
        "from aligner_core.training.loop import StageCallback\n"
        "def kill(self, args, state, *_, **kw):\n"
        f"    if state.global_step == {step}: os._exit(9)\n"
        "StageCallback.on_step_begin = kill"
    )


def run_until_killed(folder: Path, profile: Profile, patch: str) -> None:
    """Run the stage that `folder` describes after `patch`, Python that lets it end by `os._exit(9)`."""
    begin = "import os, sys; from pathlib import Path; from aligner_core import stage_process"
    code = f"{begin}\n{patch}\nsys.exit(stage_process.main(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(folder)]
    assert subprocess.run(command, env={**os.environ, **launch_environment(profile)}).returncode == 9
