"""Every engine answers in order, stops at the end token, and says when it was cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, MistralConfig, MistralForCausalLM

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.embedded_models import byte_tokenizer, local_folder
from aligner_core.engines.cpu_linear import pack_linear_layers
from aligner_core.engines.protocol import Completion, Prompt, Room, Sampling, sampling_of
from aligner_core.engines.transformers_engine import TransformersEngine
from aligner_core.engines.vllm_engine import VllmEngine, completed
from aligner_core.files import read_json, write_json
from aligner_core.profile import Profile
from aligner_core.recipe import Generation
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import conversation, prompt_ids

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


@pytest.fixture(scope="module")
def drafting() -> TransformersEngine:
    return TransformersEngine(TINY, smoke(generation={"batch": 3, "copy_aware": "on"}))


def test_sequences_that_take_the_place_of_ended_ones_are_decoded_as_alone(
    engine: TransformersEngine, drafting: TransformersEngine
) -> None:
    prompts = [Prompt(conversation(question * times)) for question in QUESTIONS for times in (1, 2, 9)]
    together = drafting.generate(prompts, Sampling(max_new_tokens=40), seed=0)
    assert together == [engine.generate([prompt], Sampling(max_new_tokens=40), seed=0)[0] for prompt in prompts]


def test_equal_prompts_a_prompt_that_begins_another_and_no_prompt(engine: TransformersEngine) -> None:
    greedy = Sampling(max_new_tokens=24)
    messages = [
        conversation("Hi"),
        conversation("Hi"),
        conversation("Hi, you"),
        (*conversation("Hi"), *conversation("x")),
    ]
    prompts = [Prompt(item) for item in messages]
    alone = [engine.generate([prompt], greedy, seed=0)[0] for prompt in prompts]
    assert engine.generate(prompts, greedy, seed=0) == alone
    assert engine.generate([], greedy, seed=0) == []


@pytest.mark.parametrize("longest", [1, 2, 24, 60])
def test_drafts_never_change_greedy_output(
    engine: TransformersEngine, drafting: TransformersEngine, longest: int
) -> None:
    greedy = Sampling(max_new_tokens=longest)
    plain = engine.generate(PROMPTS, greedy, seed=0)
    before = drafting.statistics["tokens"]
    for change in (lambda text: text, lambda text: text[3:], lambda text: text[:9] + "xy" + text[10:], lambda _: ""):
        drafts = [replace(prompt, draft=change(item.text)) for prompt, item in zip(PROMPTS, plain, strict=True)]
        assert drafting.generate(drafts, greedy, seed=0) == plain
    assert drafting.statistics["tokens"] > before


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> ModelLocation:
    """The tiny model, brought to write letters alone: text that is the same tokens again when it is a draft."""
    folder = tmp_path_factory.mktemp("writer")
    model = AutoModelForCausalLM.from_pretrained(TINY.folder)
    tokenizer = AutoTokenizer.from_pretrained(TINY.folder)
    others = [token for text, token in tokenizer.get_vocab().items() if not text.isascii() or not text.isalpha()]
    with torch.no_grad():
        model.lm_head.weight[others] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return ModelLocation(str(folder))


def test_a_model_that_copies_takes_several_tokens_at_a_step(writer: ModelLocation) -> None:
    plain = TransformersEngine(writer, smoke()).generate(PROMPTS, Sampling(max_new_tokens=60), seed=0)
    drafts = [replace(prompt, draft=item.text) for prompt, item in zip(PROMPTS, plain, strict=True)]
    engine = TransformersEngine(writer, smoke(generation={"batch": 8, "copy_aware": "on"}))
    assert engine.generate(drafts, Sampling(max_new_tokens=60), seed=0) == plain
    assert engine.statistics["tokens_per_step"] > 5
    assert engine.statistics["acceptance"] > 0.9
    assert engine.statistics["copy_rate"] > 0.9


def test_the_probe_changes_no_output_and_says_why(
    engine: TransformersEngine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = tmp_path / "copy_aware.json"
    auto = TransformersEngine(TINY, smoke(generation={"batch": 1}), memory=memory)
    greedy = Sampling(max_new_tokens=48)
    prompts = [replace(prompt, draft="rain and sea") for prompt in PROMPTS]
    assert auto.generate(prompts, greedy, seed=0) == engine.generate(PROMPTS, greedy, seed=0)
    assert "copy-aware decoding: o" in capsys.readouterr().out
    assert read_json(memory)["limit"] == auto.statistics["draft_limit"]
    assert "tokens/s" in auto.statistics["why"]


def test_sampled_output_ignores_drafts(drafting: TransformersEngine) -> None:
    published = sampling_of(Generation(preset="published", max_new_tokens=24))
    drafts = [replace(prompt, draft="rain and sea") for prompt in PROMPTS]
    assert drafting.generate(drafts, published, seed=1) == drafting.generate(PROMPTS, published, seed=1)


def test_a_high_frequency_penalty_lets_no_token_be_written_twice(writer: ModelLocation) -> None:
    engine = TransformersEngine(writer, smoke())
    plain = engine.generate(PROMPTS, Sampling(max_new_tokens=20), seed=0)
    penalised = engine.generate(PROMPTS, Sampling(max_new_tokens=20, frequency_penalty=1e4), seed=0)
    assert any(len(set(item.text)) < len(item.text) for item in plain)
    assert all(len(set(item.text)) == len(item.text) for item in penalised)
    assert [item.text[0] for item in penalised] == [item.text[0] for item in plain]


@pytest.mark.parametrize("window", [None, 7])
def test_greedy_output_is_that_of_transformers_generate(tmp_path: Path, window: int | None) -> None:
    tokenizer = byte_tokenizer()
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, initializer_range=0.2, sliding_window=window, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(1)
    model = MistralForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    engine = TransformersEngine(ModelLocation(str(tmp_path)), smoke(generation={"batch": 2, "copy_aware": "on"}))
    completions = engine.generate(PROMPTS, Sampling(max_new_tokens=30), seed=0)
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = torch.tensor([prompt_ids(tokenizer, prompt.messages)])
        with torch.inference_mode():
            expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False)
        written = [token for token in expected[0, ids.shape[1] :].tolist() if token != tokenizer.eos_token_id]
        assert completion.text == str(tokenizer.decode(written)).strip()


def test_weights_laid_out_for_the_cpu_give_the_same_results() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 96), torch.nn.ReLU(), torch.nn.Linear(96, 32, bias=False))
    model = model.bfloat16()
    states = torch.randn(3, 5, 64).bfloat16()
    before = model(states)
    pack_linear_layers(model)
    assert not any(isinstance(module, torch.nn.Linear) for module in model.modules())
    torch.testing.assert_close(model(states), before, rtol=1e-2, atol=1e-2)


@pytest.fixture(scope="module")
def adapter(writer: ModelLocation, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelLocation, ModelLocation]:
    """A LoRA adapter that changes what the writer says, and the same model with whole weights."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(0)
    settings = LoraConfig(r=8, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(writer.folder), settings)
    model.save_pretrained(folder / "adapter")
    model.merge_and_unload().save_pretrained(folder / "whole")
    for name in ("adapter", "whole"):
        AutoTokenizer.from_pretrained(writer.folder).save_pretrained(folder / name)
    return ModelLocation(str(folder / "adapter")), ModelLocation(str(folder / "whole"))


