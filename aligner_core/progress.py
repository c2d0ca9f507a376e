"""How far a stage is: written by the stage's process, shown by the runner."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = "progress.json"


@dataclass
class State:
    """`total` 0 means that the end is not known yet."""

    doing: str = "starting"
    done: float = 0
    total: float = 0
    unit: str = ""


class Progress:
    """Keeps `progress.json` in the stage's folder up to date, at most five times a second; one process writes it."""

    def __init__(self, folder: Path, writes: bool = True) -> None:
        self._path = folder / FILE
        self._writes = writes
        self._state = State()
        self._written = 0.0

    def begin(self, doing: str, total: float = 0, unit: str = "", done: float = 0) -> None:
        self._state = State(doing, done, total, unit)
        self._write()

    def update(self, done: float) -> None:
        self._state.done = done
        if time.monotonic() - self._written > 0.2 or done >= self._state.total:
            self._write()

    def _write(self) -> None:
        if not self._writes:
            return
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self._state)))
        os.replace(temporary, self._path)
        self._written = time.monotonic()


def read_state(folder: Path) -> State:
    try:
        return State(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError):
        return State()
