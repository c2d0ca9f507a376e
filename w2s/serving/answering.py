"""From a request to a corrected answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from aligner_core.correctors.protocol import Case, Revision
from w2s.serving.chat import (
    ChatRequest,
    cases_of,
    corrected_choice,
    for_upstream,
    parse_request,
    too_long,
    untouched_reason,
)
from w2s.serving.correction_queue import CorrectionQueue
from w2s.serving.errors import RETRY_AFTER, ApiError
from w2s.serving.live_corrector import Job, takes_threshold
from w2s.serving.settings import ServeSettings
from w2s.serving.upstream import Upstream

log = logging.getLogger("w2s.serve")


class Answering:
    """Asks the upstream, corrects each of its choices, and says in the field `w2s` what was done."""

    def __init__(self, settings: ServeSettings, upstream: Upstream, queue: CorrectionQueue) -> None:
        self._settings = settings
        self._upstream = upstream
        self._queue = queue

    def parse(self, body: bytes) -> tuple[ChatRequest, dict[str, Any]]:
        """The request and all that it says.

        Raises:
            ApiError: 400 if it is none, or asks for what this server does not do.
        """
        request, content = parse_request(body)
        if "w2s" in content and not self._settings.switches:
            raise ApiError(400, "invalid_request_error", "w2s: this server takes no switches")
        if request.w2s.rounds > self._settings.max_rounds:
            raise ApiError(400, "invalid_request_error", f"w2s.rounds: at most {self._settings.max_rounds}")
        if request.w2s.threshold is not None and not takes_threshold(self._settings.corrector):
            raise ApiError(400, "invalid_request_error", "w2s.threshold: this server's corrector is no gate")
        return request, content

    async def answer(self, request: ChatRequest, content: Mapping[str, Any]) -> dict[str, Any]:
        """The upstream's answer, corrected where it can be.

        Raises:
            ApiError: the upstream's, or 503 where the correction failed and the server is set to fail closed.
        """
        started = time.monotonic()
        answer = await self._upstream.answer(for_upstream(content))
        between = time.monotonic()
        reason = untouched_reason(request)
        cases = cases_of(request, answer) if reason is None else [None] * len(answer["choices"])
        revisions = await asyncio.gather(*(self._correct(case, request) for case in cases))
        answer["w2s"] = {
            "choices": [
                self._note(case, revision, reason or "not_text")
                for case, revision in zip(cases, revisions, strict=True)
            ],
            "upstream_seconds": round(between - started, 4),
            "correction_seconds": round(time.monotonic() - between, 4),
        }
        answer["choices"] = [
            choice if revision is None or revision.error else corrected_choice(choice, revision)
            for choice, revision in zip(answer["choices"], revisions, strict=True)
        ]
        return answer

    async def _correct(self, case: Case | None, request: ChatRequest) -> Revision | None:
        """None where there is nothing to correct. A failure is a revision with an error, or ends the request."""
        if case is None:
            return None
        revision = Revision(case.answer, error="too_long") if too_long(case) else await self._ask(case, request)
        if not revision.text.strip() and not revision.error:
            revision = Revision(case.answer, error="empty")
        if revision.error:
            kind = revision.error.partition(":")[0]  # the rest may quote what others said
            log.warning("an answer was not corrected (%s)", kind)
            if self._settings.fail == "closed":
                raise ApiError(503, "correction_failed", f"the answer could not be corrected ({kind})", RETRY_AFTER)
        return revision

    async def _ask(self, case: Case, request: ChatRequest) -> Revision:
        job = Job(case, request.w2s.rounds, request.w2s.threshold)
        try:
            async with asyncio.timeout(self._settings.correction_seconds):
                return await self._queue.correct(job)
        except TimeoutError:
            return Revision(case.answer, error="timeout")

    def _note(self, case: Case | None, revision: Revision | None, reason: str) -> dict[str, Any]:
        """What happened to a choice."""
        if case is None or revision is None:
            return {"corrected": False, "reason": reason}
        if revision.error:
            return {"corrected": False, "reason": "failed: " + revision.error.partition(":")[0]}
        note = {"corrected": True, "copied": revision.text == case.answer, "tokens": revision.tokens}
        return {**note, "original": case.answer} if self._settings.original else note