@pytest.fixture(scope="module", params=["own output layer", "tied"])
def before_and_after(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModelLocation, ModelLocation]:
    """Two checkpoints of one architecture that say different things, with and without tied embeddings."""
    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = AutoTokenizer.from_pretrained(TINY.folder)
    config = AutoConfig.from_pretrained(TINY.folder, tie_word_embeddings=request.param == "tied")
    for seed, name in enumerate(("before", "after")):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return ModelLocation(str(folder / "before")), ModelLocation(str(folder / "after"))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_refreshed_weights_write_what_a_new_engine_writes_with_them(
    before_and_after: tuple[ModelLocation, ModelLocation], precision: str
) -> None:
    greedy = Sampling(max_new_tokens=24)
    before, after = (TransformersEngine(model, smoke(precision=precision)) for model in before_and_after)
    first, second = before.generate(PROMPTS, greedy, seed=0), after.generate(PROMPTS, greedy, seed=0)
    before.refresh(Path(before_and_after[1].folder))
    assert before.generate(PROMPTS, greedy, seed=0) == second
    assert all(old != new for old, new in zip(first, second, strict=True))


def test_a_completion_has_the_tokens_of_its_text_and_the_end_token_where_it_was_reached(
    engine: TransformersEngine,
) -> None:
    end = engine.tokenizer.eos_token_id
    completions = engine.generate(PROMPTS, Sampling(max_new_tokens=24), seed=0)
    assert {completion.finished for completion in completions} == {True, False}
    for completion in completions:
        assert list(completion.ids[completion.tokens :]) == [end] * completion.finished
        assert str(engine.tokenizer.decode(completion.ids[: completion.tokens])).strip() == completion.text


