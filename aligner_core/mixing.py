"""Several sources as one data set: by weight, without repeating a record, and the same every time."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import TypeVar

from aligner_core.records import Question, question_key

Record = TypeVar("Record", bound=Question)


def mixed_counts(available: Sequence[int], weights: Sequence[float | None]) -> list[int]:
    """How many records each source gives: all where no weight is given, else shares in proportion to the weights.

    The mix is as large as it can be without repeating a record, so the scarcest source is used whole.
    """
    shares = [Fraction(weight) for weight in weights if weight is not None]
    if len(shares) < len(available):
        return list(available)
    per_share = min((count / share for count, share in zip(available, shares, strict=True)), default=Fraction(0))
    return [int(per_share * share) for share in shares]


def mix(sources: Sequence[Sequence[Record]], weights: Sequence[float | None]) -> list[Record]:
    """The mixed records; where there are several sources, an id gets its source's number in front (`2/id`)."""
    if len(sources) == 1:
        return list(sources[0])
    counts = mixed_counts([len(records) for records in sources], weights)
    return [
        record.model_copy(update={"id": f"{number}/{record.id}"})
        for number, (records, count) in enumerate(zip(sources, counts, strict=True), 1)
        for record in by_hash(records)[:count]
    ]


def by_hash(records: Sequence[Record]) -> list[Record]:
    """An order that depends on what is asked alone, so that a limit takes an arbitrary but fixed sample."""
    return sorted(records, key=lambda record: (question_key(record.asked + "#order"), record.id))
