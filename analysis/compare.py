"""Several runs side by side: `python -m analysis.compare RUN RUN ...` prints Markdown.

What differs between their recipes; every system's mean scores in every run; and, where runs share questions and a
scorer, the differences to the first run's system of the same name, paired by question.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_core.errors import Problem, UserError

if TYPE_CHECKING:
    from aligner_core.statistics import Interval
    from analysis.run_data import RunData


def main(arguments: list[str]) -> int:
    if len(arguments) < 2:
        print("usage: python -m analysis.compare RUN RUN ...", file=sys.stderr)
        return 2
    try:
        print(side_by_side([Path(argument) for argument in arguments]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def side_by_side(folders: Sequence[Path]) -> str:
    """The whole comparison as Markdown.

    Raises:
        UserError: with every folder that holds no finished run.
    """
    runs = dict(zip(labels([folder.resolve().name for folder in folders], folders), _load(folders), strict=True))
    first, *others = runs
    parts = ["## Runs", _overview(runs), "## What differs in the recipes", _recipe_differences(runs)]
    parts += ["## Mean scores", _means(runs)]
    for label in others:
        parts += [f"## {label} minus {first}", _paired(runs[first], runs[label])]
    return "\n\n".join(parts)


def _load(folders: Sequence[Path]) -> list[RunData]:
    from analysis.run_data import load_run

    runs: list[RunData] = []
    problems: list[Problem] = []
    for folder in folders:
        try:
            runs.append(load_run(folder))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return runs


def labels(names: Sequence[str], paths: Sequence[Path]) -> list[str]:
    """What is shown side by side is called by these names, or by its whole paths where names repeat."""
    return list(names) if len(set(names)) == len(names) else [str(path) for path in paths]


def _overview(runs: dict[str, RunData]) -> str:
    rows = [
        (label, len(run.questions), " ".join(map(str, run.seeds)), run.manifests["scorer"]["identity"][:10],
         f"{sum(item['seconds'] for item in run.manifests.values()):,.0f} s")
        for label, run in runs.items()
    ]  # fmt: skip
    return _table(("run", "questions", "seeds", "scorer", "all stages"), rows)


def _recipe_differences(runs: dict[str, RunData]) -> str:
    """Every key whose value is not the same in all runs; a key that a recipe lacks is shown as –."""
    flat = {label: dict(flatten(run.recipe)) for label, run in runs.items()}
    keys = dict.fromkeys(key for values in flat.values() for key in values if key not in ("name", "description"))
    rows = [
        (key, *(str(values.get(key, "–")) for values in flat.values()))
        for key in keys
        if len({str(values.get(key, "–")) for values in flat.values()}) > 1
    ]
    return _table(("key", *runs), rows) if rows else "Nothing but their names."


def flatten(value: Any, prefix: str = "") -> Iterable[tuple[str, Any]]:
    """(key path, value) of all leaves of nested mappings."""
    if not isinstance(value, dict):
        yield prefix.removesuffix("."), value
        return
    for key, item in value.items():
        yield from flatten(item, f"{prefix}{key}.")


def _means(runs: dict[str, RunData]) -> str:
    from aligner_core.statistics import mean
    from analysis.comparisons import run_bootstrap
    from analysis.results import NOUNS
    from analysis.run_data import AXES

    systems = list(dict.fromkeys(system for run in runs.values() for system in run.systems))
    rows = [
        (system, NOUNS[axis], *(
            _interval(run_bootstrap(run)(mean, run.matrix(system, axis))) if system in run.systems else "–"
            for run in runs.values()
        ))
        for system in systems for axis in AXES
    ]  # fmt: skip
    return _table(("system", "axis", *runs), rows)


def _paired(first: RunData, other: RunData) -> str:
    """Paired differences of the systems that both have, on the questions that both answered."""
    from analysis.results import NOUNS
    from analysis.run_data import AXES

    if first.manifests["scorer"]["identity"] != other.manifests["scorer"]["identity"]:
        return "Their scorers differ, so their scores are on different scales: no difference is given."
    shared = sorted(set(first.questions) & set(other.questions))
    if not shared:
        return "They have no question in common, so nothing can be paired."
    rows = [
        (system, NOUNS[axis], *paired_difference(first, other, system, axis, shared))
        for system in first.systems if system in other.systems for axis in AXES
    ]  # fmt: skip
    return f"Paired by question, on {len(shared):,} questions.\n\n" + _table(
        ("system", "axis", "difference", "p"), rows
    )


def paired_difference(
    first: RunData, other: RunData, system: str, axis: str, questions: Sequence[str]
) -> tuple[str, str]:
    """The difference (other - first) of a system's mean score over the seeds, with interval, and its p."""
    from aligner_core.statistics import difference, permutation_test
    from analysis.comparisons import run_bootstrap
    from analysis.results import short_p

    means = [
        run.rows(system).groupby("id")[axis].mean().loc[list(questions)].to_numpy()[None] for run in (other, first)
    ]  # fmt: skip
    return _interval(run_bootstrap(first)(difference, *means)), short_p(permutation_test(*means))


def _interval(item: Interval) -> str:
    return f"{item.value:+.2f} [{item.low:+.2f}, {item.high:+.2f}]"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table with columns as wide as their widest cell."""
    cells = [[str(cell) for cell in row] for row in (heads, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
