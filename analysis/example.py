r"""The example runs that come with the project, and how they are made: `python -m analysis.example RUN`.

Takes from a finished run what figures, reports and notebooks read (recipe, manifests, metrics, scores with the texts)
and puts it into analysis/example_runs/NAME, in place of what was there. Models and intermediate files stay behind. The
shipped ones were made like this, from fewer records and with shorter answers than the recipes have:

    w2s run quickstart --set 'data.limits={corrections: 80, weak_labels: 60, evaluation: 60}' \
        --set generation.max_new_tokens=80 && python -m analysis.example runs/quickstart
    ida run ida_quickstart --set 'data.limits={corrections: 80, weak_labels: 40, evaluation: 40}' \
        --set generation.max_new_tokens=64 && python -m analysis.example runs/ida_quickstart
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from aligner_core.errors import UserError

FOLDER = Path(__file__).parent / "example_runs"
QUICKSTART, IDA = FOLDER / "quickstart", FOLDER / "ida_quickstart"
OF_THE_RUN = ("run.json", "recipe.json", "profile.json", "rounds.json")
OF_A_STAGE = ("manifest.json", "metrics.jsonl", "scores.jsonl", "evaluation.jsonl", "iterations.jsonl")


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m analysis.example RUN", file=sys.stderr)
        return 2
    try:
        target = extract(Path(arguments[0]), FOLDER)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size / 1e6:.2f} MB")
    return 0


def extract(run: Path, folder: Path) -> Path:
    """Copy what analyses read of a finished run into `folder`/NAME, replacing it; returns that folder.

    Raises:
        UserError: if the run is not there or not finished.
    """
    from analysis.run_data import load_run

    loaded = load_run(run)
    target = folder / loaded.name
    shutil.rmtree(target, ignore_errors=True)
    for source in [run / name for name in OF_THE_RUN] + [
        stage / name for stage in loaded.folders.values() for name in OF_A_STAGE
    ]:
        if source.is_file() and source.stat().st_size:  # most stages log no metrics
            copy = target / source.relative_to(run)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    return target


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
