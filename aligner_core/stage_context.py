"""What a running stage sees: its inputs, its folder, its place, and where to report progress and metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.records import Question, read_records

Record = TypeVar("Record", bound=Question)

# The folders that an interrupted stage continues from; taken away when it is whole.
CONTINUED_FROM = (SHARDS, CHECKPOINTS, BEST) = ("shards", "checkpoints", "best")


@dataclass(frozen=True)
class ModelLocation:
    """Arguments for `from_pretrained`."""

    folder: str
    revision: str | None = None
    trust_remote_code: bool = False

    def arguments(self) -> dict[str, Any]:
        return {"revision": self.revision or "main", "trust_remote_code": self.trust_remote_code}


@dataclass
class StageContext:
    """Handed to `Task.run`. `facts` goes into the stage's manifest: counts, accuracies, what was dropped."""

    folder: Path
    inputs: Mapping[str, Mapping[str, Any]]
    profile: Profile
    progress: Progress
    metrics: MetricLog
    facts: dict[str, Any] = field(default_factory=dict)

    def file(self, name: str) -> Path:
        return Path(self.inputs[name]["location"])

    def records(self, prefix: str, kind: type[Record]) -> list[Record]:
        """The records of all inputs whose name begins so; none if there is no such input."""
        names = sorted(name for name in self.inputs if name.startswith(prefix))
        return [record for name in names for record in read_records(self.file(name), kind)]

    def model(self, name: str) -> ModelLocation:
        """The model to load; embedded ones are unpacked on first use."""
        from aligner_core.embedded_models import local_folder

        source = self.inputs[name]
        self.progress.pause("loading " + name)
        folder = local_folder(source["location"])
        return ModelLocation(folder, source.get("revision"), bool(source.get("trust_remote_code")))

    @property
    def is_main_process(self) -> bool:
        return int(os.environ.get("RANK", "0")) == 0


def tokens_of(facts: Mapping[str, Any]) -> int | None:
    """Tokens that a stage generated, or went through in its training; None where it tells of none."""
    tokens: int | None = facts.get("generated_tokens", facts.get("tokens"))
    return tokens
