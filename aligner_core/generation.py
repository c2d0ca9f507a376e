"""Bulk generation: sharded, resumable, and the same whether or not it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.files import digest, read_jsonl, write_jsonl
from aligner_core.stage_context import StageContext

Row = TypeVar("Row")


def generate_rows(
    stage: StageContext,
    engine: Engine,
    rows: Sequence[Row],
    prompt: Callable[[Row], Prompt],
    record: Callable[[Row, Completion], dict[str, Any]],
    sampling: Sampling,
    seed: int,
    output: Path,
) -> list[dict[str, Any]]:
    """Generate for every row and write `output` (JSON Lines, in the rows' order).

    Rows are sorted by prompt length and cut into shards; each shard depends on its own rows and seed alone and is
    written atomically, so a killed run loses at most one shard, and the resumed output equals the uninterrupted one.

    Args:
        prompt: the conversation to continue.
        record: (row, completion) -> the output row.
    """
    prompts = [prompt(row) for row in rows]
    lengths = [sum(len(turn.content) for turn in item.messages) for item in prompts]
    order = sorted(range(len(rows)), key=lambda index: (lengths[index], index))
    shards = stage.folder / "shards"
    shards.mkdir(exist_ok=True)
    size = stage.profile.generation.batch * (8 if stage.profile.generation.engine == "vllm" else 1)
    done: dict[int, dict[str, Any]] = {}
    stage.progress.begin("generating", len(rows), "rows")
    for start in range(0, len(rows), size):
        chosen = order[start : start + size]
        path = shards / f"rows-{start:07d}-{start + len(chosen):07d}.jsonl"
        if not path.is_file():
            completions = engine.generate([prompts[i] for i in chosen], sampling, shard_seed(seed, start))
            written = [
                {**record(rows[index], item), "generated_tokens": item.tokens}
                for index, item in zip(chosen, completions, strict=True)
            ]
            write_jsonl(path, written)
        done.update(zip(chosen, read_jsonl(path), strict=True))
        stage.progress.update(len(done))
    ordered = [done[index] for index in range(len(rows))]
    write_jsonl(output, ordered)
    stage.facts |= {"rows": len(ordered), "generated_tokens": sum(row["generated_tokens"] for row in ordered)}
    return ordered


def shard_seed(seed: int, start: int) -> int:
    return int(digest([seed, start])[:8], 16)
