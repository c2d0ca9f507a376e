"""The server on a free port of this machine, in a thread."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from aligner_core.configuration import load_profile
from tests.aligner_core.endpoint import Endpoint
from w2s.serving.app import create_app
from w2s.serving.settings import ServeSettings

KEY = "sk-never-to-be-seen-0123456789"


def settings(upstream: Endpoint, corrector: Any = "identity", **changes: Any) -> ServeSettings:
    """A server in front of `upstream`, whose key is in TEST_KEY."""
    host = upstream.url.removeprefix("http://").removesuffix("/v1")
    profile = load_profile("smoke")
    endpoints = profile.endpoints.model_copy(update={"key_variables": {host: "TEST_KEY"}})
    return ServeSettings.model_validate({
        "upstream": upstream.url,
        "corrector": corrector,
        "profile": profile.model_copy(update={"endpoints": endpoints}),
        "generation": {"preset": "greedy", "max_new_tokens": 32},
        "concurrency": 8,
        **changes,
    })  # fmt: skip


def at(endpoint: Endpoint) -> dict[str, Any]:
    """The Aligner that an endpoint plays: its reply is the prompt in capitals."""
    return {"kind": "aligner", "model": f"{endpoint.url}#aligner", "template": "chat@1"}


@contextmanager
def serving(chosen: ServeSettings) -> Iterator[str]:
    """The base URL of a running server."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    config = uvicorn.Config(create_app(chosen), log_level="warning", access_log=False, timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join()


def said(text: str, **more: Any) -> dict[str, Any]:
    """A request with one message."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}
