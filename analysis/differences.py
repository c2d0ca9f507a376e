"""What a correction changed: words taken out and put in, copies, and lengths."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Literal

Kind = Literal["same", "del", "ins"]
# A word carries the white space after it, so that pieces put together are the text.
WORD = re.compile(r"\S+\s*|\s+")


@dataclass(frozen=True)
class CopiesAndLengths:
    """Of pairs of texts before and after: how many, how many identical, mean lengths in characters."""

    pairs: int
    identical: int
    before: float
    after: float


def word_differences(before: str, after: str) -> list[tuple[Kind, str]]:
    """Pieces in reading order: "same" and "del" make up `before`, "same" and "ins" make up `after`."""
    old, new = WORD.findall(before), WORD.findall(after)
    pieces: list[tuple[Kind, str]] = []
    for tag, low, high, start, stop in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(("same", "".join(old[low:high])))
            continue
        if high > low:
            pieces.append(("del", "".join(old[low:high])))
        if stop > start:
            pieces.append(("ins", "".join(new[start:stop])))
    return pieces


def kept_share(pieces: Sequence[tuple[Kind, str]]) -> float:
    """Share of both texts' characters that are common to them: 1 for a copy, 0 where nothing is left."""
    characters = {kind: sum(len(text) for name, text in pieces if name == kind) for kind in ("same", "del", "ins")}
    total = 2 * characters["same"] + characters["del"] + characters["ins"]
    return 2 * characters["same"] / total if total else 1.0


def copies_and_lengths(before: Sequence[str], after: Sequence[str]) -> CopiesAndLengths:
    """Raises ValueError if the two differ in number, or there is no pair."""
    pairs = list(zip(before, after, strict=True))
    if not pairs:
        raise ValueError("no pairs")
    return CopiesAndLengths(
        pairs=len(pairs),
        identical=sum(old == new for old, new in pairs),
        before=sum(len(old) for old, _ in pairs) / len(pairs),
        after=sum(len(new) for _, new in pairs) / len(pairs),
    )
