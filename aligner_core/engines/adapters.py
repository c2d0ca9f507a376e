"""Models that are a LoRA adapter: a folder, or hub id, with `adapter_config.json` in the place of weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_core.files import read_json
from aligner_core.stage_context import ModelLocation

CONFIGURATION = "adapter_config.json"


@dataclass(frozen=True)
class Adapter:
    """What it was trained on, and its rank."""

    base: str
    rank: int


def adapter_of(model: ModelLocation) -> Adapter | None:
    """The adapter that a model is; None where it has weights of its own."""
    path: str | Path | None = Path(model.folder) / CONFIGURATION
    if not Path(model.folder).is_dir():
        from transformers.utils.hub import cached_file

        path = cached_file(model.folder, CONFIGURATION, revision=model.revision or "main",
                           _raise_exceptions_for_missing_entries=False)  # fmt: skip
    if path is None or not Path(path).is_file():
        return None
    content = read_json(Path(path))
    return Adapter(content["base_model_name_or_path"], content["r"])


def merge_adapter(model: Any) -> None:
    """Add an adapter that transformers has loaded to the weights beneath it, so that it costs nothing."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BaseTunerLayer):
                child.merge()
                setattr(module, name, child.get_base_layer())
