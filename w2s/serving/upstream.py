"""The upstream: asked once per request, its errors handed on with their status.

The key is read from the environment, sent to this host alone, and taken out of whatever the host says. Nothing that a
client sent but the body goes there, and no cookie is kept, so that requests know nothing of each other.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from aligner_core.engines.openai_engine import IDLE_SECONDS, endpoint_key
from aligner_core.model_ids import EndpointId
from w2s.serving.chat import check_answer, parse_json
from w2s.serving.errors import ApiError
from w2s.serving.settings import ServeSettings

CONNECT_SECONDS = 10.0
MAX_ERROR_BYTES = 64 * 2**10


class Upstream:
    """Requests to one base URL, so many at once as the settings say; the others wait for their turn."""

    def __init__(self, settings: ServeSettings) -> None:
        """Raises UserError if the key's variable is not set."""
        self._url = settings.upstream
        self._key = endpoint_key(EndpointId(settings.upstream, "").host, settings.profile.endpoints)
        self._seconds = settings.upstream_seconds
        self._limit = settings.max_answer_bytes
        self._free = asyncio.Semaphore(settings.concurrency)
        self._client = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx.Timeout(self._seconds, connect=min(CONNECT_SECONDS, self._seconds), pool=None),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def answer(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The whole answer.

        Raises:
            ApiError: the upstream's own error, or 502 or 504 where it gave no valid answer.
        """
        body = await self._ask("POST", "/chat/completions", content)
        try:
            return check_answer(parse_json(body))
        except ValueError:
            raise ApiError(502, "upstream_invalid", "the upstream's answer is not valid JSON") from None

    async def models(self) -> bytes:
        """Its list of models. Raises as `answer`."""
        return await self._ask("GET", "/models")

    async def _ask(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> bytes:
        try:
            # One limit on it all: a server that sends a byte now and then never meets httpx's own time-outs.
            async with asyncio.timeout(self._seconds), self.open(method, path, content) as response:
                return await self._whole(response, self._limit)
        except TimeoutError:
            raise _timeout() from None

    @asynccontextmanager
    async def open(
        self, method: str, path: str, content: Mapping[str, Any] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """A response of status 200 whose body is still to come.

        Raises:
            ApiError: as `answer`.
        """
        # json.dumps escapes lone surrogates, which httpx's own encoding of JSON fails on.
        body = None if content is None else json.dumps(content).encode()
        request = self._client.build_request(
            method, self._url + path, content=body, headers={"Content-Type": "application/json"}
        )
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._seconds):
                    await held.enter_async_context(self._free)
                    response = await self._client.send(request, stream=True)
                    held.push_async_callback(response.aclose)
                    if response.status_code != 200:
                        raise await self._error(response)
            except (TimeoutError, httpx.TimeoutException):
                raise _timeout() from None
            except httpx.HTTPError:
                raise ApiError(502, "upstream_unreachable", "the upstream cannot be reached") from None
            yield response

    async def _error(self, response: httpx.Response) -> ApiError:
        """The upstream's error with its status and body, as far as those can be handed on."""
        try:
            body = await self._whole(response, MAX_ERROR_BYTES)
        except ApiError:
            body = b""
        if response.status_code < 400:
            return ApiError(502, "upstream_invalid", f"the upstream answered with status {response.status_code}")
        headers = {"Retry-After": value} if (value := response.headers.get("retry-after")) else {}
        if not body:
            return ApiError(response.status_code, "upstream_error", "the upstream gave no reason", headers)
        text = body.decode(errors="replace")
        media_type = response.headers.get("content-type", "text/plain")
        return ApiError(response.status_code, "upstream_error", text[:200], headers, text.encode(), media_type)

    async def _whole(self, response: httpx.Response, limit: int) -> bytes:
        body = bytearray()
        try:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > limit:
                    raise ApiError(502, "upstream_too_large", f"the upstream's answer is longer than {limit:,} bytes")
        except httpx.TimeoutException:
            raise _timeout() from None
        except (httpx.HTTPError, httpx.StreamError):
            raise ApiError(502, "upstream_cut", "the upstream's answer ended too early") from None
        return bytes(body).replace(self._key.encode(), b"(key)") if self._key else bytes(body)


def _timeout() -> ApiError:
    return ApiError(504, "upstream_timeout", "the upstream did not answer in time")
