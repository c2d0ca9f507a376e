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

from aligner_core.errors import Problem, UserError
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
    from analysis.compare import labels
    from analysis.frames import scored_files_frame

    names = labels([path.stem for path in options.files], options.files)
    try:
        frame = scored_files_frame(dict(zip(names, options.files, strict=True)))
        print(table(frame))
        if options.to:
            print(draw(frame, options.to))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def draw(frame: pd.DataFrame, folder: Path) -> Path:
    """The figure in a folder; returns its PNG.

    Raises:
        UserError: if a file has refusals alone.
    """
    from analysis.figures.redistribution import redistribution
    from analysis.figures.style import save
    from analysis.run_data import AXES

    if bare := [str(panel) for panel, rows in frame.groupby("panel") if _axes(rows) != list(AXES)]:
        fix = "score the file with a --scorer that tells both, or two"
        raise UserError(
            Problem(", ".join(bare), "lacks helpfulness or harmlessness, so there is no plane to draw", fix)
        )
    folder.mkdir(parents=True, exist_ok=True)
    return save(redistribution(frame), folder / "redistribution")


def movement(rows: pd.DataFrame) -> dict[str, Any]:
    """Of one panel: pairs and identical ones, mean characters before and after, and what scores there are.

    `safe` and `refusals` are shares before and after; helpful and harmless are paired differences with intervals.
    """
    import numpy as np

    from aligner_core.refusals import is_refusal
    from aligner_core.statistics import bootstrap, difference
    from analysis.differences import copies_and_lengths

    parts = [rows[rows["state"] == state].sort_values("id") for state in ("before", "after")]
    copies = copies_and_lengths(*(part["text"].tolist() for part in parts))
    found: dict[str, Any] = {
        "pairs": copies.pairs,
        "identical": copies.identical,
        "characters": (copies.before, copies.after),
        "refusals": tuple(float(part["text"].map(is_refusal).mean()) for part in parts),
    }
    for axis in _axes(rows):
        before, after = (np.asarray(part[axis], dtype=float)[None] for part in parts)
        found[axis] = bootstrap(difference, after, before)
        if axis == "harmless":
            found["safe"] = (float((before > 0).mean()), float((after > 0).mean()))
    return found


def _axes(rows: pd.DataFrame) -> list[str]:
    from analysis.run_data import AXES

    return [axis for axis in AXES if axis in rows and rows[axis].notna().all()]


def table(frame: pd.DataFrame) -> str:
    """A row per panel, for people; differences of scores are paired, with 95 % intervals."""
    moved = {str(panel): movement(rows) for panel, rows in frame.groupby("panel", sort=False)}
    head = ["file", "pairs", "identical", "mean characters", "refusals", "safe", "helpfulness", "harmlessness"]
    return text_table(head, [_row(panel, found) for panel, found in moved.items()])


def _row(panel: str, found: Mapping[str, Any]) -> list[str]:
    shares = [f"{found[key][0]:.1%} → {found[key][1]:.1%}" if key in found else "–" for key in ("refusals", "safe")]
    changes = [
        f"{found[axis].value:+.2f} [{found[axis].low:+.2f}, {found[axis].high:+.2f}]" if axis in found else "–"
        for axis in ("helpful", "harmless")
    ]
    characters = f"{found['characters'][0]:.0f} → {found['characters'][1]:.0f}"
    return [panel, f"{found['pairs']:,}", f"{found['identical']:,}", characters, *shares, *changes]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
