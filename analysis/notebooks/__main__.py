"""Render all notebooks to HTML: `python -m analysis.notebooks [RUN]` writes RUN/notebooks/*.html.

Without a run the examples that come with the project are shown, in runs/notebooks/.
"""

from __future__ import annotations

import sys
from pathlib import Path

from aligner_core.errors import UserError
from analysis.notebooks import paths, render
from analysis.run_data import load_run


def main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        print("usage: python -m analysis.notebooks [RUN]", file=sys.stderr)
        return 2
    run = Path(arguments[0]) if arguments else None
    try:
        if run:
            load_run(run)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    folder = (run or Path("runs")) / "notebooks"
    for path in paths():
        print(render(path, folder, run), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
