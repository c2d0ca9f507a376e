"""Dimensions of models, and what follows from them: parameters, memory and operations.

Known without a network for every model in the shipped recipes; else a local config.json is read, else the recipe gives
`shape:`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json
from aligner_core.model_ids import is_local, parse_embedded
from aligner_core.recipe import Role, Shape


def _shape(
    layers: int, hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int, vocabulary: int,
    tied: bool = False,
) -> Shape:  # fmt: skip
    return Shape(layers=layers, hidden=hidden, intermediate=intermediate, heads=heads, kv_heads=kv_heads,
                 head_dim=head_dim, vocabulary=vocabulary, tied_embeddings=tied)  # fmt: skip


_EMBEDDED = {
    "smollm2-135m-instruct": _shape(30, 576, 1536, 9, 3, 64, 49_152, tied=True),
    "all-minilm-l6-v2": _shape(6, 384, 1536, 12, 12, 32, 30_522, tied=True),
    "tiny-random": _shape(2, 64, 128, 2, 1, 32, 258),
}
_HUB = {
    "google/gemma-2b": _shape(18, 2048, 16_384, 8, 1, 256, 256_000, tied=True),
    "meta-llama/Llama-2-7b-hf": _shape(32, 4096, 11_008, 32, 32, 128, 32_000),
    "meta-llama/Llama-2-13b-hf": _shape(40, 5120, 13_824, 40, 40, 128, 32_000),
    "meta-llama/Llama-2-70b-hf": _shape(80, 8192, 28_672, 64, 8, 128, 32_000),
    "PKU-Alignment/beaver-7b-v1.0-reward": _shape(32, 4096, 11_008, 32, 32, 128, 32_001),
    "PKU-Alignment/beaver-7b-v1.0-cost": _shape(32, 4096, 11_008, 32, 32, 128, 32_001),
    "meta-llama/Llama-2-7b-chat-hf": _shape(32, 4096, 11_008, 32, 32, 128, 32_000),
    "meta-llama/Llama-2-13b-chat-hf": _shape(40, 5120, 13_824, 40, 40, 128, 32_000),
    "meta-llama/Llama-2-70b-chat-hf": _shape(80, 8192, 28_672, 64, 8, 128, 32_000),
    "PKU-Alignment/alpaca-7b-reproduced": _shape(32, 4096, 11_008, 32, 32, 128, 32_001),
    "PKU-Alignment/beaver-7b-v1.0": _shape(32, 4096, 11_008, 32, 32, 128, 32_001),
    "lmsys/vicuna-7b-v1.5": _shape(32, 4096, 11_008, 32, 32, 128, 32_000),
    "lmsys/vicuna-13b-v1.5": _shape(40, 5120, 13_824, 40, 40, 128, 32_000),
    "lmsys/vicuna-33b-v1.3": _shape(60, 6656, 17_920, 52, 52, 128, 32_000),
}


def shape_of(role: Role, where: str) -> Shape:
    """The dimensions of a role's model.

    Raises:
        UserError: if they are neither known, nor in a local config.json, nor given.
    """
    if role.shape:
        return role.shape
    if embedded := parse_embedded(role.model):
        shape = _EMBEDDED[embedded.name]
        return shape.model_copy(update={"layers": embedded.layers}) if embedded.layers else shape
    if role.model in _HUB:
        return _HUB[role.model]
    if is_local(role.model):
        return shape_from_config(read_json(Path(role.model).expanduser() / "config.json"))
    fix = f"add {where}.shape: {{layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary}}"
    raise UserError(Problem(where, f'the dimensions of "{role.model}" are not known here', fix))


def shape_from_config(config: Mapping[str, Any]) -> Shape:
    """The dimensions in a model's config.json."""
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    return _shape(
        config["num_hidden_layers"], hidden, config["intermediate_size"], heads,
        config.get("num_key_value_heads") or heads, config.get("head_dim") or hidden // heads, config["vocab_size"],
        bool(config.get("tie_word_embeddings", False)),
    )  # fmt: skip


def layer_parameters(shape: Shape) -> int:
    """Weights of one layer: attention with grouped heads, gated MLP, two norms."""
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return attention + 3 * shape.hidden * shape.intermediate + 2 * shape.hidden


def parameters(shape: Shape) -> int:
    """All weights, with input and output embeddings (once if tied)."""
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied_embeddings else 2)
    return shape.layers * layer_parameters(shape) + embeddings + shape.hidden


def adapter_parameters(shape: Shape, rank: int) -> int:
    """Weights of low-rank adapters on every linear layer but the output: rank x (inputs + outputs) each."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 2 * (shape.hidden + queries) + 2 * (shape.hidden + keys)
    return shape.layers * rank * (attention + 3 * (shape.hidden + shape.intermediate))


def matrix_parameters(shape: Shape) -> int:
    """Weights that take part in matrix products for each token: layers and output layer, not the embedding table."""
    return shape.layers * layer_parameters(shape) + shape.vocabulary * shape.hidden


def kv_bytes_per_token(shape: Shape, bytes_per_value: int = 2) -> int:
    """Key and value cache of one token over all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_value