@pytest.mark.parametrize("end", ["<|im_end|>", "<|im_start|>"])
def test_the_text_that_vllm_finished_is_without_whichever_token_ended_it(end: str) -> None:
    tokenizer = byte_tokenizer()
    ids = [*tokenizer("sea")["input_ids"], tokenizer.convert_tokens_to_ids(end)]
    assert completed(tokenizer, ids, True) == Completion("sea", 3, True, ids=tuple(ids))
    assert completed(tokenizer, ids[:3], False) == Completion("sea", 3, False, ids=tuple(ids[:3]))


@pytest.mark.parametrize("room", [None, Room(2**30, 500)])
def test_vllm_takes_nearly_all_of_a_device_unless_it_is_given_a_room(
    room: Room | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    class FakeLLM:
        def __init__(self, **settings: Any) -> None:
            given.update(settings)

        def get_tokenizer(self) -> Any:
            return byte_tokenizer()

    fakes = {"vllm": {"LLM": FakeLLM}, "vllm.lora": {}, "vllm.lora.request": {"LoRARequest": None}}
    for name, content in fakes.items():
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    gpu = Profile.model_validate(read_yaml(find_profile("h200x1")))
    VllmEngine(TINY, gpu, room=room)
    if room:
        assert (given["kv_cache_memory_bytes"], given["max_model_len"]) == (2**30, 500)
        assert given["gpu_memory_utilization"] < 0.05, "no more has to be free beforehand"
    else:
        assert not {"kv_cache_memory_bytes", "max_model_len", "gpu_memory_utilization"} & set(given)


def test_an_adapter_writes_what_the_merged_model_writes(
    writer: ModelLocation, adapter: tuple[ModelLocation, ModelLocation]
) -> None:
    greedy = Sampling(max_new_tokens=24)
    apart, whole, without = (
        TransformersEngine(model, smoke()).generate(PROMPTS, greedy, seed=0) for model in (*adapter, writer)
    )
    assert apart == whole
    assert apart != without


VLLM = """
import json, sys
from functools import partial
from pathlib import Path
from aligner_core.configuration import find_profile, read_yaml
from aligner_core.engines.copies import EngineCopies
from aligner_core.engines.protocol import Prompt, Sampling
from aligner_core.engines.vllm_engine import VllmEngine
from aligner_core.profile import Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import conversation

if __name__ == "__main__":
    folders, calls = json.loads(sys.argv[1]), json.loads(sys.argv[2])
    copy_aware, precision, copies = sys.argv[3], sys.argv[4], int(sys.argv[5])
    content = {**read_yaml(find_profile("smoke")), "replace": {}, "precision": precision}
    content["generation"] = {"engine": "vllm", "batch": 4, "copy_aware": copy_aware}
    open = partial(VllmEngine, ModelLocation(folders[0]), Profile.model_validate(content))
    engine = EngineCopies([open] * copies, devices_each=1) if copies > 1 else open()
    written = []
    for folder in folders:
        if folder != folders[0]:
            engine.refresh(Path(folder))
        for call in calls:
            prompts = [Prompt(conversation(question), draft) for question, draft in call]
            completions = engine.generate(prompts, Sampling(max_new_tokens=48), seed=0)
            written.append([[item.text, list(item.ids), item.finished] for item in completions])
    print(json.dumps({"written": written, "statistics": dict(engine.statistics)}))
    engine.close()
"""


def vllm(
    models: Sequence[ModelLocation],
    copy_aware: str,
    calls: list[list[tuple[str, str | None]]],
    precision: str = "float32",
    copies: int = 1,
) -> dict[str, Any]:
    """What vLLM writes in a process of its own for calls of (question, draft), with each model's weights in turn."""
    folders = json.dumps([model.folder for model in models])
    command = [sys.executable, "-c", VLLM, folders, json.dumps(calls), copy_aware, precision, str(copies)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "VLLM_LOGGING_LEVEL": "ERROR"})
    assert result.returncode == 0, result.stderr[-3000:]
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def as_written(completions: Sequence[Completion]) -> list[list[Any]]:
    return [[item.text, list(item.ids), item.finished] for item in completions]


