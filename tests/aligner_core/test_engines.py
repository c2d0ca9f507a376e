"""Every engine answers in order, stops at the end token, and says when it was cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.embedded_models import local_folder
from aligner_core.engines.protocol import Prompt, Sampling, sampling_of
from aligner_core.engines.transformers_engine import TransformersEngine, _Chooser
from aligner_core.profile import Profile
from aligner_core.recipe import Generation
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import conversation

TINY = ModelLocation(local_folder("embedded:tiny-random"))
QUESTIONS = ["Hi", "What is rain?", "Tell me about the sea and the wind.", "Why?", "How are you today?"]


def smoke(**changes: Any) -> Profile:
    return Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}, **changes})


@pytest.fixture(scope="module")
def engine() -> TransformersEngine:
    return TransformersEngine(TINY, smoke())


PROMPTS = [Prompt(conversation(question)) for question in QUESTIONS]


def test_a_batch_gives_what_each_prompt_gives_alone(engine: TransformersEngine) -> None:
    greedy = Sampling(max_new_tokens=24)
    together = engine.generate(PROMPTS, greedy, seed=0)
    alone = [engine.generate([prompt], greedy, seed=0)[0] for prompt in PROMPTS]
    assert together == alone


def test_the_end_token_is_left_out_and_a_cut_answer_says_so(engine: TransformersEngine) -> None:
    completions = engine.generate(PROMPTS, Sampling(max_new_tokens=24), seed=0)
    end = str(engine.tokenizer.eos_token)
    assert all(end not in completion.text for completion in completions)
    assert all(completion.finished == (completion.tokens < 24) for completion in completions)
    one = engine.generate(PROMPTS, Sampling(max_new_tokens=1), seed=0)
    assert any(not completion.finished for completion in one)


def test_sampling_follows_its_seed(engine: TransformersEngine) -> None:
    published = sampling_of(Generation(preset="published", max_new_tokens=24))
    first = engine.generate(PROMPTS, published, seed=1)
    assert first == engine.generate(PROMPTS, published, seed=1)
    assert first != engine.generate(PROMPTS, published, seed=2)


def test_the_published_preset_is_the_papers() -> None:
    published = sampling_of(Generation(preset="published", max_new_tokens=7))
    assert published == Sampling(7, temperature=0.5, top_k=10, top_p=0.95, repetition_penalty=1.1)
    correcting = sampling_of(Generation(preset="published", max_new_tokens=7), correcting=True)
    assert correcting == Sampling(7, temperature=0.3, top_k=10, top_p=0.95, frequency_penalty=1.2)
    assert sampling_of(Generation(max_new_tokens=7), correcting=True) == Sampling(7)


def test_a_frequency_penalty_counts_what_was_written_and_not_the_prompt() -> None:
    choose = _Chooser(Sampling(max_new_tokens=8, frequency_penalty=1.0), prompt=2)
    ids = torch.tensor([[0, 0, 1, 1], [0, 0, 2, 1]])
    logits = torch.tensor([[0.0, 1.5, 0.0, -0.4], [0.9, 1.5, 1.8, -9.0]])
    assert choose(ids, logits).tolist() == [0, 0]
    assert choose(ids[:, :3], logits).tolist() == [1, 1]


VLLM = """
import json, sys
from aligner_core.configuration import find_profile, read_yaml
from aligner_core.engines.protocol import Prompt, Sampling
from aligner_core.engines.vllm_engine import VllmEngine
from aligner_core.profile import Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import conversation

if __name__ == "__main__":
    profile = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}})
    engine = VllmEngine(ModelLocation(sys.argv[1]), profile)
    prompts = [Prompt(conversation(question)) for question in json.loads(sys.argv[2])]
    completions = engine.generate(prompts, Sampling(max_new_tokens=24), seed=0)
    print(json.dumps([[item.text, item.tokens, item.finished] for item in completions]))
    engine.close()
"""


@pytest.mark.slow
def test_vllm_gives_the_tokens_that_transformers_gives(engine: TransformersEngine) -> None:
    command = [sys.executable, "-c", VLLM, TINY.folder, json.dumps(QUESTIONS)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"})
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    expected = engine.generate(PROMPTS, Sampling(max_new_tokens=24), seed=0)
    assert found == [[item.text, item.tokens, item.finished] for item in expected]
