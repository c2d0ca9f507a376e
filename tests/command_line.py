"""The command lines as a user calls them: in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def w2s(
    *arguments: str | Path, environment: dict[str, str] | None = None, text: str | None = None
) -> subprocess.CompletedProcess[str]:
    return _call("w2s.cli", arguments, environment, text)


def ida(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return _call("ida.cli", arguments, None, None)


def command(module: str, *arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", f"from {module} import main; main()", *map(str, arguments)]


def _call(
    module: str, arguments: tuple[str | Path, ...], environment: dict[str, str] | None, text: str | None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(module, *arguments),
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
        input=text,
    )
