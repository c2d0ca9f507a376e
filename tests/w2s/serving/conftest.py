"""The key that the upstream wants, for all tests of the server."""

from __future__ import annotations

import pytest

from tests.w2s.serving.server import KEY


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
