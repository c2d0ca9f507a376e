"""A server of chat completions for tests, which can also be as bad as servers get."""

from __future__ import annotations

import asyncio
import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

FAULTS = ("429", "429_retry_after", "500", "timeout", "cut", "invalid_json", "no_choices")


class Endpoint:
    """Answers a conversation with its last message in capitals, save where `faults` or `reply` says otherwise.

    Attributes:
        reply: what it says to a request.
        faults: fault -> share of the requests that meet it.
        requests, headers: the bodies that came in, and their headers.
        message: takes the place of keys of the message that is answered.
        met: how often each fault was served.
    """

    def __init__(self, faults: dict[str, float], seed: int = 0) -> None:
        self.faults = faults
        self.reply: Callable[[dict[str, Any]], str] = lambda body: str(body["messages"][-1]["content"]).upper()
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.message: dict[str, Any] = {}
        self.keys: set[str | None] = set()
        self.met: Counter[str] = Counter()
        self.most_at_once = 0
        self.pause = "0.05"
        self.delay = 0.0
        self.url = ""
        self._at_once = 0
        self._random = random.Random(seed)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                headers = {
                    name.strip().lower(): value.strip()
                    for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
                }
                if head.startswith(b"GET"):
                    await _send(writer, 200, b'{"object": "list", "data": [{"id": "m", "object": "model"}]}')
                    continue
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                self.headers.append(headers)
                self.requests.append(body)
                self.keys.add(headers.get("authorization"))
                self._at_once += 1
                self.most_at_once = max(self.most_at_once, self._at_once)
                try:
                    await self._answer(writer, body, headers.get("authorization") or "")
                finally:
                    self._at_once -= 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, writer: asyncio.StreamWriter, body: dict[str, Any], key: str) -> None:
        await asyncio.sleep(0.002)
        text = str(body["messages"][-1]["content"])
        message = {"role": "assistant", "content": self.reply(body), **self.message}
        choices = [{"index": n, "message": message, "finish_reason": "stop"} for n in range(body.get("n") or 1)]
        frame = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
        asked = sum(len(str(turn["content"])) for turn in body["messages"])
        usage = {"prompt_tokens": asked, "completion_tokens": len(text), "total_tokens": asked + len(text)}
        whole = json.dumps({**frame, "choices": choices, "usage": usage}).encode()
        match self._fault(text):
            case None if body.get("stream"):
                await _send(writer, 200, _events(text.upper()))
            case None:
                await asyncio.sleep(self.delay)
                await _send(writer, 200, whole)
            case "429":
                await _send(writer, 429, f"slow down, {key}".encode())
            case "429_retry_after":
                await _send(writer, 429, b"slow down", f"Retry-After: {self.pause}\r\n")
            case "timeout":
                await asyncio.sleep(3600)
            case "cut":
                await _send(writer, 200, whole[: len(whole) // 2], length=len(whole))
                writer.close()
            case "cut_stream":
                events = _events(text.upper())
                await _send(writer, 200, events[: len(events) // 2], length=len(events))
                writer.close()
            case "slow_bytes":
                await _send(writer, 200, b"", length=1_000)
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            case "huge":
                await _send(writer, 200, b" " * 3_000_000)
            case "invalid_json":
                await _send(writer, 200, whole[:-5])
            case "no_choices":
                await _send(writer, 200, b'{"choices": []}')
            case status:
                await _send(writer, int(status), f"{status} for {key}".encode())

    def _fault(self, text: str) -> str | None:
        draw = self._random.random()
        for fault, share in self.faults.items():
            draw -= share
            if draw < 0:
                self.met[fault] += 1
                return fault
        return None


def _events(text: str) -> bytes:
    """The answer as a stream of its words."""
    chunks = [
        {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m",
         "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in text.split(" ")
    ]  # fmt: skip
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


async def _send(
    writer: asyncio.StreamWriter, status: int, body: bytes, headers: str = "", length: int | None = None
) -> None:
    writer.write(f"HTTP/1.1 {status} x\r\nContent-Length: {length or len(body)}\r\n{headers}\r\n".encode() + body)
    await writer.drain()


@contextmanager
def running(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The endpoint on a free port of this machine, in a thread of its own."""
    loop = asyncio.new_event_loop()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)

    server = loop.run_until_complete(start())
    endpoint.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield endpoint
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
