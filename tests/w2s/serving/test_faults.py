"""What a bad upstream, a failing corrector and bad clients get: the right status each, and a server that lives."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.aligner_core.endpoint import Endpoint, running
from tests.w2s.serving.server import KEY, at, said, serving, settings

SECRET = "what-another-client-said"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Endpoint]:
    with running(Endpoint({})) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def url(upstream: Endpoint) -> Iterator[str]:
    """One server for all faults: each test also says that it outlived the ones before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_KEY", KEY)
        limits = {"upstream_seconds": 1.5, "max_answer_bytes": 1_000_000, "body_seconds": 1.5}
        with serving(settings(upstream, **limits)) as base:
            yield base


@pytest.fixture(autouse=True)
def _alive(upstream: Endpoint, url: str) -> Iterator[None]:
    """Before each test somebody else asks; after it the server answers as ever."""
    upstream.faults = {}
    assert post(url, said(SECRET)).status_code == 200
    yield
    upstream.faults = {}
    assert post(url, said("still there?")).json()["choices"][0]["message"]["content"] == "STILL THERE?"


def post(url: str, content: Any, **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/chat/completions", json=content, timeout=20, **more)


def clean(response: httpx.Response) -> None:
    """The form of an error, without the key or what others said."""
    assert KEY not in response.text + str(response.headers)
    assert SECRET.lower() not in response.text.lower()
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("cut", 502, "upstream_cut"), ("invalid_json", 502, "upstream_invalid"), ("no_choices", 502, "upstream_invalid"),
     ("timeout", 504, "upstream_timeout"), ("slow_bytes", 504, "upstream_timeout"),
     ("huge", 502, "upstream_too_large"), ("302", 502, "upstream_invalid")],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_bad_upstream_is_told_by_status(
    url: str, upstream: Endpoint, fault: str, status: int, code: str, stream: bool
) -> None:
    upstream.faults = {fault: 1.0}
    response = post(url, said("hi", stream=stream))
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    clean(response)


@pytest.mark.parametrize("status", ["400", "401", "429", "429_retry_after", "500", "503"])
def test_the_upstreams_own_errors_keep_status_and_body_but_not_the_key(
    url: str, upstream: Endpoint, status: str
) -> None:
    upstream.faults = {status: 1.0}
    response = post(url, said("hi"))
    assert response.status_code == int(status[:3])
    if status == "429_retry_after":
        assert response.headers["retry-after"] == upstream.pause
    else:
        assert response.text.endswith("Bearer (key)")
    assert KEY not in response.text


def test_a_refused_connection_is_a_502() -> None:
    with running(Endpoint({})) as gone:
        pass
    with serving(settings(gone)) as url:
        for stream in (False, True):
            response = post(url, said("hi", stream=stream))
            assert response.status_code == 502
            clean(response)


def test_who_waits_for_a_busy_upstream_is_told_in_time(upstream: Endpoint) -> None:
    upstream.faults = {"timeout": 1.0}
    with (
        serving(settings(upstream, concurrency=1, upstream_seconds=0.3)) as url,
        ThreadPoolExecutor(3) as threads,
    ):
        started = time.monotonic()
        found = list(threads.map(lambda _: post(url, said("hi")).status_code, range(3)))
    assert found == [504, 504, 504]
    assert time.monotonic() - started < 3


def test_a_list_of_models_that_does_not_come_is_told_by_status() -> None:
    with running(Endpoint({})) as gone:
        pass
    with serving(settings(gone)) as url:
        assert httpx.get(f"{url}/models").status_code == 502


def test_a_cut_stream_that_passed_untouched_ends_in_an_error(url: str, upstream: Endpoint) -> None:
    upstream.faults = {"cut_stream": 1.0}
    body = said("a b c d e f", stream=True, w2s={"correct": False})
    text = post(url, body).text
    assert '"upstream_cut"' in text
    assert "[DONE]" not in text


