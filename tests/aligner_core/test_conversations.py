"""Conversations as others write them become history and question."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.conversations import messages_of, with_question
from aligner_core.records import Pair, Safety

USER, ASSISTANT = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}
WHY = {"role": "user", "content": "Why?"}
TRANSCRIPT = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Why?\n\nAssistant:"
WORDS = st.text("ab c\nd", min_size=1, max_size=20).map(str.strip).filter(bool).filter(lambda text: "\n\n" not in text)


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_a_transcript_reads_as_the_turns_it_was_written_from(turns: list[tuple[str, str]]) -> None:
    written = "".join(f"\n\nHuman: {asked}\n\nAssistant: {said}" for asked, said in turns)
    expected = [
        {"role": role, "content": text}
        for asked, said in turns
        for role, text in (("user", asked), ("assistant", said))
    ]
    assert messages_of(written) == expected
    assert messages_of(written.strip()) == expected


@pytest.mark.parametrize("text", ["Why?", "Human: what are we?", "What does \n\nAssistant: mean?", "", None, 3, []])
def test_what_is_no_conversation_stays_what_it_is(text: Any) -> None:
    assert messages_of(text) is None
    assert with_question({"question": text}) == {"question": text}


@pytest.mark.parametrize("key", ["question", "messages", "prompt"])
@pytest.mark.parametrize("written", [[USER, ASSISTANT, WHY], TRANSCRIPT], ids=["messages", "transcript"])
def test_history_and_question_are_found_under_each_key(key: str, written: Any) -> None:
    assert with_question({key: written, "more": 1}) == {"question": "Why?", "history": [USER, ASSISTANT], "more": 1}


def test_a_question_in_words_goes_before_a_conversation() -> None:
    row = {"question": "Why?", "messages": [USER]}
    assert with_question(row) == row


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER, ASSISTANT, WHY], "chosen": "Because.", "rejected": "No."},
        {"prompt": TRANSCRIPT, "chosen": "Because.", "rejected": "No."},
        {"chosen": TRANSCRIPT + " Because.", "rejected": TRANSCRIPT + " No."},
        {
            "chosen": [USER, ASSISTANT, WHY, {"role": "assistant", "content": "Because."}],
            "rejected": [USER, ASSISTANT, WHY, {"role": "assistant", "content": "No."}],
        },
    ],
    ids=["prompt messages", "prompt transcript", "two transcripts", "two conversations"],
)
def test_published_preferences_are_pairs_in_whichever_form(row: dict[str, Any]) -> None:
    pair = Pair.model_validate(with_question(row))
    assert (pair.question, pair.chosen, pair.rejected) == ("Why?", "Because.", "No.")
    assert [turn.model_dump() for turn in pair.history or ()] == [USER, ASSISTANT]


def test_two_conversations_that_differ_before_the_answer_are_no_pair() -> None:
    other = TRANSCRIPT.replace("Hello", "Go away")
    assert "question" not in with_question({"chosen": TRANSCRIPT + " Because.", "rejected": other + " No."})


@pytest.mark.parametrize(
    ("flags", "unsafe"),
    [({"unsafe": 1}, True), ({"unsafe": False}, False), ({"safe": True}, False), ({"safe": 0}, True),
     ({"unsafe": True, "safe": True}, True)],
)  # fmt: skip
def test_a_safety_label_may_be_written_as_its_opposite(flags: dict[str, Any], unsafe: bool) -> None:
    assert Safety.model_validate({"question": "Q?", "answer": "A.", **flags}).unsafe is unsafe