@pytest.mark.slow
@pytest.mark.parametrize("copy_aware", ["off", "on", "auto"])
def test_vllm_gives_the_tokens_that_transformers_gives_with_and_without_drafts(
    writer: ModelLocation, copy_aware: str
) -> None:
    engine = TransformersEngine(writer, smoke(precision="float32"))
    plain = engine.generate(PROMPTS, Sampling(max_new_tokens=48), seed=0)
    expected = as_written(plain)
    calls: list[list[tuple[str, str | None]]] = [[(question, None) for question in QUESTIONS]]
    for change in (lambda text: text, lambda text: text[:20] + "x" + text[21:], lambda text: text[5:]):
        calls.append([(question, change(item.text)) for question, item in zip(QUESTIONS, plain, strict=True)])
    found = vllm([writer], copy_aware, calls)
    assert found["written"] == [expected] * len(calls)
    if copy_aware == "on":
        assert found["statistics"]["acceptance"] > 0.5
        assert found["statistics"]["tokens_per_step"] > 2
        assert found["statistics"]["copy_rate"] > 0.8


@pytest.fixture
def two_ends(writer: ModelLocation, tmp_path: Path) -> ModelLocation:
    """The writer, whose texts also end with a letter that it likes."""
    folder = Path(shutil.copytree(writer.folder, tmp_path / "two_ends"))
    engine = TransformersEngine(writer, smoke(precision="float32"))
    letter = engine.generate(PROMPTS, Sampling(max_new_tokens=48), seed=0)[0].ids[9]
    path = folder / "generation_config.json"
    write_json(path, {**read_json(path), "eos_token_id": [engine.tokenizer.eos_token_id, letter]})
    return ModelLocation(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("copy_aware", ["off", "on"])
def test_vllm_ends_a_text_with_each_of_a_models_end_tokens_as_transformers_does(
    two_ends: ModelLocation, copy_aware: str
) -> None:
    engine = TransformersEngine(two_ends, smoke(precision="float32"))
    plain = engine.generate(PROMPTS, Sampling(max_new_tokens=48), seed=0)
    assert any(item.finished and item.ids[-1] != engine.tokenizer.eos_token_id for item in plain)
    drafts = [(question, item.text + "x") for question, item in zip(QUESTIONS, plain, strict=True)]
    assert vllm([two_ends], copy_aware, [drafts])["written"] == [as_written(plain)]


@pytest.mark.slow
def test_two_copies_of_vllm_write_what_one_engine_writes(writer: ModelLocation) -> None:
    plain = TransformersEngine(writer, smoke(precision="float32"))
    expected = plain.generate(PROMPTS, Sampling(max_new_tokens=48), seed=0)
    drafts = [(question, item.text) for question, item in zip(QUESTIONS, expected, strict=True)]
    found = vllm([writer], "on", [drafts], copies=2)
    assert found["written"] == [as_written(expected)]
    assert [each["tokens"] > 0 for each in found["statistics"]["copies"]] == [True, True]


@pytest.mark.slow
def test_vllm_takes_an_adapter(adapter: tuple[ModelLocation, ModelLocation]) -> None:
    plain = TransformersEngine(adapter[1], smoke()).generate(PROMPTS, Sampling(max_new_tokens=48), seed=0)
    drafts = [(question, item.text) for question, item in zip(QUESTIONS, plain, strict=True)]
    found = vllm([adapter[0]], "on", [drafts])
    assert found["written"] == [as_written(plain)]


@pytest.mark.slow
@pytest.mark.parametrize(("copy_aware", "precision"), [("on", "float32"), ("off", "bfloat16")])
def test_vllm_with_refreshed_weights_writes_what_a_new_engine_writes_with_them(
    before_and_after: tuple[ModelLocation, ModelLocation], copy_aware: str, precision: str
) -> None:
    # The second call finds the first one's prompts in the cache, which must not outlive the weights.
    calls: list[list[tuple[str, str | None]]] = [[(question * 4, question) for question in QUESTIONS]] * 2
    before, after = before_and_after
    refreshed = vllm([before, after], copy_aware, calls, precision)["written"]
    assert all(old != new for old, new in zip(refreshed[0], refreshed[2], strict=True))
    if precision == "float32":
        prompts = [Prompt(conversation(question * 4)) for question in QUESTIONS]
        plain = TransformersEngine(after, smoke(precision="float32"))
        expected = as_written(plain.generate(prompts, Sampling(max_new_tokens=48), seed=0))
        assert refreshed[2:] == [expected, expected]
    else:  # in which only vLLM rounds as vLLM does
        assert refreshed[2:] == vllm([after], copy_aware, calls, precision)["written"]
