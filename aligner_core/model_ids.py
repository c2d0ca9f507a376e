"""What a model id means, without loading anything.

`embedded:NAME[?layers=N]`, a local folder, a hub id, or `URL#NAME`: a model behind an OpenAI-compatible endpoint.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aligner_core.errors import Problem, UserError
from aligner_core.files import digest, file_digest

# sha256 of the one file that fixes each model's weights.
EMBEDDED_CONTENT = {
    "smollm2-135m-instruct": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    "all-minilm-l6-v2": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tiny-random": "tiny-random-1",
}
MINIMUM_LAYERS, ALL_LAYERS = 19, 30
_HUB_ID = re.compile(r"^[\w.-]+/[\w.-]+$")


@dataclass(frozen=True)
class EmbeddedId:
    """A parsed `embedded:` id; `layers` is None for the whole model."""

    name: str
    layers: int | None = None

    def folder_name(self) -> str:
        layers = f"-layers{self.layers}" if self.layers else ""
        return f"{self.name}{layers}-{EMBEDDED_CONTENT[self.name][:12]}"


def parse_embedded(model: str) -> EmbeddedId | None:
    """The parsed id, or None if `model` is not an embedded one."""
    if not model.startswith("embedded:"):
        return None
    name, _, query = model.removeprefix("embedded:").partition("?")
    layers = int(query.removeprefix("layers=")) if query else None
    return EmbeddedId(name, None if layers == ALL_LAYERS else layers)


@dataclass(frozen=True)
class EndpointId:
    """A model that others serve: the base URL, up to and without /chat/completions, and the name it has there."""

    url: str
    name: str

    @property
    def host(self) -> str:
        """Host, with its port where the URL names one."""
        return urlsplit(self.url).netloc


def parse_endpoint(model: str) -> EndpointId | None:
    """The parsed id, or None if `model` is not served."""
    if not model.startswith(("http://", "https://")):
        return None
    url, _, name = model.partition("#")
    return EndpointId(url.rstrip("/"), name)


def is_local(model: str) -> bool:
    return model.startswith((".", "/", "~")) or Path(model).is_dir()


def unknown_model_reason(model: str) -> str | None:
    """Why this id cannot name a model, or None if it can."""
    if endpoint := parse_endpoint(model):
        if "@" in endpoint.host:
            return "a URL must hold no password; name a variable for the key in the profile (endpoints.key_variables)"
        return None if endpoint.host and endpoint.name else f'"{model}" names no model; write http://HOST/v1#MODEL'
    if model.startswith("embedded:"):
        name, _, query = model.removeprefix("embedded:").partition("?")
        if name not in EMBEDDED_CONTENT:
            return f'no embedded model "{name}"; there are: ' + ", ".join(EMBEDDED_CONTENT)
        if not query:
            return None
        match = re.fullmatch(r"layers=(\d+)", query)
        if name != "smollm2-135m-instruct" or not match:
            return f'"?{query}" is not understood; only smollm2-135m-instruct?layers=N is'
        if not MINIMUM_LAYERS <= int(match[1]) <= ALL_LAYERS:
            return f"layers must be {MINIMUM_LAYERS} to {ALL_LAYERS}"
        return None
    if is_local(model):
        folder = Path(model).expanduser()
        return None if (folder / "config.json").is_file() else f'"{model}" has no config.json; is it a model folder?'
    if not _HUB_ID.match(model):
        return (
            f'unknown model "{model}"; write org/name (hub), ./folder (local), embedded:NAME or http://HOST/v1#MODEL'
        )
    return None


def model_identity(model: str, revision: str | None = None) -> str:
    """What fixes a model's weights: package checksum, local headers, hub id and revision, or URL and name."""
    if endpoint := parse_endpoint(model):
        return f"endpoint:{endpoint.url}#{endpoint.name}"
    if embedded := parse_embedded(model):
        return f"embedded:{embedded.folder_name()}:{EMBEDDED_CONTENT[embedded.name]}"
    if is_local(model):
        return "local:" + _folder_identity(Path(model).expanduser())
    return f"hub:{model}@{revision or 'main'}"


def _folder_identity(folder: Path) -> str:
    """Hash of config and tokenizer files, and of evenly spaced blocks of the weights.

    Headers alone would make two fine-tunes of one architecture look alike, all bytes of 140 GB take minutes.
    """
    files = sorted(folder.glob("*.json")) + sorted(folder.glob("*.jinja")) + sorted(folder.glob("*.model"))
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        fix = "save the model with save_pretrained (pickled weights are not loaded)"
        raise UserError(Problem(str(folder), "holds no .safetensors file", fix))
    return digest(
        {
            "files": {path.name: file_digest(path) for path in files},
            "weights": {path.name: _sampled_digest(path) for path in weights},
        }
    )


def _sampled_digest(path: Path, blocks: int = 64, block_bytes: int = 65_536) -> str:
    size = path.stat().st_size
    content = hashlib.sha256(str(size).encode())
    with path.open("rb") as stream:
        for block in range(blocks):
            stream.seek(block * max(size - block_bytes, 0) // (blocks - 1))
            content.update(stream.read(block_bytes))
    return content.hexdigest()
