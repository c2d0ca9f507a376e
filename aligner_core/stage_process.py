"""The process (or processes) of one stage: `python -m aligner_core.stage_process FOLDER`.

FOLDER holds `stage.json`; outputs, log, metrics and progress are written beside it. A problem that the user can mend
is left in `problems.json` for the runner to show.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

from aligner_core.errors import UserError
from aligner_core.files import read_json, write_json
from aligner_core.launch import end_with_parent
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.stage_context import StageContext
from aligner_core.stages import load_task

DESCRIPTION, FACTS, PROBLEMS = "stage.json", "facts.json", "problems.json"


def main(folder: Path) -> int:
    end_with_parent(signal.SIGKILL)  # the runner, or a launcher, which ends with the runner
    description = read_json(folder / DESCRIPTION)
    task = load_task(description["task"], description["settings"])
    profile = Profile.model_validate(description["profile"])
    main_process = int(os.environ.get("RANK", "0")) == 0
    group = description["wandb_group"] if main_process else None
    stage = StageContext(
        folder=folder,
        inputs=description["inputs"],
        profile=profile,
        progress=Progress(folder, writes=main_process),
        metrics=MetricLog(folder, description["name"], group),
    )
    try:
        task.run(stage)
    except UserError as error:
        write_json(folder / PROBLEMS, [asdict(problem) for problem in error.problems])
        write_json(folder / FACTS, stage.facts)  # what it took is known, even so
        return 2
    finally:
        stage.metrics.close()
    if main_process:
        write_json(folder / FACTS, stage.facts)
    _leave_process_group()
    return 0


def _leave_process_group() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    try:
        code = main(Path(sys.argv[1]))
    except json.JSONDecodeError as error:
        raise SystemExit(f"{sys.argv[1]}: {error}") from error
    sys.exit(code)
