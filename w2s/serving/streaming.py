"""Streams: a whole answer as the chunks that clients expect, and comments while there is none yet."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx

from w2s.serving.chat import ChatRequest
from w2s.serving.errors import ApiError

WORDS = re.compile(r"\s*(?:\S+\s*){1,4}|\s+")
KEEP_ALIVE = b": waiting\n\n"
DONE = b"data: [DONE]\n\n"


def chunks_of(answer: Mapping[str, Any], with_usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks whose sum is the answer, text a few words at a time. The last one has the metadata.

    Args:
        with_usage: whether the request asked for a last chunk with the usage.
    """
    frame = {key: answer[key] for key in ("id", "created", "model", "system_fingerprint") if key in answer}
    frame["object"] = "chat.completion.chunk"
    found = [{**frame, "choices": [choice]} for number, item in enumerate(answer["choices"])
             for choice in _choice_chunks(item, number)]  # fmt: skip
    if with_usage:
        found.append({**frame, "choices": [], "usage": answer.get("usage")})
    found[-1]["w2s"] = answer["w2s"]
    yield from found


def _choice_chunks(choice: Mapping[str, Any], number: int) -> Iterator[dict[str, Any]]:
    message = dict(choice["message"])
    index = choice.get("index", number)
    content = message.pop("content", None)
    if message.get("tool_calls"):
        message["tool_calls"] = [{**call, "index": place} for place, call in enumerate(message["tool_calls"])]
    yield {"index": index, "delta": {"role": "assistant", "content": None, **message}, "finish_reason": None}
    for words in WORDS.findall(content) if isinstance(content, str) else []:
        yield {"index": index, "delta": {"content": words}, "finish_reason": None}
    yield {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason") or "stop"}


async def answer_events(
    task: asyncio.Task[dict[str, Any]], request: ChatRequest, keepalive_seconds: float
) -> AsyncIterator[bytes]:
    """The events of an answer that is being made; an error comes as an event, as the status is gone by then."""
    while not (await asyncio.wait({task}, timeout=keepalive_seconds))[0]:
        yield KEEP_ALIVE
    try:
        answer = task.result()
    except ApiError as error:
        yield error.event()
        return
    with_usage = bool((request.stream_options or {}).get("include_usage"))
    for chunk in chunks_of(answer, with_usage):
        yield b"data: " + json.dumps(chunk).encode() + b"\n\n"
    yield DONE


async def upstream_events(response: httpx.Response) -> AsyncIterator[bytes]:
    """The upstream's own events, untouched; a cut is told as an error."""
    try:
        async for part in response.aiter_bytes():
            yield part
    except (httpx.HTTPError, httpx.StreamError):
        yield b"\n\n" + ApiError(502, "upstream_cut", "the upstream's answer ended too early").event()
