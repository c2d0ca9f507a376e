"""Requests and answers of the chat completions protocol: what of them can be corrected, and what becomes of it.

Only text is corrected. A conversation with images or tools in it, an answer that calls tools and one that has to
follow a schema are passed on as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from aligner_core.correctors.protocol import Case, Revision
from aligner_core.recipe import Count, Strict
from aligner_core.records import MAX_CHARACTERS, Turn
from w2s.serving.errors import ApiError

Role = Literal["system", "user", "assistant"]
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
OURS = ("w2s", "stream", "stream_options")


class Switches(Strict):
    """A request's field `w2s`."""

    correct: bool = True
    rounds: Count = 1
    threshold: Annotated[float, Field(allow_inf_nan=False)] | None = None


class ChatRequest(BaseModel):
    """The keys that matter here; all others are the upstream's business."""

    model_config = ConfigDict(strict=True)
    model: str = Field(min_length=1)
    messages: list[dict[str, Any]] = Field(min_length=1)
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    w2s: Switches = Switches()


def parse_json(body: bytes) -> Any:
    """Strict JSON.

    Raises:
        ValueError: if it is not, nests too deep, or holds NaN.
    """
    try:
        return json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nests too deep") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse_request(body: bytes) -> tuple[ChatRequest, dict[str, Any]]:
    """The request, checked, and all that it says.

    Raises:
        ApiError: 400, with what is wrong where; the value itself is not quoted.
    """
    try:
        content = parse_json(body)
    except ValueError:
        raise ApiError(400, "invalid_request_error", "the body is not valid JSON") from None
    if not isinstance(content, dict):
        raise ApiError(400, "invalid_request_error", "the body is not a JSON object")
    try:
        return ChatRequest.model_validate(content), content
    except ValidationError as error:
        found = error.errors(include_input=False, include_url=False)
        text = "; ".join(f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in found[:5])
        raise ApiError(400, "invalid_request_error", text) from None


def for_upstream(content: Mapping[str, Any]) -> dict[str, Any]:
    """The request for the whole answer, without what is meant for this server."""
    return {name: value for name, value in content.items() if name not in OURS}


def untouched_reason(request: ChatRequest) -> str | None:
    """Why no answer to this request is corrected, or None."""
    if not request.w2s.correct:
        return "switched_off"
    if (request.response_format or {}).get("type", "text") != "text":
        return "structured_answer"
    return None if question_of(request.messages) else "not_text"


def question_of(messages: Sequence[Mapping[str, Any]]) -> tuple[str, list[Turn]] | None:
    """The user's last message and the turns before it; None where they are not all text.

    Neighbours of one role become one turn, system messages one in front: chat templates take no others.
    """
    turns: list[tuple[Role, str]] = []
    system: list[str] = []
    for message in messages:
        role, text = ROLES.get(str(message.get("role"))), _text(message.get("content"))
        if role is None or text is None or any(message.get(key) for key in ("tool_calls", "function_call", "audio")):
            return None
        if role == "system":
            system.append(text)
        elif turns and turns[-1][0] == role:
            turns[-1] = (role, f"{turns[-1][1]}\n\n{text}")
        elif turns or role == "user":  # an assistant's greeting before any question is left out
            turns.append((role, text))
    if not turns or turns[-1][0] != "user" or not turns[-1][1].strip():
        return None
    before: list[tuple[Role, str]] = [("system", "\n\n".join(system))] if system else []
    history = [Turn.model_construct(role=role, content=text) for role, text in before + turns[:-1]]
    return turns[-1][1], history


def _text(content: Any) -> str | None:
    """A message's text, whether it is written as one or as a list of text parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        return None
    parts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in content]
    return "".join(map(str, parts)) if all(isinstance(part, str) for part in parts) else None


def check_answer(answer: Any) -> dict[str, Any]:
    """The upstream's answer, if it is one.

    Raises:
        ApiError: 502.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not choices or not isinstance(choices, list) or not all(
        isinstance(choice, dict) and isinstance(choice.get("message"), dict) for choice in choices
    ):  # fmt: skip
        raise ApiError(502, "upstream_invalid", "the upstream's answer holds no choices")
    return dict(answer)


def cases_of(request: ChatRequest, answer: Mapping[str, Any]) -> list[Case | None]:
    """What there is to correct: one case per choice, None where it has no text or calls tools."""
    asked = question_of(request.messages)
    assert asked is not None
    question, history = asked
    return [
        Case(question, choice["message"]["content"], history or None) if _is_text(choice["message"]) else None
        for choice in answer["choices"]
    ]


def _is_text(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    others = any(message.get(key) for key in ("tool_calls", "function_call", "audio", "refusal"))
    return isinstance(content, str) and bool(content.strip()) and not others


def too_long(case: Case) -> bool:
    return max(len(case.question), len(case.answer)) > MAX_CHARACTERS


def corrected_choice(choice: Mapping[str, Any], revision: Revision) -> dict[str, Any]:
    """The choice with the correction as its text. Its log-probabilities were another text's, so they go."""
    if revision.text == choice["message"]["content"]:
        return dict(choice)
    reason = choice.get("finish_reason") if revision.finished else "length"
    message = {**choice["message"], "content": revision.text}
    return {**choice, "message": message, "finish_reason": reason, "logprobs": None}