def test_a_late_upstream_error_comes_as_an_event_after_comments(upstream: Endpoint) -> None:
    upstream.faults = {"timeout": 1.0}
    with serving(settings(upstream, upstream_seconds=0.4, keepalive_seconds=0.1)) as url:
        response = post(url, said("hi", stream=True))
    assert response.status_code == 200
    events = response.text.strip().split("\n\n")
    assert events[:2] == [": waiting", ": waiting"]
    assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "upstream_timeout"


@pytest.mark.parametrize("fault", ["500", "401", "cut", "invalid_json"])
def test_a_failing_corrector_fails_closed_or_open(upstream: Endpoint, fault: str) -> None:
    with running(Endpoint({fault: 1.0})) as aligner:
        with serving(settings(upstream, at(aligner))) as url:
            closed = post(url, said("hi"))
        with serving(settings(upstream, at(aligner), fail="open")) as url:
            opened = post(url, said("hi")).json()
    assert closed.status_code == 503
    assert int(closed.headers["retry-after"]) > 0
    assert "HI" not in closed.text
    clean(closed)
    assert opened["choices"][0]["message"]["content"] == "HI"
    assert opened["w2s"]["choices"][0]["reason"].startswith("failed: ")


def test_a_correction_that_takes_too_long_is_a_failure(upstream: Endpoint) -> None:
    with running(Endpoint({})) as aligner:
        aligner.delay = 5.0
        with serving(settings(upstream, at(aligner), fail="open", correction_seconds=0.2)) as url:
            answer = post(url, said("hi")).json()
    assert answer["w2s"]["choices"][0] == {"corrected": False, "reason": "failed: timeout"}


@pytest.mark.parametrize(
    "content",
    [[], "text", 5, {}, {"model": "m"}, {"model": "m", "messages": []}, {"model": "m", "messages": "hi"},
     {"model": 5, "messages": [{}]}, {"model": "m", "messages": ["hi"]}, said("hi", stream="yes"),
     said("hi", w2s={"rounds": 0}), said("hi", w2s={"rounds": 99}), said("hi", w2s={"nonsense": 1}),
     said("hi", w2s={"threshold": 1.0}), said("hi", w2s=None), said("hi", stream_options=[])],
)  # fmt: skip
def test_wrong_types_are_400_and_reach_no_upstream(url: str, upstream: Endpoint, content: Any) -> None:
    before = len(upstream.requests)
    response = post(url, content)
    assert response.status_code == 400
    assert len(upstream.requests) == before
    clean(response)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"model": NaN}', b"[" * 100_000, b"9" * 10_000])
def test_what_is_no_json_is_a_400(url: str, body: bytes) -> None:
    response = httpx.post(f"{url}/chat/completions", content=body, timeout=20)
    assert response.status_code == 400
    clean(response)


def test_messages_of_strange_shapes_are_the_upstreams_business(url: str, upstream: Endpoint) -> None:
    strange: list[Any] = [{"role": 5, "content": {"a": 1}}, {"role": "user", "content": [[]]}, {"content": None}]
    for message in strange:
        answer = post(url, {"model": "m", "messages": [message]}).json()
        assert answer["w2s"]["choices"] == [{"corrected": False, "reason": "not_text"}]
        assert upstream.requests[-1]["messages"] == [message]


def test_lone_surrogates_pass_through(url: str) -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "a \\ud800"}]}'
    response = httpx.post(f"{url}/chat/completions", content=body, timeout=20)
    assert response.status_code == 200
    assert "\\ud800" in response.text


def test_a_body_of_50_mb_is_a_413(url: str, upstream: Endpoint) -> None:
    before = len(upstream.requests)
    response = post(url, said("a" * 50_000_000))
    assert response.status_code == 413
    assert len(upstream.requests) == before
    clean(response)


