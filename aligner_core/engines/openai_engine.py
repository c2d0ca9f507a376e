"""Generation by any server that speaks OpenAI's chat completions: hosted APIs, vLLM, llama.cpp and others.

Requests run side by side, up to the profile's number. What may pass is tried again after a pause that grows, with
jitter, and that is never shorter than the server asked for; a prompt that still fails becomes a completion with an
error, and the others go on. The key is read from the environment when the engine is opened, is sent to the host that
the profile names it for, and stands in no message.
"""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.errors import Problem, UserError
from aligner_core.model_ids import parse_endpoint
from aligner_core.profile import Endpoints

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds
LONGEST_REQUESTED_PAUSE = 600.0  # a server that asks for more has no quota left
IDLE_SECONDS = 2.0  # shorter than servers keep connections, so that none is used that they just close
PASSING = {408, 409, 425, 429}  # and all from 500 on
REFUSED = {401: "the key was refused", 403: "the key was refused", 404: "there is no such URL or model"}
DETAIL_CHARACTERS = 200


class _FailedRequestError(Exception):
    """Why a request gave no completion. `pause` is what the server asked for."""

    def __init__(self, kind: str, detail: str = "", passing: bool = True, pause: float = 0.0) -> None:
        super().__init__(f"{kind}: {detail}" if detail else kind)
        self.passing = passing
        self.pause = pause


class OpenAIEngine:
    """Sends conversations and lets the server frame them.

    `top_k` and `repetition_penalty` are sent where they are set: vLLM knows them, a server that does not refuses, and
    nothing is decoded in another way than the recipe says.
    """

    def __init__(self, model: str, place: Endpoints) -> None:
        endpoint = parse_endpoint(model)
        assert endpoint is not None
        self._endpoint = endpoint
        self._place = place
        self._key = endpoint_key(endpoint.host, place)
        self._not_before = 0.0  # no request starts earlier: a 429 is meant for all of them
        self._runner = asyncio.Runner()  # connections belong to its loop, and stay open from one call to the next
        self._client: httpx.AsyncClient | None = None

    def prepare(self, prompts: Sequence[Prompt]) -> None: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        """Raises UserError if the server refuses the key or does not know the model."""
        return self._runner.run(self._generate(prompts, sampling, seed))

    @property
    def statistics(self) -> Mapping[str, Any]:
        return {}

    def refresh(self, folder: Path) -> None:
        what, fix = "others serve this model, so its weights cannot be replaced", "name a model's folder or hub id"
        raise UserError(Problem(f"{self._endpoint.url}#{self._endpoint.name}", what, fix))

    def close(self) -> None:
        if self._client is not None:
            self._runner.run(self._client.aclose())
        self._client = None
        self._runner.close()

    async def _generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        client = self._client = self._client or self._connect()
        free = asyncio.Semaphore(self._place.concurrency)

        async def one(index: int, prompt: Prompt) -> Completion:
            async with free:
                return await self._complete(client, self._request(prompt, sampling, seed + index))

        return await asyncio.gather(*(one(index, prompt) for index, prompt in enumerate(prompts)))

    def _connect(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self._place.concurrency, keepalive_expiry=IDLE_SECONDS)
        return httpx.AsyncClient(headers=headers, timeout=self._place.timeout_seconds, limits=limits)

    def _request(self, prompt: Prompt, sampling: Sampling, seed: int) -> dict[str, Any]:
        optional = {
            "top_k": sampling.top_k or None,
            "top_p": sampling.top_p if sampling.temperature > 0 else None,
            "repetition_penalty": sampling.repetition_penalty if sampling.repetition_penalty != 1.0 else None,
            "frequency_penalty": sampling.frequency_penalty or None,
        }
        return {
            "model": self._endpoint.name,
            "messages": [{"role": turn.role, "content": turn.content} for turn in prompt.messages],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "seed": seed % 2**31,
            **{name: value for name, value in optional.items() if value is not None},
        }

    async def _complete(self, client: httpx.AsyncClient, request: dict[str, Any]) -> Completion:
        for attempt in range(self._place.retries + 1):
            while (wait := self._not_before - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            try:
                return await self._try(client, request)
            except _FailedRequestError as failure:
                last = failure
            if not last.passing or last.pause > LONGEST_REQUESTED_PAUSE:
                break
            if last.pause:
                self._not_before = max(self._not_before, time.monotonic() + last.pause)
            if attempt < self._place.retries:
                await asyncio.sleep(random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)))
        return Completion("", 0, False, error=self._without_key(str(last)))

    async def _try(self, client: httpx.AsyncClient, request: dict[str, Any]) -> Completion:
        url = f"{self._endpoint.url}/chat/completions"
        try:
            # A server that sends a byte now and then never meets httpx's own time-outs.
            async with asyncio.timeout(self._place.timeout_seconds):
                response = await client.post(url, json=request)
        except (TimeoutError, httpx.TimeoutException):
            raise _FailedRequestError("timeout", f"no answer in {self._place.timeout_seconds:g} s") from None
        except httpx.HTTPError as error:
            raise _FailedRequestError("connection", str(error) or type(error).__name__) from None
        status, detail = response.status_code, self._without_key(response.text)[:DETAIL_CHARACTERS]
        if status in REFUSED:
            where = f"{self._endpoint.url}#{self._endpoint.name}"
            fix = "check the URL, the model's name, and the variable in the profile's endpoints.key_variables"
            raise UserError(Problem(where, f"{REFUSED[status]} ({status}: {detail})", fix))
        if status != 200:
            passing = status in PASSING or status >= 500
            raise _FailedRequestError(f"http_{status}", detail, passing, _requested_pause(response))
        return _completion(response, detail)

    def _without_key(self, text: str) -> str:
        """Servers may quote the key back."""
        return text.replace(self._key, "(key)") if self._key else text


def endpoint_key(host: str, place: Endpoints) -> str | None:
    """The key that the environment holds for a host; None where the profile names no variable for it.

    Raises:
        UserError: if the variable is not set.
    """
    variable = place.key_variables.get(host)
    if variable is None:
        return None
    if not os.environ.get(variable):
        raise UserError(Problem(f"endpoints.key_variables: {host}", f"{variable} is not set or empty",
                                f"export {variable}=... before the run"))  # fmt: skip
    return os.environ[variable].strip()


def _requested_pause(response: httpx.Response) -> float:
    """Seconds from a Retry-After header, which holds seconds or a date; 0 where there is none."""
    text = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _completion(response: httpx.Response, detail: str) -> Completion:
    """The first choice. A server that does not count tokens gives 0."""
    try:
        content = response.json()
    except ValueError:
        raise _FailedRequestError("invalid_json", detail) from None
    try:
        choice = content["choices"][0]
        text, reason = choice["message"]["content"], choice.get("finish_reason")
        usage = content.get("usage") or {}
        tokens, read = (int(usage.get(name) or 0) for name in ("completion_tokens", "prompt_tokens"))
    except (LookupError, TypeError, AttributeError, ValueError):
        raise _FailedRequestError("no_choice", detail) from None
    if reason == "content_filter":
        raise _FailedRequestError("content_filter", "the server withheld its answer", passing=False)
    if not isinstance(text, str):
        raise _FailedRequestError("no_text", detail)
    return Completion(text.strip(), tokens, reason != "length", prompt_tokens=read)
