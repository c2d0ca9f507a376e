"""Parts of a data set that depend on its records alone, never on their order."""

from __future__ import annotations

from collections.abc import Sequence

from aligner_core.files import digest
from aligner_core.records import Correction, Record, question_key


def held_out_by_question(records: Sequence[Record], share: float, seed: int) -> tuple[list[Record], list[Record]]:
    """Split so that no question is on both sides; at least one record stays on each."""
    ranked = sorted({question_key(record.question) for record in records}, key=lambda key: digest([seed, key]))
    kept_out = set(ranked[: max(1, round(share * len(ranked)))])
    training = [record for record in records if question_key(record.question) not in kept_out]
    return training or list(records), [record for record in records if question_key(record.question) in kept_out]


def share_of(records: Sequence[Correction], share: float, seed: int) -> list[Correction]:
    """A pseudo-random share of the records that does not depend on their order; at least one."""
    ranked = sorted(records, key=lambda record: digest([seed, record.id]))
    return ranked[: max(1, round(share * len(records)))]
