"""Bulk generation: sharded, resumable, and the same whether or not it was interrupted.

The rows of a stage are cut into shards once, by length and text, so that the order of a file changes nothing. A step
(one generation, one scoring) goes through the shards; what a shard gives depends on its own rows and the seed alone
and is written atomically. A killed run loses at most one shard, and the resumed output equals the uninterrupted one.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.errors import Problem, UserError
from aligner_core.files import digest, read_jsonl, write_jsonl
from aligner_core.profile import Profile
from aligner_core.stage_context import SHARDS, StageContext

FAILED = "failed.jsonl"
HOPELESS = 8  # where so many rows are asked and all fail, the next ones would too
REASONS = 3
# Results of some rows, given their indices and those of the rows that come next.
RowWork = Callable[[Sequence[int], Sequence[int]], list[dict[str, Any]]]


def shard_rows(profile: Profile, served: bool = False) -> int:
    """How many rows are handed to an engine at once: enough to keep it busy, few enough to lose.

    Args:
        served: whether a model behind an endpoint is asked.
    """
    batch = profile.generation.batch * (8 if profile.generation.engine == "vllm" else 4) * profile.copies
    return max(batch, 4 * profile.endpoints.concurrency) if served else batch


class Bulk:
    """The rows of a stage, and steps over them whose results are kept in `folder` beside its outputs.

    Attributes:
        tokens: generated for these rows, in this process and in those before it.
        prompt_tokens: read for them, as far as servers say so.
        new_tokens, seconds: generated in this process, and how long its engines took for them.
    """

    def __init__(self, stage: StageContext, texts: Sequence[str], size: int, folder: str = SHARDS) -> None:
        """`texts` say what each row is about."""
        self._stage = stage
        self._folder = stage.folder / folder
        order = sorted(range(len(texts)), key=lambda index: (len(texts[index]), texts[index], index))
        self._shards = [order[start : start + size] for start in range(0, len(order), size)]
        self._rows = len(texts)
        self.tokens = 0
        self.prompt_tokens = 0
        self.new_tokens = 0
        self.seconds = 0.0

    def ask(
        self, step: str, engine: Callable[[], Engine], prompts: Sequence[Prompt | None], sampling: Sampling, seed: int
    ) -> list[Completion | None]:
        """One completion per prompt; a row without a prompt is left alone.

        A row that failed comes back with its error, and is asked again by the next call for the same step.

        Args:
            step: names the step's files; one name, one use.
            engine: opens the engine, and is called only if a row is left to ask.
        """
        keys = [None if prompt is None else _prompt_key(prompt) for prompt in prompts]
        prepared: dict[int, list[Prompt]] = {}  # by a shard's first row

        def prepare(running: Engine, rows: Sequence[int]) -> None:
            if rows and rows[0] not in prepared:
                prepared[rows[0]] = [prompt for index in rows if (prompt := prompts[index]) is not None]
                running.prepare(prepared[rows[0]])

        def work(chosen: Sequence[int], following: Sequence[int]) -> list[dict[str, Any]]:
            running = engine()
            self._stage.progress.resume()
            started = time.monotonic()
            prepare(running, chosen)
            prepare(running, following)
            asked = prepared.pop(chosen[0])
            completions = running.generate(asked, sampling, digest_seed(seed, [str(keys[index]) for index in chosen]))
            self.seconds += time.monotonic() - started
            self.new_tokens += sum(item.tokens for item in completions)
            return [_as_row(item) for item in completions]

        found = [None if row is None else _as_completion(row) for row in self.each(step, keys, work)]
        self.tokens += sum(item.tokens for item in found if item)
        self.prompt_tokens += sum(item.prompt_tokens for item in found if item)
        return found

    def each(self, step: str, keys: Sequence[str | None], work: RowWork) -> list[dict[str, Any] | None]:
        """Results of `work` on every row that has a key, kept shard by shard.

        Args:
            keys: what a row's result depends on; kept results with another key are not used.
            work: a result with an `error` is kept, and made again next time.
        """
        folder = self._folder / step
        folder.mkdir(parents=True, exist_ok=True)
        results: list[dict[str, Any] | None] = [None] * self._rows
        todo: list[tuple[Path, list[int], list[int]]] = []  # file, its rows, those of them that are left
        start = 0
        for shard in self._shards:
            rows = [index for index in shard if keys[index] is not None]
            path = folder / f"rows-{start:07d}-{start + len(shard):07d}.jsonl"
            start += len(shard)
            for index, result in _kept(path, rows, keys).items():
                results[index] = result
            if left := [index for index in rows if results[index] is None]:
                todo.append((path, rows, left))
        total = sum(key is not None for key in keys)
        done = total - sum(len(left) for _, _, left in todo)
        self._stage.progress.begin(step, total, "rows", done)
        for number, (path, rows, left) in enumerate(todo):
            made = work(left, todo[number + 1][2] if number + 1 < len(todo) else [])
            for index, result in zip(left, made, strict=True):
                results[index] = result
            write_jsonl(path, ({"row": index, "key": keys[index], **(results[index] or {})} for index in rows))
            if len(left) >= HOPELESS and all("error" in row for row in made):
                raise UserError(failures(step, [row["error"] for row in made], self._rows))
            done += len(left)
            self._stage.progress.update(done)
        return results


def write_results(
    stage: StageContext, output: Path, rows: Sequence[dict[str, Any]], errors: Sequence[str | None]
) -> list[dict[str, Any]]:
    """Write the rows that did not fail, in their order, and list those that did in `failed.jsonl`.

    Raises:
        UserError: if a row failed, with how many and the first reasons.
    """
    finished = [row for row, error in zip(rows, errors, strict=True) if error is None]
    failed = [{"id": row["id"], "error": error} for row, error in zip(rows, errors, strict=True) if error is not None]
    write_jsonl(output, finished)
    (stage.folder / FAILED).unlink(missing_ok=True)
    if failed:
        write_jsonl(stage.folder / FAILED, failed)
        raise UserError(failures(str(stage.folder / FAILED), [row["error"] for row in failed], len(rows)))
    stage.facts["rows"] = len(finished)
    return finished


def failures(where: str, errors: Sequence[str], rows: int) -> Problem:
    """How many rows failed, with which kinds of errors, and the first of them in full."""
    kinds = Counter(error.partition(":")[0] for error in errors)
    counted = ", ".join(f"{count} x {kind}" for kind, count in kinds.most_common())
    first = "; ".join(list(dict.fromkeys(errors))[:REASONS])
    fix = "the same command tries them again; what succeeded is kept"
    return Problem(where, f"{len(errors)} of {rows} rows failed ({counted}). {first}", fix)


def generation_facts(bulk: Bulk) -> dict[str, Any]:
    """Token counts and speed, for the manifest."""
    facts: dict[str, Any] = {"generated_tokens": bulk.tokens, "engine_seconds": round(bulk.seconds, 2)}
    facts |= {"prompt_tokens": bulk.prompt_tokens} if bulk.prompt_tokens else {}
    return facts | ({"tokens_per_second": round(bulk.new_tokens / bulk.seconds, 1)} if bulk.new_tokens else {})


def digest_seed(seed: int, keys: Sequence[str]) -> int:
    """The seed of a generation: another one for other rows."""
    return int(digest([seed, *keys])[:8], 16)


def text_key(*texts: str) -> str:
    """What a row's result depends on, in short."""
    return hashlib.sha256("\x1f".join(texts).encode()).hexdigest()[:24]


def _prompt_key(prompt: Prompt) -> str:
    return text_key(*(part for turn in prompt.messages for part in (turn.role, turn.content)))


def _kept(path: Path, rows: Sequence[int], keys: Sequence[str | None]) -> dict[int, dict[str, Any]]:
    """Earlier results of these rows that did not fail."""
    if not path.is_file():
        return {}
    wanted = set(rows)
    kept = {}
    for row in read_jsonl(path):
        index, key = row.pop("row"), row.pop("key")
        if index in wanted and key == keys[index] and "error" not in row:
            kept[index] = row
    return kept


def _as_row(completion: Completion) -> dict[str, Any]:
    row: dict[str, Any] = {"text": completion.text, "tokens": completion.tokens, "finished": completion.finished}
    said = {"error": completion.error, "prompt_tokens": completion.prompt_tokens}
    return row | {name: value for name, value in said.items() if value not in (None, 0)}


def _as_completion(row: dict[str, Any]) -> Completion:
    return Completion(row["text"], row["tokens"], row["finished"], row.get("error"), row.get("prompt_tokens", 0))
