"""Clients as people use them: the openai SDK, and curl."""

from __future__ import annotations

import asyncio
import json
import subprocess

import openai
import pytest

from tests.aligner_core.endpoint import Endpoint, running
from tests.w2s.serving.server import at, serving, settings

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "reply"},
    {"role": "user", "content": "question one"},
]
# What the Aligner of these tests makes of the answer QUESTION ONE: its own prompt in capitals.
CORRECTED = "QUESTION: QUESTION ONE\n\nANSWER: QUESTION ONE"


def test_the_sdk_gets_the_correction_and_the_original_and_the_aligner_sees_the_conversation() -> None:
    with running(Endpoint({})) as upstream, running(Endpoint({})) as aligner:
        with serving(settings(upstream, at(aligner))) as url:
            client = openai.OpenAI(base_url=url, api_key="clients-own", max_retries=0)
            answer = client.chat.completions.create(model="m", messages=TALK, n=2, temperature=0.5)  # type: ignore[call-overload]
            models = [model.id for model in client.models.list()]
        asked, corrections = upstream.requests, aligner.requests
        keys = upstream.keys
    assert [choice.message.content.endswith(CORRECTED) for choice in answer.choices] == [True, True]
    assert answer.w2s["choices"][1]["original"] == "QUESTION ONE"
    assert answer.w2s["choices"][1]["copied"] is False
    assert answer.w2s["upstream_seconds"] > 0
    assert answer.w2s["correction_seconds"] > 0
    assert answer.usage.completion_tokens == len("question one")
    assert models == ["m"]
    assert asked == [{"model": "m", "messages": TALK, "n": 2, "temperature": 0.5}]
    assert [turn["role"] for turn in corrections[0]["messages"]] == ["system", "user", "assistant", "user"]
    assert "clients-own" not in "".join(map(str, keys))


def test_the_async_sdk_gets_its_own_answers_from_requests_side_by_side() -> None:
    async def ask(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"mark {n}."}])
                    for n in range(40)
                )
            )
        return [str(answer.choices[0].message.content) for answer in answers]

    with running(Endpoint({})) as upstream, running(Endpoint({})) as aligner:
        with serving(settings(upstream, at(aligner))) as url:
            found = asyncio.run(ask(url))
        assert 1 < aligner.most_at_once <= 8
    assert [text.endswith(f"ANSWER: MARK {n}.") for n, text in enumerate(found)] == [True] * 40


def test_the_sdk_streams_the_correction_in_pieces_with_metadata_and_usage_at_the_end() -> None:
    with (
        running(Endpoint({})) as upstream,
        running(Endpoint({})) as aligner,
        serving(settings(upstream, at(aligner))) as url,
    ):
        client = openai.OpenAI(base_url=url, api_key="x", max_retries=0)
        options = {"include_usage": True}
        stream = client.chat.completions.create(model="m", messages=TALK, stream=True, stream_options=options)  # type: ignore[call-overload]
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.endswith(CORRECTED)
    assert len(chunks) > 5
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "stop"]
    assert chunks[-1].usage.completion_tokens == len("question one")
    assert chunks[-1].w2s["choices"][0]["original"] == "QUESTION ONE"


def test_the_async_sdk_streams_untouched_where_correction_is_switched_off() -> None:
    async def ask(url: str) -> str:
        async with openai.AsyncOpenAI(base_url=url, api_key="x", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "a b c"}], stream=True,
                extra_body={"w2s": {"correct": False}},
            )  # fmt: skip
            return "|".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    with running(Endpoint({})) as upstream, running(Endpoint({})) as aligner:
        with serving(settings(upstream, at(aligner))) as url:
            assert asyncio.run(ask(url)) == "A|B|C"
        assert aligner.requests == []
        assert "w2s" not in upstream.requests[0]


@pytest.mark.parametrize("stream", [False, True])
def test_curl_gets_an_answer(stream: bool) -> None:
    body = json.dumps({"model": "m", "messages": TALK, "stream": stream})
    with running(Endpoint({})) as upstream, serving(settings(upstream)) as url:
        command = ["curl", "-sS", "--noproxy", "*", "-m", "20", f"{url}/chat/completions", "-d", body]
        written = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if stream:
        assert written.endswith("data: [DONE]\n\n")
        chunks = [json.loads(line[6:]) for line in written.split("\n\n")[:-2]]
        assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "QUESTION ONE"
    else:
        answer = json.loads(written)
        assert answer["choices"][0]["message"]["content"] == "QUESTION ONE"
        assert answer["w2s"]["choices"][0]["copied"] is True
