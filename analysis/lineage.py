"""The picture of a run's lineage: `python -m analysis.lineage FILE` reads what `ida lineage --json` prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FORMS = (".svg", ".png")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or Path(arguments[0]).suffix not in FORMS:
        print(f"a picture of the lineage is a {' or '.join(FORMS)} file", file=sys.stderr)
        return 2
    draw(json.load(sys.stdin), Path(arguments[0]))
    return 0


def draw(lineage: dict[str, Any], path: Path) -> None:
    """Write the picture in the form that the file's name says."""
    from analysis.figures.lineage import lineage as draw_lineage
    from analysis.figures.style import save_as

    save_as(draw_lineage(lineage_frame(lineage)), path)


def lineage_frame(lineage: dict[str, Any]) -> Any:
    """One row per model and thing that it came from: model, relation, origin, finished."""
    import pandas as pd

    from analysis.figures.lineage import RELATIONS

    rows = [
        {"model": model["model"], "relation": relation, "origin": origin, "finished": model["finished"]}
        for model in lineage["models"]
        for relation in RELATIONS
        for origin in model[relation]
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
