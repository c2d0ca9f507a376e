"""A finished run, as tables."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, read_jsonl
from aligner_core.refusals import is_refusal

AXES = ("helpful", "harmless")
ITERATIONS = "iterations.jsonl"
BY_TRAINING_SCORER = re.compile(r"round\d+-scores-by-w-s(\d+)")
SCORES = re.compile(r"scores-(?:.*-)?s(\d+)")  # a main table has such a stage for each of its cells


@dataclass(frozen=True)
class RunData:
    """`manifests` maps a stage's name to its manifest, `folders` to its folder.

    `scores` has one row per system, seed and question, in this order, so that a system's columns are matrices; a main
    table's questions are those of its first evaluation set, then those of the second, as its stages stand;
    `words` is the text's length, `refusal` whether it declines.
    """

    folder: Path
    recipe: dict[str, Any]
    manifests: dict[str, dict[str, Any]]
    folders: dict[str, Path]
    systems: list[str]
    scores: pd.DataFrame

    @property
    def name(self) -> str:
        return str(self.recipe["name"])

    @property
    def seeds(self) -> list[int]:
        return sorted(self.recipe["seeds"])

    @property
    def questions(self) -> list[str]:
        """Ids of the questions, in the order of the matrices' columns."""
        return [str(name) for name in self.matrix(self.systems[0], "id")[0]]

    @property
    def sets(self) -> list[str]:
        """The evaluation sets of a main table, in the recipe's order; else none."""
        return list(dict.fromkeys(self.scores["set"])) if "set" in self.scores else []

    def of_set(self, name: str) -> RunData:
        """The same run on the questions of one set alone."""
        return replace(self, scores=self.scores[self.scores["set"] == name])

    def rows(self, system: str) -> pd.DataFrame:
        """One system's rows, by seed and question."""
        size = len(self.scores) // len(self.systems)
        start = self.systems.index(system) * size
        return self.scores.iloc[start : start + size]

    def matrix(self, system: str, column: str) -> NDArray[Any]:
        """(seeds, questions) values of one column, questions in one common order."""
        return np.asarray(self.rows(system)[column].to_numpy()).reshape(len(self.seeds), -1)


def load_run(folder: Path) -> RunData:
    """Read a run whose stages are all finished.

    Raises:
        UserError: if there is no run, a stage is missing, or the systems did not answer the same questions.
    """
    if not (folder / "run.json").is_file():
        raise UserError(Problem(str(folder), "holds no run", "name a folder under runs/"))
    entries = read_json(folder / "run.json")["stages"]
    missing = [entry["name"] for entry in entries if not (folder / entry["folder"] / "manifest.json").is_file()]
    if missing:
        raise UserError(Problem(str(folder), f"is not finished: {', '.join(missing)}", "run its recipe again"))
    folders = {entry["name"]: folder / entry["folder"] for entry in entries}
    scores = _scores(folder, folders, SCORES)
    manifests = {name: read_json(path / "manifest.json") for name, path in folders.items()}
    systems = list(dict.fromkeys(scores["system"]))
    return RunData(folder, read_json(folder / "recipe.json"), manifests, folders, systems, scores)


def by_training_scorer(run: RunData) -> RunData | None:
    """The same run with the scores of the scorer that its training could see; None if it has none."""
    if not any(BY_TRAINING_SCORER.fullmatch(name) for name in run.folders):
        return None
    return replace(run, scores=_scores(run.folder, run.folders, BY_TRAINING_SCORER))


def _scores(folder: Path, folders: dict[str, Path], stages: re.Pattern[str]) -> pd.DataFrame:
    """The scores of all stages whose name fits, by system, seed, set and question.

    Systems and sets stand in the order of the stages, which is the recipe's.
    """
    frames = [
        pd.DataFrame(read_jsonl(path / "scores.jsonl")).assign(seed=int(found[1]))
        for name, path in folders.items()
        if (found := stages.fullmatch(name))
    ]
    scores = pd.concat(frames, ignore_index=True)
    _check_complete(folder, scores)
    scores = scores.assign(words=scores["text"].str.count(r"\S+"), refusal=scores["text"].map(is_refusal))
    order = [name for name in ("system", "seed", "set", "id") if name in scores]
    return scores.sort_values(order, key=_rank, ignore_index=True)


def _rank(column: pd.Series) -> pd.Series:
    """By which rows are sorted: seeds and ids by what they are, systems and sets by where they first stand."""
    return column if column.name in ("seed", "id") else pd.Series(pd.factorize(column)[0], column.index)


def _check_complete(folder: Path, scores: pd.DataFrame) -> None:
    times = scores.groupby(["id", "system", "seed"]).size()
    table = times.unstack("system", fill_value=0).unstack("seed", fill_value=0)
    wrong = [
        f"{system} under seed {seed} answers {odd.index[0]} {odd.iloc[0]} times"
        + (f" (and {len(odd) - 1:,} more not once)" if len(odd) > 1 else "")
        for (system, seed), column in table.items()
        if len(odd := column[column != 1])
    ]
    if wrong:
        what = "holds scores in which the systems do not answer the same questions, each once: " + "; ".join(wrong)
        fix = "look at the answers that these scores are of, remove the stages that made them, run its recipe again"
        raise UserError(Problem(str(folder), what, fix))


def training_metrics(run: RunData) -> pd.DataFrame:
    """What the trainings logged: one row per stage and optimizer step, with `loss` and whatever else was logged."""
    frames = [
        pd.DataFrame(rows).assign(stage=name)
        for name, path in run.folders.items()
        if (path / "metrics.jsonl").is_file() and (rows := read_jsonl(path / "metrics.jsonl"))
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["stage", "step", "loss"])


def preference_metrics(run: RunData) -> pd.DataFrame:
    """Those of trainings on pairs alone, whose metrics tell how often the preferred text is the likelier one."""
    metrics = training_metrics(run)
    return metrics.dropna(subset="accuracy") if "accuracy" in metrics else metrics.iloc[:0]


def policy_iterations(run: RunData) -> pd.DataFrame:
    """What PPO told of its iterations: one row per stage and iteration."""
    frames = [
        pd.DataFrame(read_jsonl(path / ITERATIONS)).assign(stage=name)
        for name, path in run.folders.items()
        if (path / ITERATIONS).is_file()
    ]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["stage", "iteration"])
