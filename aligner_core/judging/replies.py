"""Asking a served model once: replies are kept on disk by what was asked, and never asked for again."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.files import digest
from aligner_core.generation import HOPELESS

_TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key TEXT PRIMARY KEY, text TEXT NOT NULL, tokens INTEGER NOT NULL, finished INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL)"""


class Replies:
    """Replies of all models under all settings, in one file that several processes may share.

    A request that failed leaves nothing behind, so that it is asked again.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, timeout=60)
        with self._database:
            self._database.execute(_TABLE)

    def find(self, key: str) -> Completion | None:
        query = "SELECT text, tokens, finished, prompt_tokens FROM replies WHERE key = ?"
        row = self._database.execute(query, (key,)).fetchone()
        return row and Completion(row[0], row[1], bool(row[2]), prompt_tokens=row[3])

    def keep(self, replies: Sequence[tuple[str, Completion]]) -> None:
        """Survives a kill from its return on."""
        rows = [
            (key, reply.text, reply.tokens, reply.finished, reply.prompt_tokens)
            for key, reply in replies
            if reply.error is None
        ]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO replies VALUES (?, ?, ?, ?, ?)", rows)

    def close(self) -> None:
        self._database.close()


def request_key(model: str, prompt: Prompt, sampling: Sampling) -> str:
    """What a reply depends on: the model, every word it is sent, and how it decodes."""
    return digest([model, [[turn.role, turn.content] for turn in prompt.messages], vars(sampling)])


def ask(
    engine: Engine,
    replies: Replies,
    requests: Sequence[tuple[str, Prompt]],
    sampling: Sampling,
    size: int,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Completion]:
    """Ask for what is not kept, `size` requests at a time, each of which is kept as soon as it is answered.

    Args:
        requests: keys and prompts; what has the same key is asked once.

    Returns:
        the new replies by key, those that failed with their error. Where so many fail in a row that the next ones
        would too, the rest is not asked and has an error that says so.
    """
    todo = list(dict(requests).items())
    made: dict[str, Completion] = {}
    for start in range(0, len(todo), size):
        chosen = todo[start : start + size]
        answered = engine.generate([prompt for _, prompt in chosen], sampling, seed=0)
        new = [(key, reply) for (key, _), reply in zip(chosen, answered, strict=True)]
        replies.keep(new)
        made.update(new)
        progress(len(made))
        if len(new) >= HOPELESS and all(reply.error for _, reply in new):
            reason = f"not_asked: all {len(new)} requests before failed ({new[-1][1].error})"
            return made | {key: Completion("", 0, False, error=reason) for key, _ in todo[start + size :]}
    return made