def test_headers_of_clients_go_nowhere(url: str, upstream: Endpoint) -> None:
    sent = {"Authorization": "Bearer clients-own", "X-Forwarded-Host": "evil", "Cookie": "a=b", "OpenAI-Project": "p"}
    post(url, said("hi\r\nX-Evil: 1", model="m\r\nX-Evil: 1"), headers=sent)
    headers = upstream.headers[-1]
    assert headers["authorization"] == f"Bearer {KEY}"
    assert not {"x-evil", "x-forwarded-host", "cookie", "openai-project"} & set(headers)


@pytest.mark.parametrize(
    "head",
    [b"X-A: b\x00c\r\n", b"X A: b\r\n", b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: -1\r\n",
     b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"],
)  # fmt: skip
def test_forged_headers_are_refused(url: str, upstream: Endpoint, head: bytes) -> None:
    before = len(upstream.requests)
    with connection(url) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + head + b"\r\n{}\r\n\r\n")
        answer = client.recv(65536)
    assert not answer or b" 400 " in answer.split(b"\r\n")[0]
    assert len(upstream.requests) == before


def test_a_body_that_does_not_come_is_a_408(url: str) -> None:
    with connection(url) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{")
        assert b" 408 " in client.recv(65536).split(b"\r\n")[0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_place(upstream: Endpoint, stream: bool) -> None:
    upstream.delay = 30.0
    body = json.dumps(said("hi", stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    try:
        with serving(settings(upstream, max_requests=1, concurrency=1, keepalive_seconds=0.1)) as base:
            with connection(base) as client:
                client.sendall(head + body)
                time.sleep(0.3)
                assert post(base, said("hi")).status_code == 429
            upstream.delay = 0.0
            statuses = []
            while 200 not in statuses and len(statuses) < 40:
                statuses.append(post(base, said("hi")).status_code)
                time.sleep(0.05)
        assert statuses[-1] == 200
    finally:
        upstream.delay = 0.0


def test_a_client_that_goes_away_mid_body_leaves_no_trace(url: str, caplog: pytest.LogCaptureFixture) -> None:
    with connection(url) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{")
    time.sleep(0.2)
    assert post(url, said("hi")).status_code == 200
    assert "Traceback" not in caplog.text


def test_a_client_that_goes_away_mid_stream_harms_nobody(url: str) -> None:
    for _ in range(5):
        with httpx.stream("POST", f"{url}/chat/completions", json=said("a " * 5_000, stream=True)) as response:
            next(response.iter_lines())
    assert post(url, said("hi")).status_code == 200


def test_who_comes_when_the_house_is_full_is_told_429_and_when_to_come_again(upstream: Endpoint) -> None:
    with serving(settings(upstream, max_requests=1)) as url, connection(url) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{")
        time.sleep(0.2)
        response = post(url, said("hi"))
        assert httpx.get(url.removesuffix("/v1") + "/health").json()["status"] == "ok"
    assert response.status_code == 429
    assert int(response.headers["retry-after"]) > 0
    clean(response)


def test_unknown_paths_and_methods_have_the_form_of_errors(url: str) -> None:
    assert httpx.get(f"{url}/nothing").status_code == 404
    response = httpx.get(f"{url}/chat/completions")
    assert response.status_code == 405
    clean(response)


def test_switches_can_be_refused_and_the_original_hidden(upstream: Endpoint) -> None:
    with (
        running(Endpoint({})) as aligner,
        serving(settings(upstream, at(aligner), switches=False, original=False)) as url,
    ):
        refused = post(url, said("hi", w2s={"correct": False}))
        answer = post(url, said("hi")).json()
    assert refused.status_code == 400
    assert "original" not in answer["w2s"]["choices"][0]


def test_no_key_stands_in_the_log(url: str, upstream: Endpoint, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    caplog.set_level("DEBUG")
    for fault in ("401", "cut", "429"):
        upstream.faults = {fault: 1.0}
        post(url, said("hi"))
    assert KEY not in caplog.text + "".join(capfd.readouterr())


def connection(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    return socket.create_connection((host, int(port)), timeout=5)
