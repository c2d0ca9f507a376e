"""Copies of an engine on one node, each in a process and on accelerators of its own: data parallelism.

A call's prompts are dealt out in consecutive parts, and each part's seeds are those that its prompts have in the whole
call, so that a prompt is decoded alike whichever copy gets it.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
Open = Callable[[], Engine]


class EngineCopies:
    """One engine to whoever asks it."""

    def __init__(self, opens: Sequence[Open], devices_each: int) -> None:
        """All copies are opened at the same time.

        Args:
            opens: opens a copy in its process; one for each.
            devices_each: how many of the devices that are visible here a copy gets.
        """
        self._copies = [
            _Copy(open, devices) for open, devices in zip(opens, _shares(len(opens), devices_each), strict=True)
        ]
        self._collect()

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Copies tokenise side by side; nothing is done ahead."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        bounds = [len(prompts) * number // len(self._copies) for number in range(len(self._copies) + 1)]
        for copy, start, end in zip(self._copies, bounds, bounds[1:], strict=False):
            copy.ask("generate", prompts[start:end], sampling, seed + start)
        return [completion for part in self._collect() for completion in part]

    @property
    def statistics(self) -> Mapping[str, Any]:
        return {"copies": self._all("facts")}

    def refresh(self, folder: Path) -> None:
        self._all("refresh", folder)

    def close(self) -> None:
        for copy in self._copies:
            copy.end()

    def _all(self, method: str, *arguments: Any) -> list[Any]:
        for copy in self._copies:
            copy.ask(method, *arguments)
        return self._collect()

    def _collect(self) -> list[Any]:
        """What all copies answer. All are heard before an error is raised, so that none is left with an old answer."""
        answers = [copy.answer() for copy in self._copies]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


class _Copy:
    """The near end of a copy's process."""

    def __init__(self, open: Open, devices: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far_end = context.Pipe()
        self._process = context.Process(target=_serve, args=(far_end, open, devices))
        self._process.start()
        far_end.close()
        # Without, an interpreter that ends by an error would wait for a process that waits for it.
        atexit.register(self._pipe.close)

    def ask(self, method: str, *arguments: Any) -> None:
        self._pipe.send((method, arguments))

    def answer(self) -> Any:
        """What came back; an exception where the copy raised one, or ended."""
        try:
            return self._pipe.recv()
        except EOFError:
            return RuntimeError("an engine's process ended; the log has its last words")

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, open: Open, devices: str) -> None:
    """The life of a copy: answers until the pipe is closed, by `end` or by the death of whoever asked."""
    os.environ[VISIBLE] = devices
    try:
        engine = open()
        pipe.send(None)
        while True:
            method, arguments = pipe.recv()
            pipe.send(dict(engine.statistics) if method == "facts" else getattr(engine, method)(*arguments))
    except UserError as error:
        pipe.send(error)
    except EOFError:
        engine.close()


def _shares(copies: int, devices_each: int) -> list[str]:
    """The visible devices of each copy, as the environment names them."""
    named = os.environ.get(VISIBLE)
    visible = named.split(",") if named else [str(number) for number in range(copies * devices_each)]
    return [",".join(visible[start : start + devices_each]) for start in range(0, copies * devices_each, devices_each)]
