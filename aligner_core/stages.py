"""Stages and their identities: what a run is made of.

A stage is a task with its settings, and named inputs that are other stages' outputs or things from outside. Its
identity is the hash of the task's version, of the settings that can change its result, and of its inputs' identities;
where and how fast it runs is left out. A stage whose identity is already on disk is never run again.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict

from aligner_core.files import digest
from aligner_core.profile import Profile
from aligner_core.work import Light, Work

if TYPE_CHECKING:
    from aligner_core.stage_context import StageContext

SHOWN = 10  # digits of an identity in folder names


class Task(BaseModel, ABC):
    """What a stage does. Fields are the settings that can change its result; raise `version` when the code does."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: ClassVar[int]
    distributed: ClassVar[bool] = False

    @abstractmethod
    def run(self, stage: StageContext) -> None:
        """Read `stage`'s inputs, write into `stage.folder`. Runs in a process of its own."""

    @classmethod
    def path(cls) -> str:
        return f"{cls.__module__}:{cls.__qualname__}"


def load_task(path: str, settings: Mapping[str, Any]) -> Task:
    """The inverse of `Task.path` and `model_dump`."""
    module, _, name = path.partition(":")
    task: Task = getattr(importlib.import_module(module), name).model_validate(settings)
    return task


@dataclass(frozen=True)
class Source:
    """A model or a file from outside the run. `identity` fixes its content, `location` says where it is now."""

    location: str
    identity: str
    revision: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Stage:
    """A node of a run's graph. `work` is for planning only."""

    name: str
    task: Task
    inputs: Mapping[str, Artifact | Source] = field(default_factory=dict)
    work: Work = field(default_factory=Light)

    def output(self, path: str) -> Artifact:
        return Artifact(self, path)

    @property
    def needs(self) -> list[Stage]:
        """The stages whose outputs it reads."""
        return [source.stage for source in self.inputs.values() if isinstance(source, Artifact)]

    def place(self, profile: Profile) -> Profile:
        """Where this stage runs: as the profile says, or in one process."""
        return profile if self.task.distributed else profile.for_one_process()

    @property
    def identity(self) -> str:
        content = {
            "task": self.task.path(),
            "version": self.task.version,
            "settings": self.task.model_dump(mode="json"),
            "inputs": {name: source.identity for name, source in self.inputs.items()},
        }
        return digest(content)

    @property
    def folder_name(self) -> str:
        return f"{self.name}-{self.identity[:SHOWN]}"


@dataclass(frozen=True)
class Artifact:
    """A file or folder that a stage leaves behind."""

    stage: Stage
    path: str

    @property
    def identity(self) -> str:
        return f"{self.stage.identity}/{self.path}"


def in_order(targets: Iterable[Stage]) -> list[Stage]:
    """The targets and all that they need, each once, inputs first."""
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.folder_name in ordered:
            return
        for needed in stage.needs:
            visit(needed)
        ordered[stage.folder_name] = stage

    for target in targets:
        visit(target)
    return list(ordered.values())


def stage_folder(run: Path, stage: Stage) -> Path:
    return run / "stages" / stage.folder_name


def is_finished(run: Path, stage: Stage) -> bool:
    """A finished stage's folder carries its final name; the rename is the last thing that happens to it."""
    return (stage_folder(run, stage) / "manifest.json").is_file()
