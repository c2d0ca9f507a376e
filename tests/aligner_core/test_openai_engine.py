"""The openai engine: settings arrive as they were meant, and a bad server costs time, never a row."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from aligner_core.engines import openai_engine
from aligner_core.engines.openai_engine import OpenAIEngine
from aligner_core.engines.protocol import Prompt, Sampling
from aligner_core.errors import UserError
from aligner_core.model_ids import model_identity, unknown_model_reason
from aligner_core.profile import Endpoints
from aligner_core.records import Turn
from aligner_core.templates import conversation
from tests.aligner_core.endpoint import FAULTS, Endpoint, running

KEY = "sk-never-to-be-seen-0123456789"
GREEDY = Sampling(max_new_tokens=16)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_engine, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(openai_engine, "LONGEST_PAUSE", 0.05)
    monkeypatch.setenv("TEST_KEY", KEY)


def engine(endpoint: Endpoint, **changes: Any) -> OpenAIEngine:
    host = endpoint.url.removeprefix("http://").removesuffix("/v1")
    place = Endpoints(**{"timeout_seconds": 0.5, "key_variables": {host: "TEST_KEY"}, **changes})
    return OpenAIEngine(f"{endpoint.url}#small", place)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(conversation(f"question {number}")) for number in range(count)]


def test_completions_come_in_the_order_of_their_prompts_from_requests_side_by_side() -> None:
    with running(Endpoint({})) as endpoint:
        completions = engine(endpoint, concurrency=8).generate(prompts(40), GREEDY, seed=0)
    assert [item.text for item in completions] == [f"QUESTION {number}" for number in range(40)]
    assert all(item.finished and item.error is None and item.tokens == len(item.text) for item in completions)
    assert 1 < endpoint.most_at_once <= 8


def test_conversation_settings_and_seeds_arrive() -> None:
    turns = (Turn(role="user", content="a"), Turn(role="assistant", content="b"), Turn(role="user", content="c"))
    sampling = Sampling(9, temperature=0.3, top_k=10, top_p=0.95, repetition_penalty=1.1, frequency_penalty=1.2)
    with running(Endpoint({})) as endpoint:
        engine(endpoint).generate([Prompt(turns), Prompt(turns)], sampling, seed=2**32 + 5)
        engine(endpoint).generate([Prompt(turns)], GREEDY, seed=1)
    first, second, greedy = endpoint.requests
    assert first["messages"] == [{"role": turn.role, "content": turn.content} for turn in turns]
    expected = {"max_tokens": 9, "temperature": 0.3, "top_k": 10, "top_p": 0.95, "repetition_penalty": 1.1,
                "frequency_penalty": 1.2, "model": "small"}  # fmt: skip
    assert expected.items() <= first.items()
    assert {first["seed"], second["seed"]} == {5, 6}
    assert set(greedy) == {"model", "messages", "max_tokens", "temperature", "seed"}


def test_a_hostile_endpoint_costs_no_row_and_shows_no_key(capfd: pytest.CaptureFixture[str]) -> None:
    with running(Endpoint(dict.fromkeys(FAULTS, 0.1))) as endpoint:
        completions = engine(endpoint, concurrency=64, retries=3, timeout_seconds=1.5).generate(
            prompts(300), GREEDY, seed=0
        )
    assert set(endpoint.met) == set(FAULTS)
    done = [item for item in completions if item.error is None]
    failed = [item for item in completions if item.error]
    assert len(completions) == 300
    assert len(done) > 150
    assert failed, "with three retries some row should have failed, and been listed"
    for number, item in enumerate(completions):
        assert item.error or item.text == f"QUESTION {number}"
    kinds = {str(item.error).split(":")[0] for item in failed}
    assert kinds <= {"http_429", "http_500", "timeout", "connection", "invalid_json", "no_choice"}
    assert endpoint.keys == {f"Bearer {KEY}"}
    assert KEY not in repr(completions) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("429", "http_429"), ("500", "http_500"), ("timeout", "timeout"), ("cut", "connection"),
     ("invalid_json", "invalid_json"), ("no_choices", "no_choice"), ("400", "http_400")],
)  # fmt: skip
def test_what_fails_for_good_is_a_completion_with_the_kind_of_error(fault: str, kind: str) -> None:
    with running(Endpoint({fault: 1.0})) as endpoint:
        (completion,) = engine(endpoint, retries=2, timeout_seconds=0.1).generate(prompts(1), GREEDY, seed=0)
    assert str(completion.error).split(":")[0] == kind
    assert not completion.finished
    assert KEY not in str(completion.error)
    assert len(endpoint.requests) == (1 if fault == "400" else 3), "what cannot pass is not tried again"


def test_a_requested_pause_is_kept_by_all_requests() -> None:
    with running(Endpoint({"429_retry_after": 1.0})) as endpoint:
        endpoint.pause = "0.4"
        started = time.monotonic()
        engine(endpoint, retries=1).generate(prompts(4), GREEDY, seed=0)
        assert time.monotonic() - started >= 0.4


def test_a_pause_without_end_is_a_failure_instead() -> None:
    with running(Endpoint({"429_retry_after": 1.0})) as endpoint:
        endpoint.pause = "86400"
        (completion,) = engine(endpoint).generate(prompts(1), GREEDY, seed=0)
    assert str(completion.error).startswith("http_429")
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_refused_key_or_unknown_model_ends_it_at_once_without_showing_the_key(status: str) -> None:
    with running(Endpoint({status: 1.0})) as endpoint, pytest.raises(UserError) as caught:
        engine(endpoint).generate(prompts(3), GREEDY, seed=0)
    assert f"{status} for Bearer (key)" in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_key_goes_to_the_host_it_is_named_for_and_a_missing_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Endpoint({})) as endpoint:
        engine(endpoint, key_variables={"elsewhere.org": "TEST_KEY"}).generate(prompts(1), GREEDY, seed=0)
        monkeypatch.delenv("TEST_KEY")
        with pytest.raises(UserError, match="TEST_KEY is not set"):
            engine(endpoint)
    assert endpoint.keys == {None}


def test_weights_that_others_serve_cannot_be_replaced() -> None:
    with running(Endpoint({})) as endpoint, pytest.raises(UserError, match="cannot be replaced"):
        engine(endpoint).refresh(Path("checkpoint"))


def test_an_endpoint_is_a_model_whose_identity_is_its_url_and_name() -> None:
    assert unknown_model_reason("https://host:8000/v1#name") is None
    assert model_identity("https://host:8000/v1/#name") == "endpoint:https://host:8000/v1#name"
    assert "names no model" in str(unknown_model_reason("https://host/v1"))
    assert "no password" in str(unknown_model_reason("https://me:secret@host/v1#name"))
