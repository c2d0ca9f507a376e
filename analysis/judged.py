"""What judges said of a run's systems: the comparisons that `w2s judge` left in the run's folder `judged/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_jsonl

FOLDER = "judged"
LISTS = (".verdicts.jsonl", ".unparsed.jsonl")
KEYS = {"a", "b", "axis", "win", "tie", "lose", "unparsed", "omega", "low", "high"}


def files(run: Path) -> list[Path]:
    """The comparisons of a run, without the lists of verdicts and of replies beside them."""
    return [path for path in sorted((run / FOLDER).glob("*.jsonl")) if not path.name.endswith(LISTS)]


def judged_comparisons(run: Path) -> list[dict[str, Any]]:
    """All rows of all comparisons, each with the name of its file.

    Raises:
        UserError: with every file that holds something else.
    """
    rows, problems = [], []
    for path in files(run):
        found = read_jsonl(path)
        if all(row.keys() >= KEYS for row in found):
            rows += [{**row, "file": path.name} for row in found]
        else:
            problems.append(Problem(str(path), "is no comparison", "put outputs of w2s judge there, or remove it"))
    if problems:
        raise UserError(problems)
    return rows
