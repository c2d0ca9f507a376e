"""Model ids: what can name a model, and what makes two models the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.errors import UserError
from aligner_core.model_ids import EmbeddedId, is_local, model_identity, parse_embedded, unknown_model_reason


def model_folder(folder: Path, weights: bytes = b"weights", config: str = '{"hidden_size": 8}') -> str:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    return str(folder)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("embedded:tiny-random", EmbeddedId("tiny-random")),
        ("embedded:smollm2-135m-instruct", EmbeddedId("smollm2-135m-instruct")),
        ("embedded:smollm2-135m-instruct?layers=24", EmbeddedId("smollm2-135m-instruct", 24)),
        ("embedded:smollm2-135m-instruct?layers=30", EmbeddedId("smollm2-135m-instruct")),
        ("meta-llama/Llama-2-7b-hf", None),
        ("./model", None),
    ],
)
def test_an_embedded_id_is_parsed(model: str, expected: EmbeddedId | None) -> None:
    assert parse_embedded(model) == expected


@pytest.mark.parametrize(
    "model",
    ["embedded:tiny-random", "embedded:smollm2-135m-instruct?layers=19", "embedded:smollm2-135m-instruct?layers=30",
     "embedded:all-minilm-l6-v2", "meta-llama/Llama-2-70b-hf", "org_1/name.v2"],
)  # fmt: skip
def test_a_known_form_of_id_has_nothing_against_it(model: str) -> None:
    assert unknown_model_reason(model) is None


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("embedded:smollm", "there are: smollm2-135m-instruct"),
        ("embedded:", "no embedded model"),
        ("embedded:tiny-random?layers=1", "is not understood"),
        ("embedded:smollm2-135m-instruct?layers=", "is not understood"),
        ("embedded:smollm2-135m-instruct?layers=-24", "is not understood"),
        ("embedded:smollm2-135m-instruct?depth=24", "is not understood"),
        ("embedded:smollm2-135m-instruct?layers=18", "layers must be 19 to 30"),
        ("embedded:smollm2-135m-instruct?layers=31", "layers must be 19 to 30"),
        ("llama", "write org/name (hub), ./folder (local), embedded:NAME or http://HOST/v1#MODEL"),
        ("", "has no config.json"),
        ("org/name/more", "unknown model"),
        ("org/na me", "unknown model"),
        ("./no-such-folder", "has no config.json"),
    ],
)
def test_an_id_that_can_name_nothing_is_refused_with_the_reason(model: str, reason: str) -> None:
    assert reason in (unknown_model_reason(model) or "")


def test_a_folder_is_a_model_once_it_has_a_config(tmp_path: Path) -> None:
    assert "has no config.json" in (unknown_model_reason(str(tmp_path)) or "")
    (tmp_path / "config.json").write_text("{}")
    assert unknown_model_reason(str(tmp_path)) is None


def test_a_folder_in_the_working_folder_is_local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model_folder(tmp_path / "runs" / "model")
    assert not is_local("runs/model")
    monkeypatch.chdir(tmp_path)
    assert is_local("runs/model")


def test_a_hub_models_identity_is_its_revision() -> None:
    assert model_identity("org/name", "abc") != model_identity("org/name", "abd")
    assert model_identity("org/name") == model_identity("org/name", "main")
    assert model_identity("org/name") != model_identity("org/other")


def test_embedded_models_of_different_depth_differ_and_all_layers_is_the_whole() -> None:
    name = "embedded:smollm2-135m-instruct"
    assert model_identity(f"{name}?layers=30") == model_identity(name)
    assert len({model_identity(f"{name}?layers={layers}") for layers in range(19, 31)}) == 12


def test_a_local_models_identity_is_its_content_and_not_its_place(tmp_path: Path) -> None:
    first, second = model_folder(tmp_path / "a"), model_folder(tmp_path / "b" / "c")
    assert model_identity(first) == model_identity(second)


def test_fine_tunes_of_one_architecture_differ(tmp_path: Path) -> None:
    weights = bytes(300_000)
    changed = bytearray(weights)
    changed[-1] = 1
    identities = {
        model_identity(model_folder(tmp_path / "a", weights)),
        model_identity(model_folder(tmp_path / "b", bytes(changed))),
        model_identity(model_folder(tmp_path / "c", weights + b"\0")),
        model_identity(model_folder(tmp_path / "d", weights, '{"hidden_size": 9}')),
    }
    assert len(identities) == 4


@pytest.mark.parametrize("position", [0, 65_535, 65_536, 1_000_000, 1_999_999])
def test_one_changed_byte_of_a_small_file_changes_the_identity(tmp_path: Path, position: int) -> None:
    changed = bytearray(2_000_000)
    changed[position] = 1
    before = model_identity(model_folder(tmp_path / "a", bytes(2_000_000)))
    assert model_identity(model_folder(tmp_path / "b", bytes(changed))) != before


def test_the_tokenizer_and_its_template_count(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "a")
    identities = {model_identity(folder)}
    for name in ("tokenizer.json", "chat_template.jinja", "tokenizer.model"):
        (tmp_path / "a" / name).write_text("x")
        identities.add(model_identity(folder))
    assert len(identities) == 4


def test_pickled_weights_are_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(UserError, match="save_pretrained"):
        model_identity(str(tmp_path))
