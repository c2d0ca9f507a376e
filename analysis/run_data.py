"""A finished run, as tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, read_jsonl

AXES = ("helpful", "harmless")


@dataclass(frozen=True)
class RunData:
    """`scores` has one row per seed, system and question; `manifests` maps a stage's name to its manifest."""

    folder: Path
    recipe: dict[str, Any]
    manifests: dict[str, dict[str, Any]]
    scores: pd.DataFrame

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(self.scores["system"]))

    @property
    def seeds(self) -> list[int]:
        return list(self.recipe["seeds"])

    def matrix(self, system: str, column: str) -> NDArray[Any]:
        """(seeds, questions) values of one column, questions in one common order."""
        chosen = self.scores[self.scores["system"] == system]
        table = chosen.pivot(index="seed", columns="id", values=column)
        return np.asarray(table.sort_index(axis=0).sort_index(axis=1).to_numpy())


def load_run(folder: Path) -> RunData:
    """Read a run whose stages are all finished.

    Raises:
        UserError: if there is no run, or a stage is missing.
    """
    if not (folder / "run.json").is_file():
        raise UserError(Problem(str(folder), "holds no run", "name a folder under runs/"))
    entries = read_json(folder / "run.json")["stages"]
    missing = [entry["name"] for entry in entries if not (folder / entry["folder"] / "manifest.json").is_file()]
    if missing:
        raise UserError(Problem(str(folder), f"is not finished: {', '.join(missing)}", "run its recipe again"))
    manifests = {entry["name"]: read_json(folder / entry["folder"] / "manifest.json") for entry in entries}
    frames = [
        pd.DataFrame(read_jsonl(folder / entry["folder"] / "scores.jsonl")).assign(
            seed=int(entry["name"].removeprefix("scores-s"))
        )
        for entry in entries
        if entry["name"].startswith("scores-s")
    ]
    return RunData(folder, read_json(folder / "recipe.json"), manifests, pd.concat(frames, ignore_index=True))
