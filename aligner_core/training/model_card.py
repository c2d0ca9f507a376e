"""The README of a trained model: from what it was made, how, and how it did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SHOWN = ("examples", "pairs", "supervised_tokens", "steps", "loss_first", "loss_last", "held_out_loss", "best_step",
         "accuracy_last", "margin_last", "answers_truncated", "dropped_identical", "dropped_near_copies",
         "dropped_over_long")  # fmt: skip


def model_card(
    title: str,
    base: str,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    versions: Mapping[str, str],
    revision: str | None,
) -> str:
    """Markdown with the front matter that model hubs read.

    Args:
        settings: of the stage: template, warm-up, training.
        facts: what the training noted; lists are shown by their length.
        revision: of the source tree that trained it.
    """
    front = ["---", f"base_model: {base}", "library_name: transformers", "tags: [w2s, aligner]", "---", ""]
    told = {name: facts[name] for name in SHOWN if name in facts}
    shown = {name: len(value) if isinstance(value, list) else value for name, value in told.items()}
    made_with = {**versions, "source revision": revision or "unknown"}
    lines = [*front, f"# {title}"]
    for heading, values in {"Settings": settings, "How it went": shown, "Made with": made_with}.items():
        lines += ["", f"## {heading}", "", *_listed(values)]
    return "\n".join(lines) + "\n"


def _listed(values: Mapping[str, Any], depth: int = 0) -> Sequence[str]:
    lines: list[str] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            lines += [f"{'  ' * depth}* {name}:", *_listed(value, depth + 1)]
        else:
            lines.append(f"{'  ' * depth}* {name}: {value}")
    return lines
