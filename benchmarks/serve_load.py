"""`w2s serve` under load: are answers lost or mixed up, does memory grow, what does it cost?

`python benchmarks/serve_load.py [--minutes M] [--clients N]`, all on 127.0.0.1: a fake upstream in a process of its
own answers at once and plays the Aligner too; the server is the real command. A client waits half a second on average,
then asks, in turn, the upstream itself, the server with correction off, with correction, and streamed. Every answer
has to carry its request's marker. Then 500 requests come at once, of which each is answered or told to come later.
The last line is JSON. Where an answer was wrong or lost, or the server is gone, the exit code is 1.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

BAR_MS = 10.0
CROWD = 500
CROWD_SECONDS = 60.0
WELL = ("answered", "429")  # what one of a crowd may be told
SHOWN = 20
WAYS = ("direct", "off", "corrected", "streamed")
ANSWER = "Answer: "  # in the prompt of the template chat@1
SERVER = "from w2s.cli import main; main()"


@dataclass
class Tally:
    """What came back, by way; latencies in milliseconds."""

    latencies: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    wrong: list[str] = field(default_factory=list)
    memory_mib: list[float] = field(default_factory=list)


async def upstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers what it was asked, after the request's `delay`; corrects by writing "better" before an answer."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = json.loads(await reader.readexactly(int(length.split(b":")[1])))
            await asyncio.sleep(body.get("delay", 0))
            _, corrects, answer = body["messages"][-1]["content"].rpartition(ANSWER)
            message = {"role": "assistant", "content": f"better {answer}" if corrects else f"answer to {answer}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            reply = json.dumps({"id": "x", "object": "chat.completion", "choices": [choice]}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(reply) + reply)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def serve_upstream(port: int) -> None:
    server = await asyncio.start_server(upstream, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


async def ask(client: httpx.AsyncClient, way: str, urls: dict[str, str], marker: str, delay: float = 0) -> str:
    """The text that came back.

    Raises:
        httpx.HTTPError: also for another status than 200.
    """
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": marker}], "delay": delay}
    if way == "off":
        body["w2s"] = {"correct": False}
    if way == "streamed":
        body["stream"] = True
    url = urls["upstream" if way == "direct" else "server"]
    response = (await client.post(f"{url}/chat/completions", json=body)).raise_for_status()
    if way != "streamed":
        return str(response.json()["choices"][0]["message"]["content"])
    events = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    if events[-1] != "[DONE]":
        return "a stream without its end"
    choices = [choice for event in events[:-1] for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def expected(way: str, marker: str) -> str:
    return f"answer to {marker}" if way in ("direct", "off") else f"better answer to {marker}"


async def soak(urls: dict[str, str], clients: int, seconds: float, pause: float, memory: Callable[[], float]) -> Tally:
    """Clients that come again and again until the time is over."""
    tally, until = Tally(), time.monotonic() + seconds

    async def one(number: int, client: httpx.AsyncClient) -> None:
        draw = random.Random(number)
        await asyncio.sleep(draw.uniform(0, 2 * pause))
        count = 0
        while time.monotonic() < until:
            way, marker = WAYS[(number + count) % len(WAYS)], f"mark-{number}-{count}-{draw.random()}"
            started = time.monotonic()
            try:
                text = await ask(client, way, urls, marker)
            except httpx.HTTPError as error:
                text = repr(error)
            tally.latencies[way].append(1000 * (time.monotonic() - started))
            if text != expected(way, marker):
                tally.wrong.append(f"{way} {marker}: {text}")
            count += 1
            await asyncio.sleep(draw.uniform(0, 2 * pause))

    async def watch() -> None:
        while True:
            await asyncio.sleep(seconds / 20)
            tally.memory_mib.append(memory())

    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=None)) as client:
        watching = asyncio.create_task(watch())
        await asyncio.gather(*(one(number, client) for number in range(clients)))
        watching.cancel()
    return tally


async def crowd(urls: dict[str, str]) -> Counter[str]:
    """What 500 requests that come at once are told by an upstream that takes half a second."""
    told: Counter[str] = Counter()

    async def one(number: int, client: httpx.AsyncClient) -> None:
        marker = f"crowd-{number}"
        try:
            text = await ask(client, "corrected", urls, marker, delay=0.5)
            told["answered" if text == expected("corrected", marker) else "wrong"] += 1
        except httpx.HTTPStatusError as error:
            told["429" if error.response.status_code == 429 and "retry-after" in error.response.headers else
                 f"status {error.response.status_code}"] += 1  # fmt: skip
        except httpx.TimeoutException:
            told["hung"] += 1
        except httpx.HTTPError as error:
            told[type(error).__name__] += 1

    async with httpx.AsyncClient(timeout=CROWD_SECONDS, limits=httpx.Limits(max_connections=None)) as client:
        await asyncio.gather(*(one(number, client) for number in range(CROWD)))
    return told


@contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, *arguments])
    try:
        yield child
    finally:
        child.terminate()
        child.wait()


def wait_for(port: int) -> None:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"nothing listens on port {port}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def resident_mib(pid: int) -> float:
    with open(f"/proc/{pid}/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.75, help="length of the soak; 10 for the full one")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--pause", type=float, default=0.5, help="mean seconds between a client's requests")
    parser.add_argument("--be-upstream", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.be_upstream:
        asyncio.run(serve_upstream(options.be_upstream))
        return
    ports = free_port(), free_port()
    urls = {"upstream": f"http://127.0.0.1:{ports[0]}/v1", "server": f"http://127.0.0.1:{ports[1]}/v1"}
    aligner = ["--aligner", f"{urls['upstream']}#aligner", "--template", "chat@1"]
    call = ["-c", SERVER, "serve", "--upstream", urls["upstream"], *aligner, "--port", str(ports[1])]
    with process(__file__, "--be-upstream", str(ports[0])), process(*call) as server:
        for port in ports:
            wait_for(port)
        tally = asyncio.run(soak(urls, options.clients, 60 * options.minutes, options.pause,
                                 lambda: resident_mib(server.pid)))  # fmt: skip
        told = asyncio.run(crowd(urls))
        alive = is_alive(urls["server"])
    found = faults(tally, told, alive)
    report(tally, told, alive, found)
    sys.exit(1 if found else 0)


def is_alive(url: str) -> bool:
    try:
        return httpx.get(url.removesuffix("/v1") + "/health", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def faults(tally: Tally, told: Counter[str], alive: bool) -> list[str]:
    """Answers that were wrong or lost, in the soak or in the crowd, and a server that is gone."""
    crowded = [f"{amount} of {CROWD} at once: {what}" for what, amount in told.items() if what not in WELL]
    return [*tally.wrong, *crowded, *([] if alive else ["the server no longer answers"])]


def report(tally: Tally, told: Counter[str], alive: bool, found: list[str]) -> None:
    print(f"{'way':<12}{'requests':>9}{'median ms':>11}{'p99 ms':>9}")
    medians = {}
    for way, values in tally.latencies.items():
        medians[way] = statistics.median(values)
        print(f"{way:<12}{len(values):>9,}{medians[way]:>11.2f}{statistics.quantiles(values, n=100)[-1]:>9.2f}")
    overhead = medians["off"] - medians["direct"]
    quarter = max(1, len(tally.memory_mib) // 4)
    begin, end = statistics.mean(tally.memory_mib[quarter : 2 * quarter]), statistics.mean(tally.memory_mib[-quarter:])
    print(f"overhead without correction {overhead:.2f} ms at the median (bar {BAR_MS:g})")
    print(f"memory {begin:.1f} MiB in the second quarter, {end:.1f} MiB in the last")
    print(f"wrong or lost: {len(found)}", *found[:SHOWN], sep="\n  ")
    print(f"{CROWD} at once: {dict(told)}")
    result = {
        "requests": sum(map(len, tally.latencies.values())),
        "wrong": len(tally.wrong),
        "overhead_ms": round(overhead, 3),
        "crowd": dict(told),
        "alive": alive,
        "ratio_overhead_of_bar": round(overhead / BAR_MS, 4),
        "ratio_memory_end_to_begin": round(end / begin, 4),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
