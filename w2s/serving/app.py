"""The server as a function of its settings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

from w2s.serving.admission import Admission, ClientGoneError, as_response, read_body, unless_gone
from w2s.serving.answering import Answering
from w2s.serving.chat import untouched_reason
from w2s.serving.correction_queue import CorrectionQueue
from w2s.serving.errors import ApiError
from w2s.serving.live_corrector import LiveCorrector
from w2s.serving.settings import ServeSettings
from w2s.serving.streaming import answer_events, upstream_events
from w2s.serving.upstream import Upstream

GONE = 499  # as others log it; nobody reads it
EVENTS = "text/event-stream"


def create_app(settings: ServeSettings) -> FastAPI:
    """The application. It loads its models when it is started, before the first request.

    Raises:
        UserError: if a model or a key is missing.
    """
    upstream = Upstream(settings)
    queue = _queue(settings)
    answering = Answering(settings, upstream, queue)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await queue.start()
            yield
        finally:
            await queue.close()
            await upstream.close()

    app = FastAPI(title="w2s serve", lifespan=lifespan, openapi_url=None)
    app.add_middleware(Admission, most=settings.max_requests)
    _add_error_handlers(app)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "waiting_for_correction": queue.waiting}

    @app.get("/v1/models")
    async def models() -> Response:
        return Response(await upstream.models(), media_type="application/json")

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await read_body(request, settings.max_body_bytes, settings.body_seconds)
        asked, content = answering.parse(body)
        if not asked.stream:
            return _json(await unless_gone(request, answering.answer(asked, content)))
        held = request.scope["held"]
        if untouched_reason(asked):
            own = {name: value for name, value in content.items() if name != "w2s"}
            response = await held.enter_async_context(upstream.open("POST", "/chat/completions", own))
            return StreamingResponse(upstream_events(response), media_type=EVENTS)
        task = asyncio.create_task(answering.answer(asked, content))
        held.callback(task.cancel)
        done, _ = await asyncio.wait({task}, timeout=settings.keepalive_seconds)
        if done:
            task.result()  # an error that comes before the first event keeps its status
        return StreamingResponse(answer_events(task, asked, settings.keepalive_seconds), media_type=EVENTS)

    return app


def _queue(settings: ServeSettings) -> CorrectionQueue:
    first = LiveCorrector(settings)
    if first.served:
        more = [LiveCorrector(settings) for _ in range(settings.concurrency - 1)]
        return CorrectionQueue([first, *more], batch=1, collect_seconds=0.0)
    return CorrectionQueue([first], settings.batch, settings.collect_seconds)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return as_response(error)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> Response:
        return as_response(ApiError(error.status_code, "invalid_request_error", str(error.detail), error.headers))

    @app.exception_handler(ClientGoneError)
    async def gone(request: Request, error: ClientGoneError) -> Response:
        return Response(status_code=GONE)

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        return as_response(ApiError(500, "server_error", "the server failed"))


def _json(content: dict[str, Any]) -> Response:
    # Escaped, because an answer may hold lone surrogates, which no encoding takes.
    return Response(json.dumps(content), media_type="application/json")
