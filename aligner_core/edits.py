"""How much a correction changes its answer: pure functions on words."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from statistics import fmean

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and punctuation marks."""
    return _WORD.findall(text)


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Levenshtein distance, a whole column of the table at a time (Myers 1999, in Hyyro's form of 2003)."""
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    first, second = first[same:], second[same:]
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for position, item in enumerate(first):
        places[item] = places.get(item, 0) | 1 << position
    last = 1 << (len(first) - 1)
    every = (last << 1) - 1
    rises, falls, distance = every, 0, len(first)
    for item in second:
        equal = places.get(item, 0)
        vertical = equal | falls
        horizontal = (((equal & rises) + rises) ^ rises) | equal
        up = falls | (every & ~(horizontal | rises))
        down = rises & horizontal
        distance += bool(up & last) - bool(down & last)
        up = (up << 1) | 1
        rises = ((down << 1) | ~(vertical | up)) & every
        falls = up & vertical & every
    return distance


def edit_ratio(answer: str, correction: str) -> float:
    """Edit distance in words over the words of the answer (paper, Fig. 4): 0 for a copy."""
    before, after = words(answer), words(correction)
    return edit_distance(before, after) / max(1, len(before))


def edit_facts(answers: Sequence[str], corrections: Sequence[str]) -> dict[str, float]:
    """Share of copies, mean edit ratio, and words of all corrections over those of all answers."""
    if not answers:
        return {}
    pairs = list(zip(answers, corrections, strict=True))
    before = sum(len(words(answer)) for answer in answers)
    return {
        "copy_rate": round(fmean(answer == correction for answer, correction in pairs), 4),
        "edit_ratio": round(fmean(edit_ratio(*pair) for pair in pairs), 4),
        "length_ratio": round(sum(len(words(correction)) for correction in corrections) / max(1, before), 4),
    }
