"""A command over a file as a run of stages in a folder beside its output, so that a killed one continues."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligner_core.display import open_display
from aligner_core.errors import Problem, UserError
from aligner_core.files import open_atomic, read_jsonl, write_jsonl, write_text
from aligner_core.profile import Profile
from aligner_core.runner import StageError, run_stages
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


def input_file(source: str, run: Path) -> str:
    """The file to read; what comes by standard input is first written into the run's folder."""
    if source != STANDARD:
        return source
    path = run / "input.jsonl"
    write_text(path, sys.stdin.read())
    return str(path)


def hand_over(result: Path, target: str) -> None:
    """Copy what a stage wrote to where it was asked for."""
    output = nullcontext(sys.stdout) if target == STANDARD else open_atomic(Path(target))
    with result.open(encoding="utf-8") as stream, output as written:
        shutil.copyfileobj(stream, written)


@dataclass
class Outcome:
    """The folders of stages, with what there is even of those that failed, and what went wrong."""

    folders: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    crashes: list[str] = field(default_factory=list)

    def raise_failures(self, more: Iterable[Problem] = ()) -> None:
        """
        Raises:
            StageError: with everything that went wrong, if a stage crashed.
            UserError: with all problems, if there are only such.
        """
        problems = list(dict.fromkeys([*self.problems, *more]))
        if self.crashes:
            raise StageError("\n".join([*self.crashes, *map(str, problems)]))
        if problems:
            raise UserError(problems)


def run_each(run: Path, stages: Sequence[Stage], profile: Profile) -> Outcome:
    """Run every stage, also where another one failed; the caller delivers what there is, then raises the failures."""
    display = open_display(sys.stderr)
    outcome = Outcome()
    for stage in stages:
        folder = stage_folder(run, stage)
        try:
            run_stages(run, [stage], profile, display)
        except (UserError, StageError) as error:
            folder = folder.with_name(folder.name + ".partial")
            if isinstance(error, UserError):
                outcome.problems += error.problems
            else:
                outcome.crashes.append(str(error))
        outcome.folders.append(folder)
    return outcome


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
