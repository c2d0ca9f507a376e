"""Corrections inside the server: batches, rounds, gates, failures, and an Aligner in the process."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from aligner_core.correctors.aligner import Aligner
from aligner_core.correctors.protocol import Case, Revision
from aligner_core.embedded_models import local_folder
from aligner_core.engines.protocol import Sampling
from aligner_core.engines.transformers_engine import TransformersEngine
from aligner_core.errors import UserError
from aligner_core.records import Turn
from aligner_core.stage_context import ModelLocation
from tests.aligner_core.endpoint import Endpoint, running
from tests.command_line import command, w2s
from tests.w2s.serving.server import at, said, serving, settings
from w2s.serve import serve
from w2s.serving.app import create_app
from w2s.serving.correction_queue import CorrectionQueue
from w2s.serving.live_corrector import Job, LiveCorrector

TINY = {"kind": "aligner", "model": "embedded:tiny-random", "template": "chat@1"}


class Slow:
    """Takes its time for a batch, and fails on the word bad."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def correct(self, jobs: Sequence[Job]) -> list[Revision]:
        texts = [job.case.answer for job in jobs]
        self.batches.append(texts)
        time.sleep(0.03)
        if "bad" in texts:
            raise ValueError("of " + " ".join(texts))
        return [Revision(text.upper()) for text in texts]

    def close(self) -> None:
        self.batches.append(["closed"])


def job(answer: str) -> Job:
    return Job(Case("q", answer))


def run_queue(worker: Slow, answers: Sequence[str], batch: int, gone: Sequence[str] = ()) -> list[Revision]:
    async def run() -> list[Revision]:
        queue = CorrectionQueue([worker], batch, collect_seconds=0.01)
        await queue.start()
        tasks = {answer: asyncio.create_task(queue.correct(job(answer))) for answer in answers}
        await asyncio.sleep(0)
        for answer in gone:
            tasks[answer].cancel()
        found = await asyncio.gather(*(task for answer, task in tasks.items() if answer not in gone))
        await queue.close()
        return list(found)

    return asyncio.run(run())


def test_what_comes_together_is_corrected_together_and_each_gets_its_own() -> None:
    worker = Slow()
    found = run_queue(worker, [f"a{n}" for n in range(10)], batch=4)
    assert [revision.text for revision in found] == [f"A{n}" for n in range(10)]
    assert [len(batch) for batch in worker.batches[1:4]] == [4, 4, 2]


def test_nobody_is_corrected_who_no_longer_waits() -> None:
    worker = Slow()
    run_queue(worker, ["a", "b", "c"], batch=4, gone=["b"])
    assert worker.batches[1] == ["a", "c"]


def test_a_failing_batch_fails_with_its_kind_alone_and_the_next_goes_on() -> None:
    found = run_queue(Slow(), ["bad", "secret", "c", "d"], batch=2)
    assert [revision.error for revision in found] == ["corrector: ValueError", "corrector: ValueError", None, None]


def test_a_corrector_that_cannot_start_keeps_the_server_from_starting() -> None:
    class Broken(Slow):
        def correct(self, jobs: Sequence[Job]) -> list[Revision]:
            raise MemoryError

    with pytest.raises(RuntimeError, match="MemoryError"):
        run_queue(Broken(), [], batch=2)


def test_an_aligner_in_the_process_gives_what_it_gives_elsewhere() -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    with running(Endpoint({})) as upstream:
        chosen = settings(upstream, TINY)
        with serving(chosen) as url:
            body = {"model": "m", "messages": talk}
            answer = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
    engine = TransformersEngine(ModelLocation(local_folder("embedded:tiny-random")), chosen.profile)
    case = Case("c", "C", [Turn(role="user", content="a"), Turn(role="assistant", content="b")])
    aligner = Aligner(ModelLocation(local_folder("embedded:tiny-random")), "chat@1")
    (expected,) = engine.generate([aligner.prompt(case)], Sampling(32), seed=0)
    assert answer["choices"][0]["message"]["content"] == expected.text
    assert answer["w2s"]["choices"][0]["original"] == "C"


def test_rounds_repeat_the_correction_and_equal_wishes_share_a_batch() -> None:
    with running(Endpoint({})) as upstream, running(Endpoint({})) as aligner:
        corrector = LiveCorrector(settings(upstream, at(aligner)))
        once, twice, other = corrector.correct([job("x"), Job(Case("q", "x"), rounds=2), job("y")])
        corrector.close()
    assert corrector.served
    assert twice.text.count("ANSWER:") == 2
    assert once.text.count("ANSWER:") == 1
    assert twice.tokens > once.tokens
    assert other.text.endswith("ANSWER: Y")
    assert len(aligner.requests) == 4


