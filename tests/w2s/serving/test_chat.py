"""What of a conversation is corrected, and how a whole answer becomes a stream."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core.correctors.protocol import Revision
from tests.w2s.serving.server import said
from w2s.serving.chat import ChatRequest, cases_of, corrected_choice, question_of, untouched_reason
from w2s.serving.streaming import chunks_of

IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
TEXTS = st.text(max_size=60)


def turns(*pairs: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in pairs]


def test_turns_become_what_templates_take() -> None:
    parts = [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]
    talk = turns(("assistant", "Hello!"), ("developer", "d"), ("user", "a"), ("user", "b"), ("assistant", "c"),
                 ("system", "s"), ("user", parts))  # fmt: skip
    found = question_of(talk)
    assert found is not None
    question, history = found
    assert question == "q!"
    assert [(turn.role, turn.content) for turn in history] == [
        ("system", "d\n\ns"),
        ("user", "a\n\nb"),
        ("assistant", "c"),
    ]


@given(st.lists(st.tuples(st.sampled_from(["system", "developer", "user", "assistant"]), TEXTS), max_size=8))
def test_a_history_alternates_and_loses_no_text(pairs: list[tuple[str, str]]) -> None:
    spoken = groupby([pair for pair in pairs if pair[0] in ("user", "assistant")], key=lambda pair: pair[0])
    merged = [(role, "\n\n".join(text for _, text in group)) for role, group in spoken]
    expected = merged[1:] if merged and merged[0][0] == "assistant" else merged
    found = question_of(turns(*pairs))
    if not expected or expected[-1][0] != "user" or not expected[-1][1].strip():
        assert found is None
        return
    assert found is not None
    question, history = found
    assert [(turn.role, turn.content) for turn in history if turn.role != "system"] == expected[:-1]
    assert question == expected[-1][1]
    system = [text for role, text in pairs if role in ("system", "developer")]
    assert [turn.content for turn in history if turn.role == "system"] == (["\n\n".join(system)] if system else [])


@pytest.mark.parametrize(
    "messages",
    [turns(("user", [{"type": "text", "text": "what is it?"}, IMAGE])), turns(("user", "q"), ("tool", "42")),
     [*turns(("user", "q")), {"role": "assistant", "content": "x", "tool_calls": [{}]}, *turns(("user", "q"))],
     turns(("user", "q"), ("assistant", "prefix")), turns(("user", " ")), turns(("system", "s"))],
)  # fmt: skip
def test_images_tools_and_talks_that_end_otherwise_are_left_alone(messages: list[dict[str, Any]]) -> None:
    assert untouched_reason(ChatRequest(model="m", messages=messages)) == "not_text"


def test_an_answer_after_a_schema_is_left_alone() -> None:
    request = ChatRequest.model_validate(said("q", response_format={"type": "json_schema"}))
    assert untouched_reason(request) == "structured_answer"


@pytest.mark.parametrize(
    "message",
    [{"content": None, "tool_calls": [{"id": "1"}]}, {"content": "Let me look.", "tool_calls": [{"id": "1"}]},
     {"content": None, "refusal": "no"}, {"content": ""}, {"content": [IMAGE]}, {}],
)  # fmt: skip
def test_of_several_choices_those_with_text_alone_are_corrected(message: dict[str, Any]) -> None:
    answer = {"choices": [{"message": message}, {"message": {"content": "text"}}]}
    cases = cases_of(ChatRequest.model_validate(said("q")), answer)
    assert cases[0] is None
    assert cases[1] is not None
    assert cases[1].answer == "text"


def test_a_changed_text_loses_its_log_probabilities_and_tells_if_it_was_cut() -> None:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "a"},
        "finish_reason": "stop",
        "logprobs": {"x": 1},
    }
    assert corrected_choice(choice, Revision("a")) == choice
    changed = corrected_choice(choice, Revision("b", finished=False))
    assert changed == {"index": 0, "message": {"role": "assistant", "content": "b"}, "finish_reason": "length",
                       "logprobs": None}  # fmt: skip


@given(st.lists(TEXTS, min_size=1, max_size=3), st.booleans())
def test_the_chunks_of_a_stream_add_up_to_the_answer(texts: list[str], with_usage: bool) -> None:
    calls = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
    choices: list[dict[str, Any]] = [
        {"index": number, "message": {"content": text}, "finish_reason": "stop"} for number, text in enumerate(texts)
    ]
    choices.append(
        {"index": len(texts), "message": {"content": None, "tool_calls": calls}, "finish_reason": "tool_calls"}
    )
    answer = {"id": "i", "model": "m", "created": 1, "choices": choices, "usage": {"total_tokens": 3}, "w2s": {"x": 1}}
    chunks = list(chunks_of(answer, with_usage))
    said_by: dict[int, str] = dict.fromkeys(range(len(choices)), "")
    for chunk in chunks:
        assert chunk["object"] == "chat.completion.chunk"
        for item in chunk["choices"]:
            said_by[item["index"]] += item["delta"].get("content") or ""
    assert list(said_by.values()) == [*texts, ""]
    assert [chunk for chunk in chunks if "w2s" in chunk] == chunks[-1:]
    assert ("usage" in chunks[-1]) is with_usage
    deltas = [item["delta"] for chunk in chunks for item in chunk["choices"] if "tool_calls" in item["delta"]]
    assert [delta["tool_calls"] for delta in deltas] == [[{**calls[0], "index": 0}]]
