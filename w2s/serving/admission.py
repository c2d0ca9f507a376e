"""Who is let in, and what a request holds while it is inside."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from w2s.serving.errors import RETRY_AFTER, ApiError

T = TypeVar("T")
DRAINED_BYTES = 64 * 2**20  # of a body that is too long: a client that still sends would not see the answer


class Admission:
    """Lets in so many requests that do work; the others are told to come again.

    What a request opened is on the stack `scope["held"]`, and is closed when the request is over, however it ended.
    """

    def __init__(self, app: ASGIApp, most: int) -> None:
        self._app = app
        self._most = most
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
        elif self._inside >= self._most:
            error = ApiError(429, "server_busy", "too many requests are waiting; try again later", RETRY_AFTER)
            await as_response(error)(scope, receive, send)
        else:
            self._inside += 1
            try:
                async with AsyncExitStack() as held:
                    await self._app({**scope, "held": held}, receive, send)
            finally:
                self._inside -= 1


class ClientGoneError(Exception):
    """The client closed the connection: nobody waits for an answer."""


def as_response(error: ApiError) -> Response:
    return Response(error.body, error.status, error.headers, error.media_type)


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The body.

    Raises:
        ApiError: 413 if it is longer than `limit` bytes, 408 if it takes longer than `seconds`.
        ClientGoneError: if the client left before its end.
    """
    too_large = ApiError(413, "request_too_large", f"the body is longer than {limit:,} bytes", {"Connection": "close"})
    body, length = bytearray(), 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                length += len(part)
                if length > DRAINED_BYTES:
                    raise too_large
                if length <= limit:
                    body += part
    except TimeoutError:
        raise ApiError(408, "request_timeout", "the body did not come in time", {"Connection": "close"}) from None
    except ClientDisconnect:
        raise ClientGoneError from None
    if length > limit:
        raise too_large
    return bytes(body)


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is stopped when the client goes away.

    Raises:
        ClientGoneError: if it did.
    """
    task, watch = asyncio.create_task(work), asyncio.create_task(_disconnect(request))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        task.cancel()
        watch.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
