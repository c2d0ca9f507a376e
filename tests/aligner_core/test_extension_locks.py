"""A lock of a killed build is removed; that of a running one is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aligner_core.extension_locks import remove_stale_locks


def test_only_a_lock_that_nobody_holds_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    stale, held = tmp_path / "one" / "lock", tmp_path / "two" / "lock"
    for lock in (stale, held):
        lock.parent.mkdir()
    stale.touch()
    hold = (
        "import sys; from torch.utils.file_baton import FileBaton; baton = FileBaton(sys.argv[1]); "
        "assert baton.try_acquire(); print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold, held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        assert builder.stdout.readline() == "held\n"
        remove_stale_locks()
        assert not stale.exists()
        assert held.exists()
        builder.kill()
    remove_stale_locks()
    assert not held.exists()
