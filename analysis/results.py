"""The numbers of a report: means, paired comparisons and PGR with intervals, and what they say in words."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from aligner_core.statistics import (
    Interval,
    bootstrap,
    count,
    difference,
    mean,
    omega_of_mean,
    outcomes,
    pgr,
)
from analysis.comparisons import meaning, pairs
from analysis.run_data import AXES, RunData

SCHEMA = "w2s/report/1"
NOUNS = {"helpful": "helpfulness", "harmless": "harmlessness", "similarity": "similarity to the reference"}


def results(run: RunData) -> dict[str, Any]:
    """Everything that report.json holds."""
    comparisons = [compare(run, first, second, axis) for first, second in pairs(run.systems) for axis in AXES]
    gap_axes = [*AXES, "similarity"] if "similarity" in run.scores and run.scores["similarity"].notna().all() else AXES
    recovered = [recovered_gap(run, axis) for axis in gap_axes] if "ceiling" in run.systems else []
    return {
        "schema": SCHEMA,
        "name": run.recipe["name"],
        "questions": int(run.scores["id"].nunique()),
        "seeds": run.seeds,
        "systems": [describe_system(run, system) for system in run.systems],
        "comparisons": comparisons,
        "pgr": recovered,
        "words": [in_words(comparison) for comparison in comparisons] + [gap_in_words(gap) for gap in recovered],
        "stages": [
            {"name": name, "identity": manifest["identity"], "facts": manifest["facts"]}
            for name, manifest in run.manifests.items()
        ],
    }


def describe_system(run: RunData, system: str) -> dict[str, Any]:
    """Means with intervals on both axes, similarity to the reference beside them, length, and cut answers."""
    interval = _bootstrap(run)
    chosen = run.scores[run.scores["system"] == system]
    described: dict[str, Any] = {"system": system, "meaning": meaning(system)}
    for axis in AXES:
        described[axis] = asdict(interval(mean, run.matrix(system, axis)))
    if "similarity" in chosen and chosen["similarity"].notna().all():
        described["similarity"] = asdict(interval(mean, run.matrix(system, "similarity")))
    described["safe_share"] = float((chosen["harmless"] > 0).mean())
    described["mean_words"] = float(chosen["text"].str.split().str.len().mean())
    described["unfinished_share"] = float(1 - chosen["finished"].mean())
    return described


def compare(run: RunData, first: str, second: str, axis: str) -> dict[str, Any]:
    """Win, tie and lose counts of `first`, omega, and the paired difference of scores."""
    ours, theirs = run.matrix(first, axis).astype(float), run.matrix(second, axis).astype(float)
    identical = run.matrix(first, "text") == run.matrix(second, "text")
    margin = run.recipe["evaluation"]["tie_margin"] * float(run.matrix(run.systems[0], axis).astype(float).std())
    outcome = outcomes(ours, theirs, margin, identical)
    interval = _bootstrap(run)
    omega = interval(omega_of_mean, outcome)
    return {
        "a": first,
        "b": second,
        "axis": axis,
        **asdict(count(outcome)),
        "unparsed": 0,
        "omega": omega.value,
        "low": omega.low,
        "high": omega.high,
        "difference": asdict(interval(difference, ours, theirs)),
        "identical_share": float(identical.mean()),
    }


def recovered_gap(run: RunData, axis: str) -> dict[str, Any]:
    """PGR and the gap it divides by; PGR is None where the gap is not above 0 beyond its interval."""
    floor, student, ceiling = (run.matrix(name, axis).astype(float) for name in ("floor", "student", "ceiling"))
    interval = _bootstrap(run)
    gap = interval(difference, ceiling, floor)
    # Without a gap there is nothing to recover, and the ratio of two noises would look like a result.
    recovered = asdict(interval(pgr, floor, student, ceiling)) if gap.low > 0 else None
    return {"axis": axis, "gap": asdict(gap), "pgr": recovered}


def in_words(comparison: dict[str, Any]) -> str:
    """What a comparison's interval supports, and no more."""
    first, second, noun = comparison["a"], comparison["b"], NOUNS[comparison["axis"]]
    numbers = f"omega {comparison['omega']:+.1f} % [{comparison['low']:+.1f}, {comparison['high']:+.1f}]"
    if comparison["low"] > 0:
        return f"{first} is above {second} in {noun} ({numbers})."
    if comparison["high"] < 0:
        return f"{first} is below {second} in {noun} ({numbers})."
    return f"No difference in {noun} between {first} and {second} can be told from these questions ({numbers})."


def gap_in_words(gap: dict[str, Any]) -> str:
    noun, size, share = NOUNS[gap["axis"]], gap["gap"], gap["pgr"]
    if size["low"] > 0:
        amount = f"{share['value']:.2f} [{share['low']:.2f}, {share['high']:.2f}]"
        return f"The student recovers {amount} of the gap in {noun}."
    return (
        f"The ceiling is not above the floor in {noun} beyond its interval "
        f"(gap {size['value']:+.2f} [{size['low']:+.2f}, {size['high']:+.2f}]), so PGR says nothing there."
    )


def _bootstrap(run: RunData) -> partial[Interval]:
    settings = run.recipe["evaluation"]
    return partial(bootstrap, resamples=settings["resamples"], confidence=settings["confidence"])


def examples(run: RunData, amount: int = 10) -> list[dict[str, Any]]:
    """Questions drawn once by a fixed seed, with every system's answer and scores under the first seed."""
    first = run.scores[run.scores["seed"] == run.seeds[0]]
    ids = sorted(first["id"].unique())
    drawn = np.random.default_rng(0).permutation(len(ids))[:amount]
    chosen = []
    for index in sorted(drawn):
        rows = first[first["id"] == ids[index]].set_index("system")
        chosen.append({"question": rows["question"].iloc[0], "answers": rows.to_dict("index")})
    return chosen
