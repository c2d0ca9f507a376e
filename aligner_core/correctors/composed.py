"""Correctors made of nothing and of other correctors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from aligner_core.correctors.protocol import Bench, Case, Corrector, Revision


class Identity:
    """Leaves every answer as it is: the copy baseline."""

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        return [None if case is None else Revision(case.answer) for case in cases]


class Stack:
    """Each corrector corrects what the one before it wrote; `between` is a wish for all but the first."""

    def __init__(self, correctors: Sequence[Corrector], between: str = "") -> None:
        self._correctors = correctors
        self._between = between

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        so_far: list[Revision | None] = [None if case is None else Revision(case.answer) for case in cases]
        for number, corrector in enumerate(self._correctors):
            wish = self._between if number else ""
            current = [_next_case(case, revision, wish) for case, revision in zip(cases, so_far, strict=True)]
            revisions = corrector.correct(current, bench.inside(str(number)))
            so_far = [_after(*pair) for pair in zip(so_far, revisions, strict=True)]
        return so_far


def _next_case(case: Case | None, revision: Revision | None, wish: str) -> Case | None:
    if case is None or revision is None or revision.error:
        return None
    return replace(case, answer=revision.text, wish=f"{case.wish} {wish}".strip())


def _after(before: Revision | None, then: Revision | None) -> Revision | None:
    """The later revision, with the tokens and notes of both. A cut text stays cut, unless it was rewritten."""
    if before is None or then is None:
        return before
    finished = then.finished and (before.finished or then.text != before.text)
    notes = {**before.notes, **then.notes}
    return replace(then, tokens=before.tokens + then.tokens, finished=finished, notes=notes)
