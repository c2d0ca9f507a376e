"""A command over a file as a run of stages in a folder beside its output, so that a killed one continues."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aligner_core.display import open_display
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.profile import Profile
from aligner_core.runner import run_stages
from aligner_core.stages import Stage, stage_folder

STANDARD = "-"  # standard input or output


@contextmanager
def run_folder(target: str) -> Iterator[Path]:
    """The folder of the run: beside the output, or one for this time only."""
    if target == STANDARD:
        with tempfile.TemporaryDirectory(prefix="w2s-") as folder:
            yield Path(folder)
        return
    run = Path(f"{target}.run")
    if Path(target).exists() and not run.is_dir():
        raise UserError(Problem(target, "exists already", "name another file, or remove it"))
    yield run


def run_each(run: Path, stages: Sequence[Stage], profile: Profile) -> tuple[list[Path], list[Problem]]:
    """Run every stage, also where another one failed.

    Returns:
        the stages' folders, with what there is even of those that failed, and all problems.
    """
    display = open_display(sys.stderr)
    folders: list[Path] = []
    problems: list[Problem] = []
    for stage in stages:
        folder = stage_folder(run, stage)
        try:
            run_stages(run, [stage], profile, display)
        except UserError as error:
            problems += error.problems
            folder = folder.with_name(folder.name + ".partial")
        folders.append(folder)
    return folders, list(dict.fromkeys(problems))


def rows_in(path: Path) -> list[dict[str, Any]]:
    """The rows of a list that a stage may not have written."""
    return read_jsonl(path) if path.is_file() else []


def write_list(target: Path | None, ending: str, rows: Sequence[dict[str, Any]]) -> None:
    """A list beside the output; an old one goes where there is nothing to list."""
    if target is None:
        return
    path = Path(f"{target}{ending}")
    path.unlink(missing_ok=True)
    if rows:
        write_jsonl(path, rows)
