"""What a PPO training leaves on disk while it runs: a row per iteration, some rollouts, and checkpoints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.ppo.learners import Learner
from aligner_core.ppo.rollouts import Rollout
from aligner_core.stage_context import CHECKPOINTS, StageContext
from aligner_core.training.checkpoints import keep_only, newest
from aligner_core.training.processes import from_main, rank

ITERATIONS, ROLLOUTS = "iterations.jsonl", "rollouts.jsonl"
SHOWN = 4  # rollouts of an iteration that are kept to be read


class Records:
    """All processes make the same calls; the main process writes."""

    def __init__(self, stage: StageContext) -> None:
        self._stage = stage
        self._checkpoints = stage.folder / CHECKPOINTS

    def add(self, row: dict[str, float], rollouts: Sequence[Rollout], seconds: float) -> None:
        """Metrics of an iteration, and a few of its rollouts."""
        if rank() != 0:
            return
        self._append(ITERATIONS, [row])
        self._append(
            ROLLOUTS,
            [
                {
                    "iteration": row["iteration"], "id": item.asked.question.id,
                    "question": item.asked.question.question,
                    "answer": item.text, "finished": item.finished, "reward": item.reward, "cost": item.cost,
                }
                for item in rollouts[:SHOWN]
            ],
        )  # fmt: skip
        metrics = {name: value for name, value in row.items() if name != "iteration"}
        self._stage.metrics.log(int(row["iteration"]) + 1, **metrics, seconds=round(seconds, 2))

    def save(self, iterations: int, policy: Learner, value: Learner) -> None:
        """The state after so many iterations; the one before is deleted when this one is whole."""
        folder = self._checkpoints / f"iteration-{iterations:06d}"
        policy.save(folder / "policy")
        value.save(folder / "value")
        keep_only(folder, iterations, self._stage.profile)

    def resume(self, policy: Learner, value: Learner) -> list[dict[str, float]]:
        """Load the newest whole checkpoint, if there is one; returns the rows of the iterations before it.

        Raises:
            UserError: if other processes wrote it than would read it.
        """
        folder, finished = newest(self._checkpoints, self._stage.profile) or (None, 0)
        if folder:
            policy.load(folder / "policy")
            value.load(folder / "value")
        rows: list[dict[str, float]] = []
        if rank() == 0:
            for name in (ITERATIONS, ROLLOUTS):
                self._rewind(name, finished)
            self._stage.metrics.rewind(finished)
            rows = read_jsonl(self._stage.folder / ITERATIONS)
        return list(from_main(rows))

    def _append(self, name: str, rows: Sequence[dict[str, Any]]) -> None:
        with (self._stage.folder / name).open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _rewind(self, name: str, finished: int) -> None:
        """Forget what was written after so many iterations: it will be written again."""
        path = self._stage.folder / name
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # cut short by the kill
                break
            if row["iteration"] < finished:
                kept.append(row)
        write_jsonl(path, kept)
