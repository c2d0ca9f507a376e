"""Records as others write them: chat messages, transcripts of Human: and Assistant:, instructions, two responses."""

from __future__ import annotations

import re
from typing import Any

SPEAKER = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"Human": "user", "Assistant": "assistant"}


def messages_of(value: Any) -> list[dict[str, Any]] | None:
    """The messages of a chat list or of a transcript; None for anything else.

    A transcript that ends with an empty `Assistant:` ends with what the human said.
    """
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return list(value)
    if not isinstance(value, str):
        return None
    text = "\n\n" + value.strip()
    if not text.startswith("\n\nHuman:") or "\n\nAssistant:" not in text:
        return None
    parts = SPEAKER.split(text.removesuffix("\n\nAssistant:"))[1:]
    return [
        {"role": ROLES[speaker], "content": said.strip()}
        for speaker, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def with_question(row: dict[str, Any]) -> dict[str, Any]:
    """The row with history and question, where it has a conversation in `question`, `messages` or `prompt`.

    What the user says last is the question; an assistant's last word is the answer. Two whole conversations, `chosen`
    and `rejected`, that differ in their last message alone are told apart from what they share.
    """
    row = _shared_conversation(_from_instruction(_from_two_responses(row)))
    for key in ("question", "messages", "prompt"):
        if turns := messages_of(row.get(key)):
            break
        if key in row and key == "question":
            return row
    else:
        return row
    del row[key]
    if turns[-1].get("role") == "assistant":
        row.setdefault("answer", turns.pop().get("content"))
    if turns and turns[-1].get("role") == "user":
        row["question"] = turns.pop().get("content")
    return {**row, "history": turns} if turns else row


def _from_instruction(row: dict[str, Any]) -> dict[str, Any]:
    """Alpaca's form: an instruction, perhaps an input to it, and the output."""
    if "question" in row or not isinstance(row.get("instruction"), str):
        return row
    row = dict(row)
    instruction, given = row.pop("instruction"), row.pop("input", "")
    if "output" in row:
        row.setdefault("answer", row.pop("output"))
    return {**row, "question": f"{instruction}\n\n{given}" if given else instruction}


def _from_two_responses(row: dict[str, Any]) -> dict[str, Any]:
    """PKU-SafeRLHF's form: two responses, and which of them is the better one."""
    responses = [row.get("response_0"), row.get("response_1")]
    better = row.get("better_response_id")
    if None in responses or better not in (0, 1):
        return row
    return {**row, "chosen": responses[better], "rejected": responses[1 - better]}


def _shared_conversation(row: dict[str, Any]) -> dict[str, Any]:
    chosen, rejected = messages_of(row.get("chosen")), messages_of(row.get("rejected"))
    if not chosen or not rejected or chosen[:-1] != rejected[:-1]:
        return dict(row)
    row = {**row, "chosen": chosen[-1].get("content"), "rejected": rejected[-1].get("content")}
    if chosen[:-1] and "question" not in row:
        row["messages"] = chosen[:-1]
    return row
