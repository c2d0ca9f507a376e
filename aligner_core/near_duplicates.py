"""Finding what was said before: the same words, or nearly the same.

Texts are compared as sets of word 3-grams by Jaccard similarity. MinHash signatures in LSH bands (Broder 1997;
Leskovec et al., Mining of Massive Datasets, ch. 3) propose candidates, and each is verified with the exact
similarity: what is missed is a matter of chance, made small by the number of bands; what is found is never wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aligner_core.records import Question, question_key

if TYPE_CHECKING:
    from rensa import RMinHash

WORDS_EACH = 3
SIGNATURE = 128
SEED = 1
FOUND_AT_THRESHOLD = 0.999
FEW = 32
REMEMBERED = 16_384
MARGIN = 3.0  # standard deviations of a signature's estimate
# Scripts without spaces between words: each character counts as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
# Other symbols are words too: 3 + 4 is another question than 3 - 4. Marks of sentences and quotations are not.
_MARKS = ".,;:!?\"'“”‘’…"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s{_MARKS}]")


@dataclass(frozen=True)
class Match:
    """`partner` was there before; exact is the same text but for case and spacing."""

    reason: Literal["exact", "near-duplicate"]
    partner: str
    similarity: float


def words(text: str) -> list[str]:
    """The words and symbols of a text, without case and sentence marks; of a text that has none, its marks."""
    return _WORD.findall(text.lower()) or text.split()


def shingles(spoken: list[str], size: int = WORDS_EACH) -> frozenset[str]:
    """All runs of `size` words; of a shorter text, all its words as one."""
    return frozenset(" ".join(spoken[start : start + size]) for start in range(max(1, len(spoken) - size + 1)))


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Size of the intersection over size of the union, in [0, 1]."""
    shared = len(first & second)
    return shared / (len(first) + len(second) - shared)


def rows_per_band(threshold: float) -> int:
    """The most rows of a band (fewest candidates) with which a pair at the threshold is still found.

    A pair of similarity s shares at least one of b bands of r rows with probability 1 - (1 - s^r)^b.
    """
    for rows in (16, 8, 4, 2):
        if 1 - (1 - threshold**rows) ** (SIGNATURE // rows) >= FOUND_AT_THRESHOLD:
            return rows
    return 1


@dataclass(frozen=True)
class Fingerprint:
    """A text, ready to be compared: the hash of its words with all marks, its words, and its MinHash signature."""

    key: str
    spoken: list[str]
    runs: frozenset[str]
    signature: RMinHash


def fingerprint(text: str) -> Fingerprint:
    from rensa import RMinHash

    spoken = words(text)
    runs = shingles(spoken)
    signature = RMinHash(SIGNATURE, SEED)
    signature.update(list(runs))
    return Fingerprint(question_key(text), spoken, runs, signature)


class DuplicateIndex:
    """Texts seen so far, asked whether a further one is among them. Memory: about 4 KB a text."""

    def __init__(self, threshold: float) -> None:
        from rensa import RMinHashLSH

        self.threshold = threshold
        self._bands = RMinHashLSH(threshold, SIGNATURE, SIGNATURE // rows_per_band(threshold))
        self._names: list[str] = []
        self._spoken: list[str] = []
        self._exact: dict[str, int] = {}
        self._runs = lru_cache(REMEMBERED)(self._runs_again)  # all sets at once would take ten times the memory
        self._signatures = np.empty((1024, SIGNATURE), dtype=np.uint32)

    def add(self, name: str, text: Fingerprint) -> None:
        self._exact.setdefault(text.key, len(self._names))
        self._bands.insert(len(self._names), text.signature)
        if len(self._names) == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.empty_like(self._signatures)])
        self._signatures[len(self._names)] = text.signature.digest()
        self._names.append(name)
        self._spoken.append(" ".join(text.spoken))

    def match(self, text: Fingerprint) -> Match | None:
        """The most similar text that was added and reaches the threshold; the earliest of equals."""
        exact = self._exact.get(text.key)
        if exact is not None:
            return Match("exact", self._names[exact], 1.0)
        candidates = self._likely(text.signature)
        similarity, place = max(((self._similarity(text.runs, place), -place) for place in candidates), default=(0, 0))
        if not candidates or similarity < self.threshold:
            return None
        return Match("near-duplicate", self._names[-place], similarity)

    def _likely(self, signature: RMinHash) -> list[int]:
        """Candidates worth an exact look. Texts around one instruction are thousands; most differ by signature."""
        candidates: list[int] = self._bands.query(signature)
        if len(candidates) <= FEW:
            return candidates
        places = np.asarray(candidates)
        agreement = (self._signatures[places] == np.asarray(signature.digest(), dtype=np.uint32)).mean(axis=1)
        least = self.threshold - MARGIN * (self.threshold * (1 - self.threshold) / SIGNATURE) ** 0.5
        likely: list[int] = places[agreement >= least].tolist()
        return likely

    def _similarity(self, runs: frozenset[str], place: int) -> float:
        return jaccard(runs, self._runs(place))

    def _runs_again(self, place: int) -> frozenset[str]:
        return shingles(self._spoken[place].split(" "))


class DuplicateSieve:
    """Lets a record through if nothing before it said the same, or nearly."""

    def __init__(self, threshold: float, by: Literal["question", "record"]) -> None:
        self.settings = {"sieve": "duplicates", "version": 1, "threshold": threshold, "by": by}
        self._index = DuplicateIndex(threshold)
        self._text = asked if by == "question" else whole

    def sift(self, record: Question) -> Mapping[str, Any] | None:
        text = fingerprint(self._text(record))
        if match := self._index.match(text):
            return asdict(match)
        self._index.add(record.id, text)
        return None

    def remember(self, record: Question) -> None:
        self._index.add(record.id, fingerprint(self._text(record)))


def asked(record: Question) -> str:
    return record.asked


def whole(record: Question) -> str:
    """Question, answer and correction, whatever of them there is."""
    row = record.row()
    return "\n".join([record.asked, *(str(row[key]) for key in ("answer", "correction") if key in row)])
