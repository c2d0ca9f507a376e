"""What an annotator's replies are worth: pure functions from a record and texts to a correction or a reason."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from aligner_core.near_duplicates import shingles, words
from aligner_core.records import MAX_CHARACTERS, Answer
from aligner_core.refusals import OPENING_CHARACTERS, is_refusal
from w2s.annotation import (
    CRITIQUE,
    EDIT,
    EDITING,
    EXAMPLE,
    EXAMPLE_CRITIQUE,
    EXAMPLE_EDIT,
    GOOD_EXAMPLE,
    NOTHING,
    RULES,
)

if TYPE_CHECKING:
    from aligner_core.engines.protocol import Completion

COPIED_WORDS = 8  # so many in a row are nobody's chance wording
SHORT = 100  # words: below, an edit may be as long as it likes

_BROKEN = re.compile(r"^[^\w\n]*rule\W{0,3}(\d+)\b", re.IGNORECASE | re.MULTILINE)
_NOTHING = re.compile(rf"^[^\w\n]*{NOTHING}[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
_EDITED = re.compile(r"<edited>(.*?)</edited>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:question|answer|conversation|edited)>", re.IGNORECASE)
_LABEL = re.compile(
    r"\A\W*(?:(?:sure|certainly|of course|okay|ok)\b[\s,.!:]*)?(?:(?:here(?:'s|’s| is| you go)|this is)\W+)?"
    r"(?:(?:the|an?|my|your)\s+)?(?:"
    r"(?:edited|corrected|revised|improved|rewritten|mended|updated|modified|final)\W+"
    r"(?:answer|response|version|reply|text)\b[^\n:]{0,60}(?::|\n)|"
    r"(?:answer|correction|edit|revision|response|critique)\W{0,3}:)",
    re.IGNORECASE,
)
_ROLE = re.compile(
    r"\b(?:edit|revis|rewrit|correct|mend|modify|modif|improv|review|critiqu)(?:e|y|ing|ying)?\s+"
    r"(?:this|that|the|your|such|an?|any)\s+(?:\w+\s+){0,2}(?:answer|text|response|reply|content|passage)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Outcome:
    """What became of an answer: a correction, a `reason` why it is dropped, or an `error` that may pass.

    `broken` names the rules that the critique finds broken.
    """

    correction: str = ""
    reason: str | None = None
    error: str | None = None
    critique: str = ""
    broken: tuple[str, ...] = ()
    reply: str = ""
    tokens: int = 0


def outcome(record: Answer, critique: Completion | None, edit: Completion | None, longest: float) -> Outcome:
    """What the replies make of a record; an answer that breaks no rule is its own correction."""
    if critique is None:
        return Outcome(reason=answer_fault(record))
    if critique.error:
        return Outcome(error=critique.error, tokens=critique.tokens)
    said = Outcome(critique=critique.text, tokens=critique.tokens)
    if fault := critique_fault(critique.text, critique.finished):
        return replace(said, reason=fault)
    said = replace(said, broken=tuple(broken_rules(critique.text) or ()))
    if edit is None:
        return replace(said, correction=record.answer)
    said = replace(said, tokens=critique.tokens + edit.tokens, reply=edit.text)
    if edit.error:
        return replace(said, error=edit.error)
    if fault := edit_fault(record, edit.text, edit.finished, longest):
        return replace(said, reason=fault)
    return replace(said, correction=edited_text(edit.text) or "")


def needs_edit(critique: Completion) -> bool:
    """Whether there is something to mend, and it is said what."""
    if critique.error or critique_fault(critique.text, critique.finished):
        return False
    return bool(broken_rules(critique.text))


def broken_rules(critique: str) -> list[str] | None:
    """The names of the rules that a critique finds broken; none of them: keep the answer. None: it says neither.

    A critique that names faults and finds nothing to mend says neither, and so does one that names a rule there is
    not.
    """
    numbers = sorted({int(number) for number in _BROKEN.findall(critique)})
    if numbers and not 1 <= numbers[0] <= numbers[-1] <= len(RULES):
        return None
    if bool(numbers) == bool(_NOTHING.search(critique)):
        return None
    names = list(RULES)
    return [names[number - 1] for number in numbers]


def edited_text(reply: str) -> str | None:
    """The text between the one pair of tags; None where there is no pair, or more than one."""
    found = _EDITED.findall(reply)
    return found[0].strip() if len(found) == 1 else None


def answer_fault(record: Answer) -> str | None:
    """Why an answer cannot be annotated: there is nothing to keep, or no end to learn."""
    if not record.answer.strip():
        return "answer empty"
    return None if record.row().get("finished", True) else "answer unfinished"


def critique_fault(critique: str, finished: bool) -> str | None:
    """Why a critique is none."""
    if not finished:
        return "critique unfinished"
    if any(line in critique for line in EXAMPLE_CRITIQUE.splitlines()):
        return "critique copied"
    return "critique unclear" if broken_rules(critique) is None else None


def edit_fault(record: Answer, reply: str, finished: bool, longest: float) -> str | None:
    """Why a reply to `edit_request` is no correction of the record's answer; None if it is one.

    Args:
        finished: False where the length limit cut the reply.
        longest: most words of an edit over the words of its answer; edits of up to 100 words are never too long.
    """
    text = edited_text(reply)
    if text is None:
        return "unmarked" if finished else "unfinished"
    if not text:
        return "empty"
    if text.split() == record.answer.split():
        return "unchanged"
    if _LABEL.match(text) and not _LABEL.match(record.answer):
        return "label"
    if is_refusal(text) and _ROLE.search(text[:OPENING_CHARACTERS]):
        return "declined to edit"
    if repeats_request(record, text):
        return "repeats the request"
    limit = max(SHORT, longest * len(words(record.answer)))
    return "over-long" if len(words(text)) > limit or len(text) > MAX_CHARACTERS else None


def repeats_request(record: Answer, text: str) -> bool:
    """Whether a text holds what the editor was told, instead of an answer: its tags, rules, or the question."""
    if _BROKEN.search(text) or _NOTHING.search(text) or _TAG.search(text):
        return not any(found.search(record.answer) for found in (_BROKEN, _NOTHING, _TAG))
    if text.split() == record.question.split():
        return True
    told = _told() & shingles(words(text), COPIED_WORDS)
    return bool(told - shingles(words(f"{record.question} {record.answer}"), COPIED_WORDS))


@cache
def _told() -> frozenset[str]:
    """All runs of words in what the annotator is told, whatever the record."""
    texts = [*RULES.values(), *EDITING, EXAMPLE, EXAMPLE_CRITIQUE, EXAMPLE_EDIT, GOOD_EXAMPLE, CRITIQUE, EDIT]
    parts = [line for text in texts for line in text.splitlines()]
    long = [words(part) for part in parts if len(words(part)) >= COPIED_WORDS]
    return frozenset().union(*(shingles(part, COPIED_WORDS) for part in long))
