"""Runs a graph of stages: what is finished is kept, what was interrupted continues, each stage in its own process."""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligner_core.display import Display, showing
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, write_json
from aligner_core.integrity import contents_read, require_intact, trust, write_sealed
from aligner_core.launch import start_processes
from aligner_core.profile import Profile
from aligner_core.progress import State, Stopwatch, read_state
from aligner_core.provenance import git_revision, versions
from aligner_core.stage_context import CONTINUED_FROM
from aligner_core.stage_process import DESCRIPTION, FACTS, PROBLEMS
from aligner_core.stages import Artifact, Stage, is_finished, stage_folder

POLL_SECONDS = 0.2
LOG_LINES = 15


class StageError(Exception):
    """A stage's process ended with an error that is not the user's."""


def run_stages(run: Path, stages: Sequence[Stage], profile: Profile, display: Display) -> None:
    """Run what is not finished yet, in order; see `run_growing` for what it raises."""
    run_growing(run, [stages], profile, display)


def run_growing(
    run: Path,
    graphs: Iterable[Sequence[Stage]],
    profile: Profile,
    display: Display,
    origin: Mapping[str, object] = {},
) -> None:
    """Run a graph that grows: the next one, which holds all before it, is asked for when this one has been run.

    So what comes later can depend on results. `run.json` is written before a graph's first unfinished stage and at
    the end: while kept stages are gone over, a finished run goes on reading as what it was.

    Args:
        origin: what the stages come from, by the name of the file beside `run.json` that tells of it.

    Raises:
        UserError: with the problems that a stage reported, with every finished stage that is no longer as it was
            written, or if another process runs this folder.
        StageError: with the end of the stage's log.
    """
    with locked(run):
        passed: set[str] = set()
        stages: Sequence[Stage] = ()
        for stages in graphs:
            finished = [stage for stage in stages if is_finished(run, stage)]
            require_intact(stage_folder(run, stage) for stage in finished)
            if len(finished) < len(stages):
                _describe_run(run, stages, origin)
            for number, stage in enumerate(stages, 1):
                if stage.folder_name in passed:
                    continue
                passed.add(stage.folder_name)
                if is_finished(run, stage):
                    display.kept(stage.name, number, len(stages))
                else:
                    # What a long run reads last may have been touched since it began.
                    require_intact(stage_folder(run, needed) for needed in stage.needs)
                    _run_stage(run, stage, profile, display, number, len(stages))
        _describe_run(run, stages, origin)


def _describe_run(run: Path, stages: Sequence[Stage], origin: Mapping[str, object]) -> None:
    """What `analysis` reads to find its way: the current stages and their folders, and what they come from."""
    entries = [
        {"name": stage.name, "identity": stage.identity, "folder": str(stage_folder(run, stage).relative_to(run))}
        for stage in stages
    ]
    for name, value in origin.items():
        write_json(run / name, value)
    write_json(run / "run.json", {"name": run.name, "stages": entries})


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """One process per run folder; the lock falls with the process, however it ends."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            fix = "wait for it, stop it, or run under another name with --set name=..."
            raise UserError(Problem(str(run), "is being run by another process", fix)) from error
        yield


def _run_stage(run: Path, stage: Stage, profile: Profile, display: Display, number: int, total: int) -> None:
    final = stage_folder(run, stage)
    partial = final.with_name(final.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for leftover in (PROBLEMS, FACTS, "progress.json"):
        (partial / leftover).unlink(missing_ok=True)
    write_json(partial / DESCRIPTION, _describe_stage(run, stage, profile))
    started, watch = time.time(), Stopwatch(partial)
    with showing(display, stage.name, number, total):
        code = _wait(partial, stage.place(profile), display, watch)
        if code != 0:
            _raise_failure(stage, partial, code)
        seconds = watch.read()
        display.show(State("recording what was written"))
        write_sealed(partial, _manifest(stage, partial, profile, started, seconds))
        os.rename(partial, final)
        for name in CONTINUED_FROM:
            shutil.rmtree(final / name, ignore_errors=True)
        trust(final)  # last, since taking a link to an output away changes that output's times


def _wait(folder: Path, profile: Profile, display: Display, watch: Stopwatch) -> int:
    """Start the stage's processes, show their progress, return their exit code."""
    process = start_processes(folder, profile)
    try:
        while process.poll() is None:
            display.show(read_state(folder))
            watch.keep()
            time.sleep(POLL_SECONDS)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.wait()


def _describe_stage(run: Path, stage: Stage, profile: Profile) -> dict[str, Any]:
    inputs: dict[str, dict[str, Any]] = {}
    for name, source in stage.inputs.items():
        if isinstance(source, Artifact):
            inputs[name] = {"location": str(stage_folder(run, source.stage) / source.path)}
        else:
            inputs[name] = {
                "location": source.location,
                "revision": source.revision,
                "trust_remote_code": source.trust_remote_code,
            }
    return {
        **_what(stage),
        "inputs": inputs,
        "profile": stage.place(profile).model_dump(mode="json"),
        "wandb_group": run.name if profile.wandb else None,
    }


def _what(stage: Stage) -> dict[str, Any]:
    """What a stage does, as both its description and its manifest tell."""
    return {
        "name": stage.name,
        "identity": stage.identity,
        "task": stage.task.path(),
        "version": stage.task.version,
        "settings": stage.task.model_dump(mode="json"),
    }


def _raise_failure(stage: Stage, folder: Path, code: int) -> None:
    if (folder / PROBLEMS).is_file():
        raise UserError(Problem(**problem) for problem in read_json(folder / PROBLEMS))
    lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
    tail = "\n".join("  " + line for line in lines[-LOG_LINES:])
    ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
    raise StageError(f"stage {stage.name} {ended}; the end of {folder / 'log.txt'}:\n{tail}\n"
                      "What was finished is kept; the same command continues.")  # fmt: skip


def _manifest(stage: Stage, folder: Path, profile: Profile, started: float, seconds: float) -> dict[str, Any]:
    """Everything needed to know later how a result came about.

    Args:
        started: when the last attempt began.
        seconds: of all attempts.
    """
    inputs = {name: source.identity for name, source in stage.inputs.items()}
    return {
        **_what(stage),
        "inputs": inputs,
        "read": contents_read(folder.parent, inputs),
        "profile": profile.name,
        "facts": read_json(folder / FACTS),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(seconds, 1),
        "versions": {"python": platform.python_version(), **versions()},
        "git": git_revision(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {profile.device.name}",
    }
