"""Correctors that only prompt: a model criticises an answer and then revises it.

In the spirit of Constitutional AI (Bai et al. 2022), Self-Refine (Madaan et al. 2023) and Self-Critique (Saunders et
al. 2022), in wording of our own: they are baselines, which need no training.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from aligner_core.correctors.protocol import Bench, Case, Revision
from aligner_core.engines.protocol import Completion, Prompt
from aligner_core.files import digest
from aligner_core.records import Turn
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import conversation

PRINCIPLES = (
    "It must not help anybody to hurt people, animals or property, or to break the law.",
    "It must not insult, threaten, humiliate or stereotype anybody.",
    "It must not present as true what is false, invented or merely guessed.",
    "It must not give away or ask for private data of people.",
    "Where there is a risk to health, money or safety, it must say so and point to real help.",
    "It must answer what was asked, completely and to the point.",
    "It must treat the person who asks with respect, without preaching.",
    "Where it declines, it must say why in a kind way and offer something that does help.",
)
NOTHING = "NO CHANGE"
ONLY_TEXT = (
    "Write the new answer alone, between <revision> and </revision>, in the language of the question.\n\n"
    "The question again: {question}"
)


@dataclass(frozen=True)
class Method:
    """The words of one method.

    Attributes:
        in_person: the model is told that the answer is its own last reply; else it reads both as a text.
        critique, revision: the two requests; {question}, {answer}, {principle} and {wish} are filled in.
        may_stop: a critique that says NO CHANGE keeps the answer.
    """

    in_person: bool
    critique: str
    revision: str
    may_stop: bool = False


METHODS = {
    "cai": Method(
        in_person=True,
        critique="Judge your last reply by this principle: {principle}{wish} Name every place where the reply breaks "
        "it, or could be taken to break it, and say why. Do not write a new reply yet.",
        revision="Now write the reply anew so that nothing of what you named is left, and change nothing else. "
        + ONLY_TEXT,
    ),
    "self_refine": Method(
        in_person=True,
        critique="Give feedback on your last reply: is it correct, complete, clear, helpful and harmless?{wish} Say "
        f"in a few points what to change and how. If nothing needs to change, write {NOTHING} and nothing else.",
        revision="Improve the reply by following that feedback point by point; keep what was good. " + ONLY_TEXT,
        may_stop=True,
    ),
    "self_critique": Method(
        in_person=False,
        critique="Here are a question and an answer to it.\n\nQuestion: {question}\n\nAnswer: {answer}\n\nList the "
        "flaws of the answer: what is wrong, missing, unclear, unhelpful or harmful in it.{wish} Be specific, and "
        "quote the words in question.",
        revision="Write a better answer to the question, without those flaws. " + ONLY_TEXT,
    ),
}
_TAGGED = re.compile(r"<revision>(.*?)(?:</?revision>|\Z)", re.DOTALL | re.IGNORECASE)
_LEAD_IN = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|ok)\b[^\n:]{0,80}[:!.]?\s*\n+)?"
    r"(?:(?:here(?: is|'s|\u2019s)|(?:the |my )?(?:new|revised|improved|corrected|better)\b)[^\n:]{0,80}:\s*|"
    r"(?:revision|answer|reply)\s*:\s*)?",
    re.IGNORECASE,
)


class Prompted:
    """Critique, then revision, as often as `rounds` says; each is a step over all rows."""

    def __init__(self, method: str, model: ModelLocation, rounds: int = 1) -> None:
        self._method = METHODS[method]
        self._model = model
        self._rounds = rounds

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        revisions = [None if case is None else Revision(case.answer) for case in cases]
        going = list(cases)
        for number in range(1, self._rounds + 1):
            talks = [None if case is None else self._critique_request(case, bench.seed + number) for case in going]
            critiques = self._step(f"critique-{number}", going, talks, bench)
            for index, critique in enumerate(critiques):
                revision = revisions[index]
                if critique is None or revision is None:
                    continue
                revisions[index] = _with_critique(revision, critique)
                if critique.error or (self._method.may_stop and says_nothing(critique.text)):
                    going[index] = None
            requests = [
                None
                if case is None or talk is None or critique is None
                else self._revision_request(case, talk, critique)
                for case, talk, critique in zip(going, talks, critiques, strict=True)
            ]
            for index, reply in enumerate(self._step(f"revision-{number}", going, requests, bench)):
                case, revision = going[index], revisions[index]
                if reply is None or case is None or revision is None:
                    continue
                revisions[index] = revised = _revised(revision, reply)
                going[index] = None if revised.error else replace(case, answer=revised.text)
        return revisions

    def _step(
        self,
        name: str,
        cases: Sequence[Case | None],
        talks: Sequence[tuple[Turn, ...] | None],
        bench: Bench,
    ) -> list[Completion | None]:
        prompts = [
            None if case is None or talk is None else Prompt(talk, draft=case.answer)
            for case, talk in zip(cases, talks, strict=True)
        ]
        return bench.ask(name, self._model, prompts)

    def _critique_request(self, case: Case, seed: int) -> tuple[Turn, ...]:
        principle = PRINCIPLES[int(digest([seed, case.question])[:8], 16) % len(PRINCIPLES)]
        wish = f" Mind this too: {case.wish.strip()}" if case.wish.strip() else ""
        request = _filled(self._method.critique, principle=principle, wish=wish, question=case.question,
                          answer=case.answer)  # fmt: skip
        if not self._method.in_person:
            return conversation(request, case.history)
        return (*conversation(case.question, case.history), _turn("assistant", case.answer), _turn("user", request))

    def _revision_request(self, case: Case, talk: tuple[Turn, ...], critique: Completion) -> tuple[Turn, ...]:
        request = _filled(self._method.revision, question=case.question)
        return (*talk, _turn("assistant", critique.text), _turn("user", request))


def revision_in(reply: str) -> str | None:
    """The revised answer in a reply: between the tags, even if the last is missing; else all but a lead-in."""
    tagged = [text.strip() for text in _TAGGED.findall(reply)]
    if tagged:
        return next((text for text in reversed(tagged) if text), None)
    return _LEAD_IN.sub("", reply.strip(), count=1).strip() or None


def says_nothing(critique: str) -> bool:
    """Whether a critique finds nothing to change."""
    return critique.strip(" \n\t.*\"'`").upper() == NOTHING


def _filled(layout: str, **values: str) -> str:
    """Fill in all fields at once, so that braces in a question or an answer stay text."""
    fill: Callable[[re.Match[str]], str] = lambda match: values[match[1]]  # noqa: E731
    return re.sub(r"\{(principle|wish|question|answer)\}", fill, layout)


def _turn(role: Literal["user", "assistant"], content: str) -> Turn:
    return Turn.model_construct(role=role, content=content)


def _with_critique(revision: Revision, critique: Completion) -> Revision:
    notes = {**revision.notes, "critique": critique.text}
    return replace(revision, tokens=revision.tokens + critique.tokens, error=critique.error, notes=notes)


def _revised(revision: Revision, reply: Completion) -> Revision:
    """The text in a reply; one that holds none leaves the answer as it is, and says so."""
    text = revision_in(reply.text)
    tokens = revision.tokens + reply.tokens
    if reply.error or text is None:
        notes = revision.notes if reply.error else {**revision.notes, "unparsed": True}
        return replace(revision, tokens=tokens, error=reply.error, notes=notes)
    return replace(revision, text=text, tokens=tokens, finished=reply.finished)
