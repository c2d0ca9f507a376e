"""The numbers of a report: means, paired comparisons and PGR with intervals, and what they say in words."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control

from aligner_core.statistics import (
    Interval,
    bootstrap,
    count,
    detectable_omega,
    difference,
    length_controlled_omega,
    mean,
    omega_of_mean,
    outcomes,
    permutation_test,
    pgr,
)
from analysis import published
from analysis.comparisons import LETTERS, PUBLISHED_METHODS, meaning, pairs, redistributions
from analysis.differences import copies_and_lengths, kept_share, word_differences
from analysis.run_data import AXES, RunData

SCHEMA = "w2s/report/1"
NOUNS = {"helpful": "helpfulness", "harmless": "harmlessness", "similarity": "similarity to the reference"}


def results(run: RunData) -> dict[str, Any]:
    """Everything that report.json holds."""
    comparisons = [compare(run, first, second, axis) for first, second in pairs(run.systems) for axis in AXES]
    adjusted = false_discovery_control([comparison["p"] for comparison in comparisons])
    for comparison, value in zip(comparisons, adjusted, strict=True):
        comparison["p_adjusted"] = float(value)
    gap_axes = [*AXES, "similarity"] if _has_similarity(run) else AXES
    recovered = [recovered_gap(run, axis) for axis in gap_axes] if "ceiling" in run.systems else []
    return {
        "schema": SCHEMA,
        "name": run.name,
        "questions": len(run.questions),
        "seeds": run.seeds,
        "systems": [describe_system(run, system) for system in run.systems],
        "comparisons": comparisons,
        "pgr": recovered,
        "corrections": corrections(run),
        "published": [row for pair in pairs(run.systems) for row in published_rows(run, *pair)],
        "words": [in_words(comparison) for comparison in comparisons] + [gap_in_words(gap) for gap in recovered],
        "stages": [
            {"name": name, "identity": manifest["identity"], "facts": manifest["facts"]}
            for name, manifest in run.manifests.items()
        ],
    }


def describe_system(run: RunData, system: str) -> dict[str, Any]:
    """Means with intervals on both axes, similarity to the reference beside them, length, and cut answers."""
    interval = run_bootstrap(run)
    rows = run.rows(system)
    described: dict[str, Any] = {"system": system, "meaning": meaning(system)}
    for axis in [*AXES, "similarity"] if _has_similarity(run) else AXES:
        described[axis] = asdict(interval(mean, run.matrix(system, axis)))
    described["safe_share"] = float((rows["harmless"] > 0).mean())
    described["mean_words"] = float(rows["words"].mean())
    described["unfinished_share"] = float(1 - rows["finished"].mean())
    return described


def compare(run: RunData, first: str, second: str, axis: str) -> dict[str, Any]:
    """Win, tie and lose counts of `first`, omega, and the paired difference of scores."""
    ours, theirs = run.matrix(first, axis), run.matrix(second, axis)
    identical = run.matrix(first, "text") == run.matrix(second, "text")
    outcome = outcomes_of(run, first, second, axis)
    interval, settings = run_bootstrap(run), run.recipe["evaluation"]
    omega = interval(omega_of_mean, outcome)
    lengths = run.matrix(first, "words"), run.matrix(second, "words")
    counts = count(outcome)
    return {
        "a": first,
        "b": second,
        "axis": axis,
        **asdict(counts),
        "unparsed": 0,
        "omega": omega.value,
        "low": omega.low,
        "high": omega.high,
        "p": permutation_test(outcome, np.zeros_like(outcome), settings["resamples"]),
        "length_controlled": asdict(
            length_controlled_omega(outcome, *lengths, settings["resamples"], settings["confidence"])
        ),
        "detectable": detectable_omega(len(run.questions), counts.tie / outcome.size),
        "difference": asdict(interval(difference, ours, theirs)),
        "identical_share": float(identical.mean()),
    }


def outcomes_of(run: RunData, first: str, second: str, axis: str) -> NDArray[np.float64]:
    """(seeds, questions): win, tie or loss of `first`. Ties are by the spread of the upstream's scores."""
    margin = run.recipe["evaluation"]["tie_margin"] * float(run.matrix(run.systems[0], axis).std())
    identical = run.matrix(first, "text") == run.matrix(second, "text")
    return outcomes(run.matrix(first, axis), run.matrix(second, axis), margin, identical)


def recovered_gap(run: RunData, axis: str) -> dict[str, Any]:
    """PGR and the gap it divides by; PGR is None where the gap is not above 0 beyond its interval."""
    floor, student, ceiling = (run.matrix(name, axis) for name in ("floor", "student", "ceiling"))
    interval = run_bootstrap(run)
    gap = interval(difference, ceiling, floor)
    # Without a gap there is nothing to recover, and the ratio of two noises would look like a result.
    recovered = asdict(interval(pgr, floor, student, ceiling)) if gap.low > 0 else None
    return {"axis": axis, "gap": asdict(gap), "pgr": recovered}


def corrections(run: RunData) -> dict[str, Any]:
    """How many of the Aligner's corrections are copies, and how they change the length."""
    before, after = redistributions(run.systems)[0]
    return asdict(copies_and_lengths(run.rows(before)["text"].tolist(), run.rows(after)["text"].tolist()))


def published_rows(run: RunData, first: str, second: str) -> list[dict[str, Any]]:
    """What the source published for the same comparison, by the same method of distillation."""
    letters = LETTERS.get(first, first), LETTERS.get(second, second)
    student = run.recipe["student"] or {}
    method = PUBLISHED_METHODS.get(student.get("method", ""))
    table = published.load("ida_averages")
    rows = table[
        (table["first"] == letters[0])
        & (table["second"] == letters[1])
        & (table["method"].isna() | (table["method"] == method))
    ]
    return [
        {"a": first, "b": second, "model": f"{row.model}, {row.aligner}", "helpful": float(row.helpful),
         "harmless": float(row.harmless), "source": row.source}
        for row in rows.itertuples()
    ]  # fmt: skip


def short_p(p: float) -> str:
    """A p value to three places; below that, only that it is."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def run_bootstrap(run: RunData) -> partial[Interval]:
    """The bootstrap with the resamples and the confidence of a run's recipe."""
    settings = run.recipe["evaluation"]
    return partial(bootstrap, resamples=settings["resamples"], confidence=settings["confidence"])


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


def examples(run: RunData, amount: int = 50) -> list[dict[str, Any]]:
    """Questions drawn once by a fixed seed, under the first seed: what the correction changed, and all answers.

    `pieces` are the word differences from before to after; `others` maps the other systems to their rows.
    """
    before, after = redistributions(run.systems)[0]
    drawn = np.sort(np.random.default_rng(0).permutation(len(run.questions))[:amount])
    # Rows are by seed, then by question: the first seed's come first.
    rows = {system: run.rows(system).iloc[drawn].to_dict("records") for system in run.systems}
    chosen = []
    for number in range(len(drawn)):
        old, new = rows[before][number], rows[after][number]
        pieces = word_differences(old["text"], new["text"])
        chosen.append(
            {
                "question": old["question"],
                "before": old,
                "after": new,
                "pieces": pieces,
                "kept": kept_share(pieces),
                "others": {name: rows[name][number] for name in run.systems if name not in (before, after)},
            }
        )
    return chosen


def _has_similarity(run: RunData) -> bool:
    return "similarity" in run.scores and bool(run.scores["similarity"].notna().all())
