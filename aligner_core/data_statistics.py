"""What a data set looks like in numbers: lengths, copies, how much corrections change, and the same per group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligner_core.edits import edit_ratio
from aligner_core.records import Answer, Correction, Question

TEXTS = ("question", "answer", "correction", "reference")
GROUPS = ("category", "upstream", "corrector")
UNKNOWN = "unknown"
Measure = Callable[[str], int]
MEASURES: Mapping[str, Measure] = {"characters": len, "words": lambda text: len(text.split())}


@dataclass(frozen=True)
class Measured:
    """A record's row with what takes time to find out; None where the kind has no such thing."""

    row: Mapping[str, Any]
    blank: bool | None
    copied: bool | None
    edited: float | None


def data_statistics(records: Sequence[Question], count_tokens: Measure | None = None) -> dict[str, Any]:
    """Everything as one JSON-ready object; `count_tokens` adds lengths in tokens."""
    measures = {**MEASURES, **({"tokens": count_tokens} if count_tokens else {})}
    measured = [_measured(record) for record in records]
    groups = {name: _groups(measured, name) for name in GROUPS}
    return {
        "records": len(records),
        "with_history": sum(bool(record.history) for record in records),
        "lengths": {
            text: {name: distribution([measure(value) for value in values]) for name, measure in measures.items()}
            for text, values in _texts(measured).items()
        },
        **_changes(measured),
        "groups": {name: found for name, found in groups.items() if found},
    }


def distribution(values: Sequence[float]) -> dict[str, float]:
    """Mean, and the order statistics that show a tail."""
    low, median, high, top = (float(value) for value in np.percentile(values, [0, 50, 95, 100]))
    return {"mean": float(np.mean(values)), "min": low, "median": median, "p95": high, "max": top}


def _measured(record: Question) -> Measured:
    blank = not record.answer.strip() if isinstance(record, Answer) else None
    if not isinstance(record, Correction):
        return Measured(record.row(), blank, None, None)
    copied = record.answer == record.correction
    return Measured(record.row(), blank, copied, 0.0 if copied else edit_ratio(record.answer, record.correction))


def _texts(measured: Sequence[Measured]) -> dict[str, list[str]]:
    found = {name: [str(item.row[name]) for item in measured if isinstance(item.row.get(name), str)] for name in TEXTS}
    return {name: values for name, values in found.items() if values}


def _changes(measured: Sequence[Measured]) -> dict[str, Any]:
    """Blank answers, share of corrections that copy their answer, and how much corrections change."""
    blanks = [item.blank for item in measured if item.blank is not None]
    ratios = [item.edited for item in measured if item.edited is not None]
    found: dict[str, Any] = {"blank_answers": sum(blanks)} if blanks else {}
    if ratios:
        found["copy_rate"] = sum(bool(item.copied) for item in measured) / len(ratios)
        found["edit_ratio"] = distribution(ratios)
    return found


def _groups(measured: Sequence[Measured], name: str) -> dict[str, Any]:
    """The same for each value of a field; empty where no record says anything there."""
    members: dict[str, list[Measured]] = {}
    for item in measured:
        value = item.row.get(name)
        if isinstance(value, str) and value != UNKNOWN:
            members.setdefault(value, []).append(item)
    return {
        value: {
            "records": len(group),
            "words": {text: float(np.mean([len(item.split()) for item in texts]))
                      for text, texts in _texts(group).items()},
            **_changes(group),
        }
        for value, group in sorted(members.items())
    }  # fmt: skip
