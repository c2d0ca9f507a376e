"""Metrics of a stage: always as JSON Lines beside its outputs, and to Weights & Biases when asked for."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aligner_core.files import write_jsonl


class MetricLog:
    """Appends one JSON object per call; a W&B run mirrors it when `group` is given."""

    def __init__(self, folder: Path, name: str, group: str | None = None) -> None:
        self._path = folder / "metrics.jsonl"
        self._stream = self._path.open("a", encoding="utf-8")
        self._mirror = _start_wandb(folder, name, group) if group else None

    def log(self, step: int, **values: float) -> None:
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        self._stream.flush()
        if self._mirror:
            self._mirror.log(values, step=step)

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`: a resumed training logs it again."""
        self._stream.close()
        rows = [row for row in _whole_rows(self._path) if row["step"] <= step]
        write_jsonl(self._path, rows)
        self._stream = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._stream.close()
        if self._mirror:
            self._mirror.finish()


def _whole_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows up to one that a crash cut short."""
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def _start_wandb(folder: Path, name: str, group: str) -> Any:
    import wandb

    if "WANDB_MODE" not in os.environ and not _online():
        os.environ["WANDB_MODE"] = "offline"
    return wandb.init(project="w2s", group=group, name=name, id=folder.name.removesuffix(".partial"),
                      dir=folder, resume="allow")  # fmt: skip


def _online() -> bool:
    try:
        socket.create_connection(("api.wandb.ai", 443), timeout=2).close()
    except OSError:
        return False
    return True
