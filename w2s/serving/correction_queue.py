"""Answers that wait for their correction, and the threads that make it.

An in-process corrector has one thread, which takes what has come in a few milliseconds as one batch. A corrector
behind URLs has a thread for each request under way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from aligner_core.correctors.protocol import Case, Revision
from aligner_core.errors import UserError
from w2s.serving.live_corrector import Job

log = logging.getLogger("w2s.serve")


class Worker(Protocol):
    """Corrects batches, always in the same thread."""

    def correct(self, jobs: Sequence[Job]) -> list[Revision]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Ticket:
    """A job in the queue; `revision` is cancelled by whoever no longer waits for it."""

    job: Job
    revision: asyncio.Future[Revision]


class CorrectionQueue:
    """Hands jobs to workers, in the order of their arrival. Its length is bounded by the server's `max_requests`."""

    def __init__(self, workers: Sequence[Worker], batch: int, collect_seconds: float) -> None:
        """`batch` above 1 waits `collect_seconds` for more; the workers' models are then loaded before the start."""
        self._workers = workers
        self._batch = batch
        self._collect_seconds = collect_seconds
        self._tickets: asyncio.Queue[Ticket] = asyncio.Queue()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        return self._tickets.qsize()

    async def start(self) -> None:
        """Begin to work. Raises RuntimeError if an in-process corrector cannot."""
        self._tasks = [asyncio.create_task(self._work(worker)) for worker in self._workers]
        if self._batch > 1:
            revision = await self.correct(Job(Case("Hello", "Hello")))
            if revision.error:
                raise RuntimeError(f"the corrector fails: {revision.error}")

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def correct(self, job: Job) -> Revision:
        """The revision; one with an error where the corrector failed."""
        ticket = Ticket(job, asyncio.get_running_loop().create_future())
        self._tickets.put_nowait(ticket)
        return await ticket.revision

    async def _work(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="corrector")
        try:
            while True:
                tickets = await self._next_batch()
                jobs = [ticket.job for ticket in tickets]
                try:
                    revisions = await loop.run_in_executor(thread, worker.correct, jobs)
                except Exception as error:
                    revisions = [_failure(job, error) for job in jobs]
                    _log_failure(error)
                for ticket, revision in zip(tickets, revisions, strict=True):
                    if not ticket.revision.done():
                        ticket.revision.set_result(revision)
        finally:
            thread.submit(worker.close)
            thread.shutdown(wait=False)

    async def _next_batch(self) -> list[Ticket]:
        """At least one ticket that somebody still waits for."""
        tickets: list[Ticket] = []
        while not tickets:
            first = await self._tickets.get()
            if self._batch > 1 and self._collect_seconds:
                await asyncio.sleep(self._collect_seconds)
            tickets = [first] if not first.revision.done() else []
            while len(tickets) < self._batch and not self._tickets.empty():
                ticket = self._tickets.get_nowait()
                if not ticket.revision.done():
                    tickets.append(ticket)
        return tickets


def _failure(job: Job, error: Exception) -> Revision:
    """Its kind alone: the message may quote another request of the batch."""
    return Revision(job.case.answer, error=f"corrector: {type(error).__name__}")


def _log_failure(error: Exception) -> None:
    if isinstance(error, UserError):
        log.error("the corrector failed: %s", "; ".join(problem.where for problem in error.problems))
    else:
        log.error("the corrector failed", exc_info=error)
