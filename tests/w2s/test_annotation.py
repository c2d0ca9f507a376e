"""What is asked of an annotator, and which of its replies are worth keeping."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.engines.protocol import Completion
from aligner_core.records import Answer, Turn
from w2s.annotation import EDITING, EXAMPLE, EXAMPLE_CRITIQUE, EXAMPLE_EDIT, RULES, critique_request, edit_request
from w2s.annotation_replies import Outcome, answer_fault, broken_rules, edit_fault, edited_text, outcome

ANSWER = "Salt the steps in the evening, and call the lazy fool next door who never does."
GOOD_EDIT = "Salt the steps in the evening, and ask next door to do theirs too."
CRITIQUE = 'Rule 2: "lazy fool" - insults the neighbour.'


def record(answer: str = ANSWER, **more: Any) -> Answer:
    return Answer(id="a", question="How do I keep icy steps safe?", answer=answer, upstream="m", **more)


def marked(text: str) -> str:
    return f"<edited>{text}</edited>"


def test_the_critique_sees_every_rule_the_conversation_and_both_texts() -> None:
    history = [Turn(role="user", content="It {snows}."), Turn(role="assistant", content="Take care.")]
    request = critique_request(record("Use {sand}.", history=history))
    expected = [*RULES.values(), "user: It {snows}.\nassistant: Take care.", "How do I keep", "Use {sand}."]
    assert all(text in request for text in expected)


def test_the_editor_is_told_all_rules_of_editing_and_shown_an_example_that_keeps_to_them() -> None:
    assert all(rule in edit_request() for rule in EDITING)
    edited = edited_text(EXAMPLE_EDIT)
    assert edited == "Trim what hangs over on your side and talk to him."
    assert edited in EXAMPLE
    assert broken_rules(EXAMPLE_CRITIQUE) == ["harm", "contempt"]


@pytest.mark.parametrize(
    ("critique", "names"),
    [
        ("NOTHING TO MEND", []),
        ("**Nothing to mend.**\n", []),
        ("The answer is fine.\nNOTHING TO MEND", []),
        (CRITIQUE, ["contempt"]),
        ("Here is what I found:\n- **Rule 7**: a sermon.\n- rule 1 - poison\n- Rule 7: again", ["harm", "manner"]),
        ("Rule 2: ...\nNOTHING TO MEND", None),
        ("Rule 99: no such rule", None),
        ("Rule 0: no such rule", None),
        ("The answer is fine.", None),
        ("There is nothing to mend in rule 2, I think.", None),
        ("", None),
    ],
)
def test_a_critique_names_rules_or_finds_nothing_or_is_unclear(critique: str, names: list[str] | None) -> None:
    assert broken_rules(critique) == names


@pytest.mark.parametrize("filler", ["\n", "- ", "Rule ", "<edited>", "answer ", "sure ", ": "])
def test_a_reply_that_never_ends_is_read_at_once(filler: str) -> None:
    reply = filler * 50_000
    started = time.monotonic()
    assert broken_rules(reply) is None
    assert edit_fault(record(), marked(reply), True, 2.0)
    assert time.monotonic() - started < 5


@given(st.sets(st.integers(1, len(RULES)), min_size=1), st.text(alphabet="abc .-", max_size=20))
def test_every_rule_that_is_named_is_found(numbers: set[int], reason: str) -> None:
    critique = "\n".join(f'Rule {number}: "{reason}" - {reason}' for number in numbers)
    assert broken_rules(critique) == [name for place, name in enumerate(RULES, 1) if place in numbers]


@given(st.text(min_size=1).filter(lambda text: "<" not in text))
def test_the_text_between_the_tags_is_the_edit(text: str) -> None:
    assert edited_text(f"Gladly.\n{marked(text)}") == text.strip()
    assert edited_text(text) is None
    assert edited_text(marked(text) + marked(text)) is None


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (marked(GOOD_EDIT), None),
        (marked("I'm sorry, but I can't help you insult your neighbour. Salt the steps in the evening."), None),
        (GOOD_EDIT, "unmarked"),
        (marked(GOOD_EDIT) + marked("or this"), "unmarked"),
        ("I cannot edit this answer.", "unmarked"),
        (marked(" \n"), "empty"),
        (marked(ANSWER), "unchanged"),
        (marked(ANSWER.replace(", ", ",\n\n")), "unchanged"),
        (marked(f"Corrected answer: {GOOD_EDIT}"), "label"),
        (marked(f"**Edited answer**\n\n{GOOD_EDIT}"), "label"),
        (marked(f"Sure! Here's the revised answer:\n{GOOD_EDIT}"), "label"),
        (marked(f"Here is an improved version of it: {GOOD_EDIT}"), "label"),
        (marked(f"Answer: {GOOD_EDIT}"), "label"),
        (marked("I'm sorry, but I can't edit this kind of answer."), "declined to edit"),
        (marked("As an AI I cannot help with rewriting the harmful text."), "declined to edit"),
        (marked("How do I keep icy steps safe?"), "repeats the request"),
        (marked(f"<answer>{GOOD_EDIT}"), "repeats the request"),
        (marked(f"{CRITIQUE}\n{GOOD_EDIT}"), "repeats the request"),
        (marked("NOTHING TO MEND"), "repeats the request"),
        (marked(f"Rules: {EDITING[2]}"), "repeats the request"),
        (marked("Trim what hangs over on your side and talk to him."), "repeats the request"),
        (marked("Salt the steps. " * 34), "over-long"),
        (marked("Salt the steps. " * 33), None),
    ],
)
def test_an_edit_that_is_no_correction_is_told_apart_by_its_fault(reply: str, reason: str | None) -> None:
    assert edit_fault(record(), reply, True, 2.0) == reason


def test_a_cut_reply_is_unfinished_even_if_it_was_about_to_be_good() -> None:
    assert edit_fault(record(), f"<edited>{GOOD_EDIT}", False, 2.0) == "unfinished"


def test_what_the_answer_itself_says_is_no_fault_of_its_edit() -> None:
    answer = "Answer: use salt. Rule 1: never at noon. Put it in an <answer> box."
    edit = "Answer: use sand. Rule 1: never at noon. Put it in an <answer> box."
    assert edit_fault(record(answer), marked(edit), True, 2.0) is None


def test_a_longer_answer_may_have_a_longer_edit() -> None:
    answer = "Salt the steps well. " * 60
    edit = "Salt your steps well. " * 100
    assert edit_fault(record(answer), marked(edit), True, 2.0) is None
    assert edit_fault(record(answer), marked(edit), True, 1.5) == "over-long"


def test_blank_and_cut_answers_are_not_annotated() -> None:
    assert answer_fault(record(" ")) == "answer empty"
    assert answer_fault(record(finished=False)) == "answer unfinished"
    assert answer_fault(record(finished=True)) is answer_fault(record()) is None


def said(text: str, **more: Any) -> Completion:
    return Completion(text, 5, more.pop("finished", True), **more)


@pytest.mark.parametrize(
    ("critique", "edit", "expected"),
    [
        (said("NOTHING TO MEND"), None, {"correction": ANSWER, "tokens": 5}),
        (said(CRITIQUE), said(marked(GOOD_EDIT)), {"correction": GOOD_EDIT, "tokens": 10}),
        (said(CRITIQUE), said(""), {"reason": "unmarked"}),
        (said(CRITIQUE), said("", error="http_500"), {"error": "http_500"}),
        (said("", error="timeout: 3 s"), None, {"error": "timeout: 3 s"}),
        (said("Hm."), None, {"reason": "critique unclear"}),
        (said(EXAMPLE_CRITIQUE), None, {"reason": "critique copied"}),
        (said(CRITIQUE, finished=False), None, {"reason": "critique unfinished"}),
    ],
)
def test_an_outcome_is_a_correction_a_reason_or_an_error_and_no_two_of_them(
    critique: Completion, edit: Completion | None, expected: dict[str, Any]
) -> None:
    found = outcome(record(), critique, edit, 2.0)
    assert {name: getattr(found, name) for name in expected} == expected
    assert sum(map(bool, (found.correction, found.reason, found.error))) == 1


def test_an_answer_without_an_end_is_dropped_before_anything_is_asked() -> None:
    assert outcome(record(finished=False), None, None, 2.0) == Outcome(reason="answer unfinished")
