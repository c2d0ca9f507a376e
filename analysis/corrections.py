"""What corrections do to scores and lengths, from files: `python -m analysis.corrections FILE ... [--to FOLDER]`.

Each FILE holds the scores of a Q-A-C file's answers and corrections, as `w2s score QAC --field both` writes them.
Prints a row per file, and draws how scores move, a panel per file, into FOLDER (redistribution.png and .svg).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_core.errors import UserError
from aligner_core.text_tables import text_table

if TYPE_CHECKING:
    import pandas as pd


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.corrections", description=(__doc__ or "").partition(": ")[0]
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="scores by w2s score --field both")
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where the figure goes; default: none is drawn")
    options = parser.parse_args(arguments)
    from analysis.figures.redistribution import redistribution
    from analysis.figures.style import save
    from analysis.frames import scored_files_frame

    try:
        frame = scored_files_frame({path.stem: path for path in options.files})
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(table(frame))
    if options.to:
        options.to.mkdir(parents=True, exist_ok=True)
        print(save(redistribution(frame), options.to / "redistribution"))
    return 0


def movement(rows: pd.DataFrame) -> dict[str, Any]:
    """Of one panel: pairs, identical ones, mean characters, and means of the scores, before and after."""
    import numpy as np

    from aligner_core.statistics import bootstrap, difference
    from analysis.differences import copies_and_lengths
    from analysis.run_data import AXES

    before, after = (rows[rows["state"] == state].sort_values("id") for state in ("before", "after"))
    copies = copies_and_lengths(before["text"].tolist(), after["text"].tolist())
    found: dict[str, Any] = {
        "pairs": copies.pairs,
        "identical": copies.identical,
        "characters": (copies.before, copies.after),
        "safe": tuple(float((part["harmless"] > 0).mean()) for part in (before, after)),
    }
    for axis in AXES:
        values = [np.asarray(part[axis], dtype=float)[None] for part in (after, before)]
        found[axis] = bootstrap(difference, *values)
    return found


def table(frame: pd.DataFrame) -> str:
    """A row per panel, for people; differences are paired, with 95 % intervals."""
    head = ["file", "pairs", "identical", "mean characters", "safe", "helpfulness", "harmlessness"]
    return text_table(head, [_row(str(panel), movement(rows)) for panel, rows in frame.groupby("panel", sort=False)])


def _row(panel: str, found: Mapping[str, Any]) -> list[str]:
    (short, long), (few, many) = found["characters"], found["safe"]
    changes = [
        f"{found[axis].value:+.2f} [{found[axis].low:+.2f}, {found[axis].high:+.2f}]"
        for axis in ("helpful", "harmless")
    ]
    pairs = [panel, f"{found['pairs']:,}", f"{found['identical']:,}"]
    return [*pairs, f"{short:.0f} → {long:.0f}", f"{few:.0%} → {many:.0%}", *changes]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