def test_a_gate_has_a_threshold_that_a_request_may_move() -> None:
    gate = {"kind": "gate", "by": "likelihood", "threshold": -1e9, "of": TINY}
    with running(Endpoint({})) as upstream, serving(settings(upstream, gate)) as url:
        usual = httpx.post(f"{url}/chat/completions", json=said("hi"), timeout=60).json()
        body = said("hi", w2s={"threshold": 1e9})
        moved = httpx.post(f"{url}/chat/completions", json=body, timeout=60).json()
    assert usual["w2s"]["choices"][0]["copied"] is False
    assert moved["w2s"]["choices"][0]["copied"] is True
    assert moved["choices"][0]["message"]["content"] == "HI"


def test_a_scorer_in_the_process_is_loaded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from aligner_core import scorer

    loaded = []

    class Scorer:
        def __init__(self, model: ModelLocation, profile: object) -> None:
            loaded.append(model.folder)

        def score(self, rows: Sequence[tuple[str, str, object]]) -> list[tuple[float, float]]:
            return [(float(len(answer)), 1.0 if "UNSAFE" in answer else -1.0) for _, answer, _ in rows]

    monkeypatch.setattr(scorer, "Scorer", Scorer)
    best = {"kind": "best_of", "n": 3, "of": {"kind": "refuse", "scorer": "embedded:tiny-random", "refusal": "No."},
            "scorer": "embedded:tiny-random"}  # fmt: skip
    with running(Endpoint({})) as upstream, serving(settings(upstream, best)) as url:
        texts = [
            httpx.post(f"{url}/chat/completions", json=said(text)).json()["choices"][0]["message"]["content"]
            for text in ("safe", "unsafe", "fine")
        ]
    assert texts == ["SAFE", "No.", "FINE"]
    assert len(loaded) == 1


def test_a_missing_library_is_told_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("w2s.serve.NEEDED", ("fastapi", "no_such_library"))
    with pytest.raises(UserError, match=r"no_such_library[\s\S]*w2s\[serve\]"):
        serve.main(["--upstream", "http://host/v1", "--corrector", "identity"], standalone_mode=False)


def test_a_gate_without_a_threshold_and_a_missing_key_are_told_before_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running(Endpoint({})) as upstream:
        with pytest.raises(UserError, match="threshold"):
            create_app(settings(upstream, {"kind": "gate", "by": "likelihood", "of": TINY}))
        monkeypatch.delenv("TEST_KEY")
        with pytest.raises(UserError, match="TEST_KEY is not set"):
            create_app(settings(upstream))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--upstream", "host/v1", "--corrector", "identity"], "--upstream"),
     (["--upstream", "http://me:secret@host/v1", "--corrector", "identity"], "no password"),
     (["--upstream", "http://host/v1"], "--aligner"),
     (["--upstream", "http://host/v1", "--aligner", "./nowhere"], "./nowhere"),
     (["--upstream", "http://host/v1", "--corrector", "identity", "--batch", "0"], "--batch")],
)  # fmt: skip
def test_the_command_tells_what_to_mend(arguments: list[str], message: str) -> None:
    result = w2s("serve", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_the_command_serves_and_lets_requests_end_when_it_is_told_to_stop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running(Endpoint({})) as upstream:
        upstream.delay = 0.8
        call = command("w2s.cli", "serve", "--upstream", upstream.url, "--corrector", "identity", "--port", str(port),
                       "--key-variable", "TEST_KEY")  # fmt: skip
        with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
            base = f"http://127.0.0.1:{port}"
            _wait_for(f"{base}/health")
            with ThreadPoolExecutor(1) as thread:
                answer = thread.submit(httpx.post, f"{base}/v1/chat/completions", json=said("a b c"))
                time.sleep(0.4)
                process.send_signal(signal.SIGTERM)
                assert answer.result().json()["choices"][0]["message"]["content"] == "A B C"
            assert process.wait(timeout=20) == -signal.SIGTERM  # when all has ended, uvicorn ends as it was told
            assert process.stderr is not None
            log = process.stderr.read()
    assert f"{base}/v1 corrects {upstream.url}" in log
    assert "Traceback" not in log


def _wait_for(url: str) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        try:
            httpx.get(url)
        except httpx.ConnectError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(f"{url} does not answer")
