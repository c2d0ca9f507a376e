"""The one progress display: bars in a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from aligner_core.progress import State

PLAIN_LINE_SECONDS = 15.0


class Display(Protocol):
    def begin(self, name: str, number: int, total: int) -> None: ...
    def show(self, state: State) -> None: ...
    def kept(self, name: str, number: int, total: int) -> None: ...
    def finished(self, seconds: float) -> None: ...
    def failed(self) -> None: ...


def open_display(log: TextIO | None = None) -> Display:
    """Bars on standard error where that is a terminal, else lines to `log` (None: standard output)."""
    console = Console(stderr=True)
    return TerminalDisplay(console) if console.is_terminal else PlainDisplay(log)


@contextmanager
def showing(display: Display, name: str, number: int = 0, total: int = 0) -> Iterator[None]:
    """Show that something begins, and that it is finished or, where the block raises, has failed."""
    display.begin(name, number, total)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        display.failed()
        raise
    display.finished(time.monotonic() - started)


class TerminalDisplay:
    """A bar for the current stage; finished stages scroll up as lines."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None
        self._bar: TaskID | None = None
        self._label = ""

    def begin(self, name: str, number: int, total: int) -> None:
        self._label = _label(name, number, total)
        self._progress = Progress(
            SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[amount]}"),
            TimeElapsedColumn(), console=self._console, transient=True,
        )  # fmt: skip
        self._bar = self._progress.add_task(self._label, total=None, amount="")
        self._progress.start()

    def show(self, state: State) -> None:
        if self._progress is None or self._bar is None:
            return
        self._progress.update(self._bar, description=f"{self._label} · {state.doing}", completed=state.done,
                              total=state.total or None, amount=_amount(state))  # fmt: skip

    def kept(self, name: str, number: int, total: int) -> None:
        self._console.print(f"[dim]✓ {_label(name, number, total)} (kept)[/dim]", highlight=False)

    def finished(self, seconds: float) -> None:
        self._stop()
        self._console.print(f"[green]✓[/green] {self._label} {seconds:.0f} s", highlight=False)

    def failed(self) -> None:
        self._stop()
        self._console.print(f"[red]✗[/red] {self._label}", highlight=False)

    def _stop(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None


class PlainDisplay:
    """One line when a stage begins and ends, and one every 15 seconds between."""

    def __init__(self, log: TextIO | None = None) -> None:
        self._log = log
        self._label = ""
        self._last = 0.0

    def begin(self, name: str, number: int, total: int) -> None:
        self._label = _label(name, number, total)
        self._last = time.monotonic()
        print(f"{self._label} begins", flush=True, file=self._log)

    def show(self, state: State) -> None:
        if time.monotonic() - self._last > PLAIN_LINE_SECONDS:
            self._last = time.monotonic()
            print(f"{self._label} {state.doing} {_amount(state)}", flush=True, file=self._log)

    def kept(self, name: str, number: int, total: int) -> None:
        print(f"{_label(name, number, total)} kept", flush=True, file=self._log)

    def finished(self, seconds: float) -> None:
        print(f"{self._label} done in {seconds:.0f} s", flush=True, file=self._log)

    def failed(self) -> None:
        print(f"{self._label} failed", flush=True, file=self._log)


def _label(name: str, number: int, total: int) -> str:
    return f"{number}/{total} {name}" if total else name


def _amount(state: State) -> str:
    return f"{state.done:,.0f}/{state.total:,.0f} {state.unit}" if state.total else ""
