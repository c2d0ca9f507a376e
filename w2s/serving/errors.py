"""Errors in the form that clients of OpenAI's API know."""

from __future__ import annotations

import json
from collections.abc import Mapping

RETRY_AFTER = {"Retry-After": "2"}  # seconds


class ApiError(Exception):
    """An answer with a status other than 200; `body` takes the place of one made from the message."""

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        media_type: str = "application/json",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        error = {"message": message, "type": kind, "param": None, "code": kind}
        self.body = json.dumps({"error": error}).encode() if body is None else body
        self.media_type = media_type

    def event(self) -> bytes:
        """The same inside a stream that has begun, where the status can no longer be changed."""
        try:
            content = json.loads(self.body)
        except ValueError:
            content = None
        if not isinstance(content, dict) or "error" not in content:
            content = {"error": {"message": str(self), "type": "upstream_error", "param": None, "code": self.status}}
        return b"data: " + json.dumps(content).encode() + b"\n\n"
