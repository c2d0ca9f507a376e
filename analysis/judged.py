"""What judges said of a run's systems: the comparisons that `w2s judge` left in the run's folder `judged/`.

A comparison names the stages that hold the answers it is of. After the run was made anew with other settings its
verdicts are of answers that are no longer there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, read_jsonl

FOLDER = "judged"
LISTS = (".verdicts.jsonl", ".unparsed.jsonl")
KEYS = {"a", "b", "axis", "win", "tie", "lose", "unparsed", "omega", "low", "high"}


def files(run: Path) -> list[Path]:
    """The comparisons of a run, without the lists of verdicts and of replies beside them."""
    return [path for path in sorted((run / FOLDER).glob("*.jsonl")) if not path.name.endswith(LISTS)]


def judged_comparisons(run: Path) -> tuple[list[dict[str, Any]], int]:
    """All comparisons of the run's present answers, each with the name of its file; and how many are of others.

    Raises:
        UserError: with every file that holds something else.
    """
    present = {stage["identity"] for stage in read_json(run / "run.json")["stages"]}
    rows, outdated, problems = [], 0, []
    for path in files(run):
        found = read_jsonl(path)
        if not all(row.keys() >= KEYS for row in found):
            problems.append(Problem(str(path), "is no comparison", "put outputs of w2s judge there, or remove it"))
            continue
        # A row of an older version does not tell what it is of.
        kept = [row for row in found if "stages" in row and set(row["stages"]) <= present]
        rows += [{**row, "file": path.name} for row in kept]
        outdated += len(found) - len(kept)
    if problems:
        raise UserError(problems)
    return rows, outdated


def outdated_in_words(amount: int) -> list[str]:
    """What the report says of comparisons that it leaves out; nothing where there are none."""
    what = "Comparisons by a judge that are of answers this run no longer has, and are left out"
    return [f"{what}: {amount}. Run w2s judge again."] if amount else []
