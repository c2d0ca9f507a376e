"""What each round of IDA did to its model beyond mean scores: where information or caution is lost, who is fooled.

Every monitor is paired by question and told with its interval where it has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligner_core.edits import words
from aligner_core.files import read_json, read_jsonl
from aligner_core.refusals import only_looks_unsafe
from aligner_core.statistics import mean
from analysis.comparisons import compare, outcomes_of, run_bootstrap
from analysis.results import NOUNS
from analysis.run_data import AXES, RunData, by_training_scorer
from analysis.systems import letters


def monitors(run: RunData) -> list[dict[str, Any]]:
    """One entry per round's model, the upstream first."""
    names = letters(run.systems)
    harmless = _only_look_unsafe(run)
    fooled = by_training_scorer(run)
    found = []
    for number, model in enumerate(names[::2]):
        corrected = names[2 * number + 1]
        entry: dict[str, Any] = {"round": number, "model": model, "corrected": corrected}
        interval = run_bootstrap(run)
        for axis in AXES:
            entry[axis] = asdict(interval(mean, run.matrix(model, axis)))
        refused = run.matrix(model, "refusal").astype(float)
        entry["refusals"] = asdict(interval(mean, refused))
        entry["needless_refusals"] = asdict(interval(mean, refused[:, harmless])) if harmless.any() else None
        texts = run.rows(model)["text"].tolist()
        entry["mean_words"] = float(run.rows(model)["words"].mean())
        entry["distinct"] = {str(size): distinct(texts, size) for size in (1, 2)}
        entry["copy_rate"] = float((run.matrix(model, "text") == run.matrix(corrected, "text")).mean())
        entry["scorers"] = [two_scorers(run, fooled, model, axis) for axis in AXES] if fooled and number else []
        found.append(entry)
    return found


def distinct(texts: Sequence[str], size: int) -> float:
    """Distinct-n (Li et al. 2016): different runs of `size` words over all such runs; 0 where there is none."""
    runs = [
        tuple(spoken[start : start + size]) for spoken in map(words, texts) for start in range(len(spoken) - size + 1)
    ]
    return len(set(runs)) / len(runs) if runs else 0.0


def two_scorers(run: RunData, training: RunData, model: str, axis: str) -> dict[str, Any]:
    """A model against the upstream by the training-time scorer and by the held-out one.

    `disagreement` is the share of answers of which one says better and the other worse, among those on which both have
    an opinion. Where only the scorer that training could see finds a gain, the model may have learnt to please it.
    """
    upstream = letters(run.systems)[0]
    ours, theirs = (outcomes_of(each, model, upstream, axis) for each in (run, training))
    opinions = (ours != 0) & (theirs != 0)
    omegas = {name: compare(each, model, upstream, axis) for name, each in (("held_out", run), ("training", training))}
    return {
        "axis": axis,
        **{name: {"value": row["omega"], "low": row["low"], "high": row["high"]} for name, row in omegas.items()},
        "disagreement": float((ours != theirs)[opinions].mean()) if opinions.any() else None,
    }


def warnings(found: Sequence[dict[str, Any]]) -> list[str]:
    """What a reader should not overlook, in words; nothing that an interval does not support."""
    said = []
    for entry in found:
        for row in entry["scorers"]:
            if row["training"]["low"] > 0 >= row["held_out"]["value"]:
                said.append(
                    f"{entry['model']} gains in {NOUNS[row['axis']]} by the training-time scorer alone: "
                    "it may have learnt to please that one."
                )
        first, now = found[0]["needless_refusals"], entry["needless_refusals"]
        if first and now and now["low"] > first["high"]:
            said.append(
                f"{entry['model']} refuses {100 * now['value']:.0f} % of the questions that only look unsafe, "
                f"{found[0]['model']} {100 * first['value']:.0f} %."
            )
    return said


def stopped(run: RunData) -> list[str]:
    """Why no further round was begun, in a sentence; none where all were run."""
    path = run.folder / "rounds.json"
    told = read_json(path) if path.is_file() else {"stopped": None}
    if told["stopped"] is None:
        return []
    return [f"Stopped after round {told['finished']} of {told['planned']}: {told['stopped']}."]


def _only_look_unsafe(run: RunData) -> NDArray[np.bool_]:
    """By question, in the order of the matrices' columns."""
    path = run.folders["data"] / "evaluation.jsonl"
    named = {row["id"] for row in read_jsonl(path) if only_looks_unsafe(row)} if path.is_file() else set()
    return np.array([name in named for name in run.questions])
