"""Dimensions of models against what is published of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from aligner_core.embedded_models import local_folder
from aligner_core.errors import UserError
from aligner_core.files import write_json
from aligner_core.recipe import Lora, Role, Shape
from aligner_core.shapes import (
    adapter_parameters,
    kv_bytes_per_token,
    layer_parameters,
    matrix_parameters,
    parameters,
    shape_from_config,
    shape_of,
)
from aligner_core.training.adapters import with_adapters

LLAMA_70B = shape_of(Role(model="meta-llama/Llama-2-70b-hf"), "roles.upstream")


@pytest.mark.parametrize(
    ("model", "published"),
    [
        ("meta-llama/Llama-2-7b-hf", 6.74e9),
        ("meta-llama/Llama-2-7b-chat-hf", 6.74e9),
        ("meta-llama/Llama-2-13b-hf", 13.0e9),
        ("meta-llama/Llama-2-13b-chat-hf", 13.0e9),
        ("meta-llama/Llama-2-70b-hf", 68.98e9),
        ("meta-llama/Llama-2-70b-chat-hf", 68.98e9),
        ("google/gemma-2b", 2.51e9),
        ("embedded:smollm2-135m-instruct", 134.5e6),
    ],
)
def test_a_known_models_parameters_are_the_published_ones(model: str, published: float) -> None:
    assert parameters(shape_of(Role(model=model), "roles.upstream")) == pytest.approx(published, rel=0.01)


def test_the_exact_count_of_llama_2_7b() -> None:
    assert parameters(shape_of(Role(model="meta-llama/Llama-2-7b-hf"), "x")) == 6_738_415_616


def test_llama_2_70b_caches_327680_bytes_a_token() -> None:
    assert kv_bytes_per_token(LLAMA_70B) == 327_680
    assert kv_bytes_per_token(LLAMA_70B, 4) == 655_360


def test_fewer_layers_are_fewer_parameters_by_whole_layers() -> None:
    whole, cut = (shape_of(Role(model=f"embedded:smollm2-135m-instruct{query}"), "x") for query in ("", "?layers=24"))
    assert parameters(whole) - parameters(cut) == 6 * layer_parameters(whole)


def test_tied_embeddings_count_once_and_take_part_in_products_once() -> None:
    untied = LLAMA_70B.model_copy(update={"tied_embeddings": True})
    table = LLAMA_70B.vocabulary * LLAMA_70B.hidden
    assert parameters(LLAMA_70B) - parameters(untied) == table
    assert matrix_parameters(LLAMA_70B) == matrix_parameters(untied)
    assert parameters(LLAMA_70B) - matrix_parameters(LLAMA_70B) == table + LLAMA_70B.hidden


def test_a_shape_in_the_recipe_wins() -> None:
    given = Shape(layers=1, hidden=2, intermediate=3, heads=1, kv_heads=1, head_dim=2, vocabulary=5)
    assert shape_of(Role(model="meta-llama/Llama-2-7b-hf", shape=given), "x") == given


def test_a_local_config_gives_the_shape(tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 80, "hidden_size": 8192, "intermediate_size": 28_672, "num_attention_heads": 64,
        "num_key_value_heads": 8, "vocab_size": 32_000,
    }  # fmt: skip
    write_json(tmp_path / "config.json", config)
    assert shape_of(Role(model=str(tmp_path)), "x") == LLAMA_70B


def test_adapters_are_counted_as_peft_makes_them() -> None:
    folder = local_folder("embedded:tiny-random")
    network = with_adapters(AutoModelForCausalLM.from_pretrained(folder), Lora(rank=4), False)
    shape = shape_of(Role(model="embedded:tiny-random"), "roles.upstream")
    made = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    assert adapter_parameters(shape, 4) == made


def test_a_config_without_grouped_heads_has_as_many_as_heads() -> None:
    config = {
        "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
        "num_key_value_heads": None, "head_dim": None, "vocab_size": 100, "tie_word_embeddings": True,
    }  # fmt: skip
    shape = shape_from_config(config)
    assert (shape.kv_heads, shape.head_dim, shape.tied_embeddings) == (4, 16, True)


def test_an_unknown_model_says_which_key_to_add() -> None:
    with pytest.raises(UserError, match=r"add roles\.upstream\.shape"):
        shape_of(Role(model="org/unknown"), "roles.upstream")
