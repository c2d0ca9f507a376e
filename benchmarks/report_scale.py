"""How long a report takes, and how much memory, for a run with very many scored rows.

    python benchmarks/report_scale.py            100,000 rows: five systems, 20,000 questions
    python benchmarks/report_scale.py 1000000

The bar is 60 s and 2 GiB at 100,000 rows; `ratio_time` and `ratio_memory` are the bar over what was measured.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from aligner_core.files import write_json, write_jsonl
from analysis.example import QUICKSTART, extract
from analysis.run_data import SCORES, load_run

SECONDS, GIB = 60, 2
WORDS = ("the", "answer", "to", "this", "question", "is", "that", "you", "should", "ask", "someone", "who", "knows")


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = inflate(Path(folder), rows)
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "analysis.report", str(run)], check=True)
        seconds = time.monotonic() - started
        gib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        page = (run / "report.html").stat().st_size / 1e6
    print(f"{rows:,} rows: {seconds:.1f} s (bar {SECONDS}), {gib:.2f} GiB (bar {GIB}), report.html {page:.1f} MB")
    print(json.dumps({"rows": rows, "seconds": round(seconds, 1), "gib": round(gib, 2),
                      "ratio_time": round(SECONDS / seconds, 2), "ratio_memory": round(GIB / gib, 2)}))  # fmt: skip


def inflate(folder: Path, rows: int) -> Path:
    """The shipped example run with made-up scores: `rows` of them, with answers of 40 to 300 words."""
    run = extract(QUICKSTART, folder)
    loaded = load_run(run)
    generator = np.random.default_rng(0)
    questions = rows // len(loaded.systems)
    made = []
    for shift, system in enumerate(loaded.systems):
        lengths = generator.integers(40, 300, questions)
        scores = generator.normal(0.1 * shift, 1.0, (questions, 3))
        made += [
            {"id": f"q{index:07d}", "system": system, "question": f"question {index}", "finished": True,
             "text": " ".join(generator.choice(WORDS, lengths[index])), "scorer": "evaluation",
             "helpful": float(scores[index, 0]), "harmless": float(scores[index, 1]),
             "similarity": float(scores[index, 2])}
            for index in range(questions)
        ]  # fmt: skip
    (scores,) = (stage for name, stage in loaded.folders.items() if SCORES.fullmatch(name))
    write_jsonl(scores / "scores.jsonl", made)
    write_json(run / "recipe.json", {**loaded.recipe, "name": "many_rows"})
    return run


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
