"""Whether what finished stages left behind is still what they wrote.

A manifest tells the SHA-256 of every output, of what the stage read from other stages, and of itself. Beside it
`verified.json` keeps each file's size and times from when its content was last seen to be right: as long as those
stand, a file is not read again, so that a run with hundreds of gigabytes of weights starts at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from aligner_core.errors import Problem, UserError
from aligner_core.files import digest, file_digest, read_json, write_json
from aligner_core.stage_context import CONTINUED_FROM
from aligner_core.stages import SHOWN

MANIFEST, VERIFIED = "manifest.json", "verified.json"
# What is no result: logs may still be written to, by a process on another machine or when they are uploaded.
_NO_OUTPUT = {MANIFEST, VERIFIED, *CONTINUED_FROM, "log.txt", "progress.json", "seconds.json", "wandb"}
_MADE_BY_A_STAGE = re.compile(r"(?P<stage>[0-9a-f]{64})/(?P<path>.+)", re.DOTALL)
_CARD = "README.md"  # tells of times and places, and no stage reads it


def outputs_of(folder: Path) -> dict[str, Path]:
    """All files that a stage leaves, by their path in its folder."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(name): path for name, path in found.items() if name.parts[0] not in _NO_OUTPUT}


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with its own digest, which an edit no longer fits."""
    return {**manifest, "digest": digest(dict(manifest))}


def write_sealed(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Hash all that lies in `folder`, as streams, and write the manifest."""
    write_json(folder / MANIFEST, sealed({**manifest, "outputs": _digests(outputs_of(folder))}))


def trust(folder: Path) -> None:
    """Take the outputs for what the manifest tells: they have just been hashed."""
    write_json(folder / VERIFIED, {name: _state(path) for name, path in outputs_of(folder).items()})


def contents_read(stages: Path, inputs: Mapping[str, str]) -> dict[str, str]:
    """The content of every input that another stage made and still tells of, by the input's name.

    Args:
        stages: the folder in which all stages of the run lie.
        inputs: identities by name, as a manifest tells them.
    """
    found = {}
    for name, identity in inputs.items():
        if made := _MADE_BY_A_STAGE.fullmatch(identity):
            for folder in stages.glob(f"*-{made['stage'][:SHOWN]}"):
                with suppress(OSError, ValueError):  # a manifest that cannot be read is its own stage's fault
                    found[name] = content(read_json(folder / MANIFEST), made["path"])
    return {name: value for name, value in found.items() if value is not None}


def content(manifest: Mapping[str, Any], path: str) -> str | None:
    """SHA-256 of an output file, or of all files of an output folder; None if the manifest tells of none."""
    outputs: Mapping[str, str] = manifest.get("outputs", {})
    if path in outputs:
        return outputs[path]
    inside = {name: value for name, value in outputs.items() if name.startswith(f"{path}/")}
    return digest({name: value for name, value in inside.items() if Path(name).name != _CARD}) if inside else None


def require_intact(folders: Iterable[Path]) -> None:
    """Look at finished stages, reading only what was touched since it was last read.

    Raises:
        UserError: with everything that is no longer as its stage wrote it.
    """
    problems = [problem for folder in folders for problem in faults(folder)]
    if problems:
        raise UserError(problems)


def faults(folder: Path, every_byte: bool = False) -> list[Problem]:
    """What is wrong with a finished stage: its manifest, its outputs, or what it was made from.

    Args:
        every_byte: read outputs that nobody touched too, and say where there is nothing to compare them with.
    """
    fix = _fix(folder)
    try:
        manifest = read_json(folder / MANIFEST)
        found = _identity_faults(folder, manifest)
    except (ValueError, LookupError, TypeError):
        return [no_manifest(folder)]
    problems = [Problem(str(folder / MANIFEST), what, fix) for what in found]
    if "outputs" in manifest:
        problems += [Problem(str(folder / name), what, fix) for name, what in _changed(folder, manifest, every_byte)]
        problems += [Problem(str(folder), what, fix) for what in _other_inputs(folder, manifest)]
    elif every_byte:
        what = "was written before contents were recorded, so nothing can be said of its outputs"
        problems.append(Problem(str(folder), what, fix))
    return problems


def no_manifest(folder: Path) -> Problem:
    """What to say where the manifest of a finished stage cannot be read."""
    return Problem(str(folder / MANIFEST), "is no manifest", _fix(folder))


def _fix(folder: Path) -> str:
    return f"remove {folder}, and the next run makes it anew"


def _identity_faults(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Folder name, identity, settings, inputs and digest have to agree."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    found = ["was edited"] if "digest" in manifest and manifest["digest"] != digest(rest) else []
    if digest({key: manifest[key] for key in ("task", "version", "settings", "inputs")}) != manifest["identity"]:
        found.append("tells of settings or inputs that do not give its identity")
    if folder.name != f"{manifest['name']}-{manifest['identity'][:SHOWN]}":
        found.append(f"is that of {manifest['name']}-{manifest['identity'][:SHOWN]}")
    return found


def _changed(folder: Path, manifest: Mapping[str, Any], every_byte: bool) -> list[tuple[str, str]]:
    """(file, what is wrong) of all outputs that are gone or differ."""
    verified = _verified(folder)
    outputs: Mapping[str, str] = manifest["outputs"]
    present = {name: folder / name for name in outputs if (folder / name).is_file()}
    states = {name: _state(path) for name, path in present.items()}
    doubted = {name: path for name, path in present.items() if every_byte or states[name] != verified.get(name)}
    found = [(name, "is gone") for name in outputs if name not in present]
    found += [
        (name, f"is not what its stage wrote: its SHA-256 was {outputs[name][:10]}, now it is {now[:10]}")
        for name, now in _digests(doubted).items()
        if now != outputs[name]
    ]
    if not found and states != verified:
        with suppress(OSError):  # a copy that may only be read is read again next time
            write_json(folder / VERIFIED, states)
    return found


def _other_inputs(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    """Inputs that hold something else now than when the stage read them."""
    now = contents_read(folder.parent, manifest["inputs"])
    return [
        f'was made when its input "{name}" held something else'
        for name, before in manifest["read"].items()
        if now.get(name, before) != before
    ]


def _digests(paths: Mapping[str, Path]) -> dict[str, str]:
    """SHA-256 of each file; weights come in several files, and hashing leaves the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(paths, pool.map(file_digest, paths.values()), strict=True))


def _verified(folder: Path) -> dict[str, list[int]]:
    try:
        verified: dict[str, list[int]] = read_json(folder / VERIFIED)
    except (OSError, ValueError):
        return {}
    return verified


def _state(path: Path) -> list[int]:
    """Size and times; the last one, of the file's status, cannot be set back by whoever edits it."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
