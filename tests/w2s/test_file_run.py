"""Stages of a command over a file: one that fails keeps the others from nothing, and is told of at the end."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from aligner_core.configuration import load_profile
from aligner_core.errors import Problem, UserError
from aligner_core.files import write_text
from aligner_core.runner import StageError
from aligner_core.stage_context import StageContext
from aligner_core.stages import Stage, Task
from w2s.file_run import Outcome, run_each

PROBLEM = Problem("upstream", "does not answer")


class Crash(Task):
    version: ClassVar[int] = 1

    def run(self, stage: StageContext) -> None:
        raise MemoryError("out of memory")


class Refuse(Task):
    version: ClassVar[int] = 1

    def run(self, stage: StageContext) -> None:
        raise UserError(PROBLEM)


class Answer(Task):
    version: ClassVar[int] = 1

    def run(self, stage: StageContext) -> None:
        write_text(stage.folder / "answer.txt", "42")


def test_a_stage_is_run_also_where_others_crashed_or_refused(tmp_path: Path) -> None:
    stages = [Stage("crash", Crash()), Stage("refuse", Refuse()), Stage("answer", Answer())]
    outcome = run_each(tmp_path, stages, load_profile("smoke"))
    assert (outcome.folders[2] / "answer.txt").read_text() == "42"
    with pytest.raises(StageError, match=r"(?s)crash ended with code 1.*out of memory.*upstream: does not answer"):
        outcome.raise_failures()


def test_problems_are_told_once_and_nothing_is_raised_where_there_are_none() -> None:
    Outcome().raise_failures()
    with pytest.raises(UserError) as caught:
        Outcome(problems=[PROBLEM, PROBLEM]).raise_failures([PROBLEM, Problem("out.jsonl", "is empty")])
    assert [problem.where for problem in caught.value.problems] == ["upstream", "out.jsonl"]
