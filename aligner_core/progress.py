"""How far a stage is: written by the stage's process, shown by the runner, which keeps how long it has taken."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from aligner_core.files import read_json, write_json

FILE, SECONDS = "progress.json", "seconds.json"
KEEP_SECONDS = 10.0


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
        self._write(self._state)

    def update(self, done: float) -> None:
        self._state.done = done
        if time.monotonic() - self._written > 0.2 or done >= self._state.total:
            self._write(self._state)

    def pause(self, doing: str) -> None:
        """Show something else for a while; `resume`, or the next update, goes on with what was begun."""
        self._write(State(doing))

    def resume(self) -> None:
        self._write(self._state)

    def _write(self, state: State) -> None:
        if not self._writes:
            return
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(state)))
        os.replace(temporary, self._path)
        self._written = time.monotonic()


class Stopwatch:
    """The seconds of a stage over all its attempts; of an attempt that ends badly the last few are lost."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / SECONDS
        self._before = read_json(self._path) if self._path.is_file() else 0.0
        self._started = self._kept = time.monotonic()

    def read(self) -> float:
        return float(self._before + time.monotonic() - self._started)

    def keep(self) -> None:
        """Write them down for a next attempt, every ten seconds."""
        if time.monotonic() - self._kept > KEEP_SECONDS:
            self._kept = time.monotonic()
            write_json(self._path, self.read())


def read_state(folder: Path) -> State:
    try:
        return State(**json.loads((folder / FILE).read_text()))
    except (OSError, ValueError):
        return State()
