"""How much a correction changes an answer."""

from __future__ import annotations

from difflib import SequenceMatcher


def edit_ratio(answer: str, correction: str) -> float:
    """Share of the words that change, in [0, 1]: one less the Ratcliff/Obershelp similarity of the word sequences.

    0 is a copy, 1 means that no run of words is kept.
    """
    return 1 - SequenceMatcher(None, answer.split(), correction.split(), autojunk=False).ratio()
