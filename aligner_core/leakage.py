"""Whether a question to train on gives away one that is evaluated: the same, nearly the same, or quoted.

Quoted: of an evaluation question's word 8-grams, a share of at least `overlap` stands in the training question. A
question in few words has no 8-gram and is compared by its likeness alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from aligner_core.files import digest
from aligner_core.near_duplicates import DuplicateIndex, fingerprint, shingles
from aligner_core.records import Question

QUOTED_WORDS = 8


@dataclass(frozen=True)
class Leak:
    """Which evaluation question (`partner`, its id) a training question gives away, and how far (1.0 = wholly)."""

    reason: Literal["exact", "near-duplicate", "overlap"]
    partner: str
    similarity: float


class EvaluationQuestions:
    """The questions that must not be trained on, ready to be compared with."""

    def __init__(self, evaluation: Iterable[Question], jaccard: float, overlap: float) -> None:
        self._alike = DuplicateIndex(jaccard)
        self._quoted = QuotedTexts(overlap)
        for record in evaluation:
            text = fingerprint(record.asked)
            self._alike.add(record.id, text)
            self._quoted.add(record.id, text.spoken)
        self._quoted.finish()

    def leak(self, asked: str) -> Leak | None:
        """The evaluation question that this one gives away; None if there is none."""
        text = fingerprint(asked)
        if match := self._alike.match(text):
            return Leak(match.reason, match.partner, match.similarity)
        if quoted := self._quoted.match(text.spoken):
            return Leak("overlap", *quoted)
        return None


class LeakageSieve:
    """Lets a record through if it gives no evaluation question away."""

    def __init__(self, evaluation: Sequence[Question], jaccard: float, overlap: float) -> None:
        content = digest([[record.id, record.asked] for record in evaluation])
        self.settings = {
            "sieve": "leakage", "version": 1, "jaccard": jaccard, "overlap": overlap, "evaluation": content,
        }  # fmt: skip
        self._held_out = EvaluationQuestions(evaluation, jaccard, overlap)

    def sift(self, record: Question) -> Mapping[str, Any] | None:
        leak = self._held_out.leak(record.asked)
        return asdict(leak) if leak else None

    def remember(self, record: Question) -> None:
        """Records do not depend on each other."""


class QuotedTexts:
    """Texts, asked which of them stands in a longer one.

    At least one of any `n - ceil(overlap * n) + 1` of a text's n-grams must be in a text that holds the share, so only
    that many are looked up: the rarest, which are least often there for another reason (prefix filter, Bayardo et al.
    2007). Nothing is missed.
    """

    def __init__(self, overlap: float) -> None:
        self.overlap = overlap
        self._names: list[str] = []
        self._runs: list[frozenset[str]] = []
        self._places: dict[str, list[int]] = defaultdict(list)

    def add(self, name: str, spoken: list[str]) -> None:
        if len(spoken) >= QUOTED_WORDS:
            self._names.append(name)
            self._runs.append(shingles(spoken, QUOTED_WORDS))

    def finish(self) -> None:
        """Choose the n-grams to look up, when all texts are known."""
        frequency = Counter(run for runs in self._runs for run in runs)
        for place, runs in enumerate(self._runs):
            rarest = sorted(runs, key=lambda run: (frequency[run], run))
            for run in rarest[: len(runs) - self._needed(runs) + 1]:
                self._places[run].append(place)

    def match(self, spoken: list[str]) -> tuple[str, float] | None:
        """Name and share of the text that is quoted most; the earliest of equals."""
        there = shingles(spoken, QUOTED_WORDS)
        candidates = {place for run in there for place in self._places.get(run, ())}
        shares = [(len(self._runs[place] & there) / len(self._runs[place]), -place) for place in candidates]
        share, place = max(shares, default=(0.0, 0))
        return (self._names[-place], share) if candidates and share >= self.overlap else None

    def _needed(self, runs: frozenset[str]) -> int:
        """The fewest n-grams that make up the share."""
        return next(count for count in range(1, len(runs) + 1) if count / len(runs) >= self.overlap)
