"""A real vLLM server, driven by the openai engine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.embedded_models import local_folder
from aligner_core.engines.openai_engine import OpenAIEngine
from aligner_core.engines.protocol import Prompt, Sampling
from aligner_core.engines.transformers_engine import TransformersEngine
from aligner_core.errors import UserError
from aligner_core.profile import Endpoints, Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import conversation

START_SECONDS = 300
PROMPTS = [Prompt(conversation(text)) for text in ("Hi", "What is rain?", "Tell me about the sea.", "Why?")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The base URL of a vLLM server with the tiny model in float32."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", str(port),
               "--model", local_folder("embedded:tiny-random"), "--served-model-name", "tiny", "--dtype", "float32",
               "--enforce-eager", "--max-num-seqs", "8", "--generation-config", "vllm"]  # fmt: skip
    library = Path(sysconfig.get_path("data")) / "lib" / "libiomp5.so"
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if library.is_file():
        environment["LD_PRELOAD"] = str(library)
    process = subprocess.Popen(command, env=environment)
    try:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert process.poll() is None, "the server ended"
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_vllm_server_gives_what_the_model_gives_here_and_knows_every_setting(server: str) -> None:
    profile = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}})
    here = TransformersEngine(ModelLocation(local_folder("embedded:tiny-random")), profile)
    there = OpenAIEngine(f"{server}#tiny", Endpoints(retries=0))
    greedy = Sampling(max_new_tokens=24)
    found, expected = there.generate(PROMPTS, greedy, 0), here.generate(PROMPTS, greedy, 0)
    assert [item.error for item in found] == [None] * len(PROMPTS)
    assert [item.finished for item in found] == [item.finished for item in expected]
    # The server leaves control tokens out of its text, and its count of tokens holds the end.
    assert [item.text for item, other in zip(found, expected, strict=True) if "<|" not in other.text] == [
        item.text for item in expected if "<|" not in item.text
    ]
    sampling = Sampling(24, temperature=0.9, top_k=10, top_p=0.95, repetition_penalty=1.1, frequency_penalty=1.2)
    first, again, other = (there.generate(PROMPTS, sampling, seed) for seed in (1, 1, 100))
    assert [item.error for item in first] == [None] * len(PROMPTS)
    assert [item.text for item in first] == [item.text for item in again] != [item.text for item in other]
    with pytest.raises(UserError, match="404"):
        OpenAIEngine(f"{server}#other", Endpoints(retries=0)).generate(PROMPTS[:1], greedy, 0)
