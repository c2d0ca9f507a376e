"""Which systems of a run are compared, and what comes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligner_core.statistics import (
    Interval,
    bootstrap,
    count,
    detectable_omega,
    difference,
    length_controlled_omega,
    omega_of_mean,
    outcomes,
    permutation_test,
)
from analysis.run_data import RunData
from analysis.systems import ALIGNED, OF, UPSTREAM, is_ida, is_main_table, letters, students, system_of


def pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs to compare, each once; omega is the first's."""
    if is_ida(systems):
        return _of_rounds(letters(systems))
    if is_main_table(systems):
        return [pair for name in _cells(systems) for pair in _of_corrections(systems, name)]
    taught = students(systems)
    found = _of_corrections(systems)
    found += [(name, other) for name in taught for other in (UPSTREAM, "floor", ALIGNED)]
    found += [(name, taught[0]) for name in taught[1:]]
    found += [("ceiling", name) for name in taught]
    found += [("ceiling", "floor"), ("floor", UPSTREAM), ("ceiling", UPSTREAM)]
    return [pair for pair in found if set(pair) <= set(systems)]


def _of_rounds(names: Sequence[str]) -> list[tuple[str, str]]:
    """Those of the paper's table: each with the one before it (B-A, C-B), and with the one two before (C-A, D-B)."""
    found = [(second, first) for first, second in pairwise(names)]
    return found + [(second, first) for first, second in zip(names, names[2:], strict=False)]


def _cells(systems: Sequence[str]) -> list[str]:
    """The upstreams of a main table."""
    return list(dict.fromkeys(system_of(name).of for name in systems))


def _of_corrections(systems: Sequence[str], of: str = "") -> list[tuple[str, str]]:
    """All corrections against the upstream, and those of arms against the Aligner's own."""
    corrected = [name for name in systems if system_of(name).part == "corrected" and system_of(name).of == of]
    own = ALIGNED + OF + of if of else ALIGNED
    found = [(name, system_of(name).reference) for name in corrected]
    return found + [(name, own) for name in corrected if system_of(name).base.startswith("aligned_")]


def steps(systems: Sequence[str]) -> list[tuple[int, str, str, str]]:
    """What IDA's rounds do: (round, "amplify" or "distil", system before, system after), in order."""
    names = letters(systems)
    found = []
    for index in range(0, len(names), 2):
        number = index // 2 + 1
        found += [(number, "amplify", names[index], after) for after in names[index + 1 : index + 2]]
        found += [(number, "distil", names[index], after) for after in names[index + 2 : index + 3]]
    return found


def redistributions(systems: Sequence[str]) -> list[tuple[str, str]]:
    """Before and after, for the figures of how scores move; the first is what the examples show."""
    if is_ida(systems):
        return list(dict.fromkeys([("A", "B"), ("A", letters(systems)[::2][-1])]))
    if is_main_table(systems):
        return [(UPSTREAM + OF + of, ALIGNED + OF + of) for of in _cells(systems)]
    after = [ALIGNED, *students(systems)]
    return [(UPSTREAM, name) for name in after if name in systems]


def corrected_pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    """Before and after, of all that the Aligner corrected: answers of every upstream, or of every round's model."""
    if is_ida(systems):
        return [(before, after) for _, step, before, after in steps(systems) if step == "amplify"]
    return [pair for pair in redistributions(systems) if system_of(pair[1]).part == "corrected"]


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
        "detectable": detectable_omega(
            len(run.questions), counts.tie / outcome.size, confidence=settings["confidence"]
        ),
        "difference": asdict(interval(difference, ours, theirs)),
        "identical_share": float(identical.mean()),
        "words": [float(words.mean()) for words in lengths],
        "refusals": [float(run.matrix(system, "refusal").mean()) for system in (first, second)],
    }


def outcomes_of(run: RunData, first: str, second: str, axis: str) -> NDArray[np.float64]:
    """(seeds, questions): win, tie or loss of `first`. Ties go by the spread of the upstream's scores."""
    identical = run.matrix(first, "text") == run.matrix(second, "text")
    reference = system_of(first).reference if system_of(first).reference in run.systems else run.systems[0]
    margin = run.recipe["evaluation"]["tie_margin"] * float(run.matrix(reference, axis).std())
    return outcomes(run.matrix(first, axis), run.matrix(second, axis), margin, identical)


def run_bootstrap(run: RunData) -> partial[Interval]:
    """The bootstrap with the resamples and the confidence of a run's recipe."""
    settings = run.recipe["evaluation"]
    return partial(bootstrap, resamples=settings["resamples"], confidence=settings["confidence"])
