"""Locks that a killed process left in torch's folder of compiled extensions: whoever comes next would wait for ever.

DeepSpeed compiles operators at first use. A builder holds a lock by keeping its file open (torch's FileBaton), so a
lock that no process has open is nobody's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def remove_stale_locks() -> None:
    """Remove the locks that no process of this machine holds (Linux)."""
    locks = {str(path) for path in _folder().rglob("lock")} if Path("/proc/self/fd").is_dir() else set()
    for lock in locks - set(_open_files() if locks else ()):
        Path(lock).unlink(missing_ok=True)


def _folder() -> Path:
    """Where torch puts what it compiles."""
    if chosen := os.environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen).resolve()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (cache / "torch_extensions").resolve()


def _open_files() -> Iterator[str]:
    """What the processes have open, as far as this user may see: the folder is this user's."""
    for descriptors in Path("/proc").glob("[0-9]*/fd"):
        try:
            yield from (os.readlink(entry) for entry in descriptors.iterdir())
        except OSError:
            continue  # the process ended, or is another user's
