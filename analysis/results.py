"""The numbers of a report: means, paired comparisons and PGR with intervals, and what they say in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.stats import false_discovery_control

from aligner_core.statistics import difference, mean, pgr
from analysis import published
from analysis.comparisons import compare, corrected_pairs, pairs, redistributions, run_bootstrap
from analysis.differences import copies_and_lengths, kept_share, word_differences
from analysis.judged import judged_comparisons, outdated_in_words
from analysis.main_table import main_table
from analysis.run_data import AXES, RunData
from analysis.systems import METHODS, Method, System, students, system_of, systems_of

SCHEMA = "w2s/report/1"
NOUNS = {"helpful": "helpfulness", "harmless": "harmlessness", "similarity": "similarity to the reference"}


def results(run: RunData) -> dict[str, Any]:
    """Everything that report.json holds."""
    comparisons = [compare(run, first, second, axis) for first, second in pairs(run.systems) for axis in AXES]
    adjusted = false_discovery_control([comparison["p"] for comparison in comparisons])
    for comparison, value in zip(comparisons, adjusted, strict=True):
        comparison["p_adjusted"] = float(value)
    recovered = recovered_gaps(run)
    judged, outdated = judged_comparisons(run.folder)
    return {
        "schema": SCHEMA,
        "name": run.name,
        "questions": len(run.questions),
        "seeds": run.seeds,
        "systems": [describe_system(run, system) for system in run.systems],
        "comparisons": comparisons,
        "pgr": recovered,
        "main_table": main_table(run),
        "judged": judged,
        "corrections": corrections(run),
        "published": [row for pair in pairs(run.systems) for row in published_rows(run, *pair)],
        "words": [
            *in_words(comparisons),
            *dict.fromkeys(map(gap_in_words, recovered)),
            *(f"By a judge, {line}" for row in judged for line in row.get("words", ())[:1]),
            *outdated_in_words(outdated),
        ],
        "stages": [
            {"name": name, "identity": manifest["identity"], "facts": manifest["facts"]}
            for name, manifest in run.manifests.items()
        ],
    }


def describe_system(run: RunData, system: str) -> dict[str, Any]:
    """Means with intervals on both axes, similarity to the reference beside them, length, and cut answers."""
    interval = run_bootstrap(run)
    rows = run.rows(system)
    what = systems_of(run.systems, run.recipe)[system]
    described: dict[str, Any] = {"system": system, "part": what.part, "meaning": what.meaning}
    for axis in [*AXES, "similarity"] if _has_similarity(run) else AXES:
        described[axis] = asdict(interval(mean, run.matrix(system, axis)))
    described["safe_share"] = float((rows["harmless"] > 0).mean())
    described["refusal_share"] = float(rows["refusal"].mean())
    if what.reference in run.systems:
        same = run.matrix(system, "text") == run.matrix(what.reference, "text")
        described["copy_share"] = float(same.mean()) if what.part != "upstream" else None
    described["mean_words"] = float(rows["words"].mean())
    described["unfinished_share"] = float(1 - rows["finished"].mean())
    return described


def recovered_gaps(run: RunData) -> list[dict[str, Any]]:
    """PGR of every student on every axis, where there is a gap to recover."""
    if not {"floor", "ceiling"} <= set(run.systems):
        return []
    axes = [*AXES, "similarity"] if _has_similarity(run) else AXES
    return [recovered_gap(run, name, axis) for name in students(run.systems) for axis in axes]


def recovered_gap(run: RunData, name: str, axis: str) -> dict[str, Any]:
    """A student's PGR and the gap it divides by; PGR is None where the gap is not above 0 beyond its interval."""
    floor, student, ceiling = (run.matrix(system, axis) for system in ("floor", name, "ceiling"))
    interval = run_bootstrap(run)
    gap = interval(difference, ceiling, floor)
    # Without a gap there is nothing to recover, and the ratio of two noises would look like a result.
    recovered = asdict(interval(pgr, floor, student, ceiling)) if gap.low > 0 else None
    return {"student": name, "axis": axis, "gap": asdict(gap), "pgr": recovered}


def corrections(run: RunData) -> dict[str, Any]:
    """How many of all the Aligner's corrections are copies, and how they change the length."""
    before, after = (
        [text for system in systems for text in run.rows(system)["text"]]
        for systems in zip(*corrected_pairs(run.systems), strict=True)
    )
    return asdict(copies_and_lengths(before, after))


def published_rows(run: RunData, first: str, second: str) -> list[dict[str, Any]]:
    """What the paper published for the same comparison, by the same method of distillation."""
    ours = system_of(first), system_of(second)
    table = published.load("ida_averages")
    rows = table[
        (table["first"] == ours[0].letter)
        & (table["second"] == ours[1].letter)
        & (table["method"].isna() | (table["method"] == METHODS[_method(run, *ours)]))
    ]
    return [
        {"a": first, "b": second, "model": f"{row.model}, {row.aligner}", "helpful": float(row.helpful),
         "harmless": float(row.harmless), "source": row.source}
        for row in rows.itertuples()
    ]  # fmt: skip


def _method(run: RunData, *compared: System) -> Method:
    """By which the student among these was trained; the recipe's first method for a round's."""
    named = [system.method for system in compared if system.method]
    methods: list[Method] = (run.recipe["student"] or {}).get("methods", ["sft"])
    return named[0] if named else methods[0]


def short_p(p: float) -> str:
    """A p value to three places; below that, only that it is."""
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"


def in_words(comparisons: Sequence[dict[str, Any]]) -> list[str]:
    """What the intervals support, and no more: a sentence for each decided comparison, one for all others of an axis.

    Comparisons with the model that is corrected or taught come first.
    """
    ordered = sorted(comparisons, key=lambda row: row["b"] != system_of(row["a"]).reference)
    sentences, undecided = [], dict[str, list[str]]()
    for row in ordered:
        first, second, noun = row["a"], row["b"], NOUNS[row["axis"]]
        numbers = f"{row['omega']:+.1f} % [{row['low']:+.1f}, {row['high']:+.1f}]"
        if row["low"] > 0 or row["high"] < 0:
            side = "above" if row["low"] > 0 else "below"
            sentences.append(f"{first} is {side} {second} in {noun} (omega {numbers}).")
        else:
            undecided.setdefault(noun, []).append(f"{first} and {second} ({numbers})")
    told = "From these questions, no difference in {} can be told between {}."
    return sentences + [told.format(noun, "; ".join(found)) for noun, found in undecided.items()]


def gap_in_words(gap: dict[str, Any]) -> str:
    noun, size, share = NOUNS[gap["axis"]], gap["gap"], gap["pgr"]
    if size["low"] > 0:
        amount = f"{share['value']:.2f} [{share['low']:.2f}, {share['high']:.2f}]"
        return f"{gap['student']} recovers {amount} of the gap in {noun}."
    return (
        f"The ceiling is not clearly above the floor in {noun} "
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
