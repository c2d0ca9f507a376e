"""Where data comes from: `embedded:NAME`, a file, or `hub:ID[:SPLIT]`; its identity and size without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from aligner_core.errors import Problem, UserError
from aligner_core.files import cache_folder, digest, file_digest, read_json, write_json
from aligner_core.records import Question, read_records
from aligner_core.stages import Source

EMBEDDED = Path(__file__).resolve().parent / "data" / "embedded"
CHARACTERS_PER_TOKEN = 4.0
Record = TypeVar("Record", bound=Question)


@dataclass(frozen=True)
class Size:
    """Number of records and mean tokens of their questions and texts (answers, corrections, references)."""

    records: int
    question_tokens: int
    text_tokens: int


def local_path(source: str) -> Path | None:
    """The file that a source names; None for a hub data set."""
    if source.startswith("hub:"):
        return None
    if source.startswith("embedded:"):
        return EMBEDDED / (source.removeprefix("embedded:") + ".jsonl")
    return Path(source).expanduser()


def data_source(source: str, where: str) -> Source:
    """The source with its identity: content for files, id for hub data sets.

    Raises:
        UserError: if there is no such file.
    """
    path = local_path(source)
    if path is None:
        return Source(source, source)
    if not path.is_file():
        known = ", ".join("embedded:" + file.stem for file in sorted(EMBEDDED.glob("*.jsonl")))
        raise UserError(Problem(where, f'there is no data "{source}"', f"name a file, hub:ID, or one of: {known}"))
    return Source(str(path.resolve()), "file:" + _cached(path)["sha256"])


def size_of(source: str) -> Size | None:
    """Counts of a local file, by a rule of thumb for tokens; None for a hub data set."""
    path = local_path(source)
    return Size(**_cached(path)["size"]) if path and path.is_file() else None


def load_records(location: str, kind: type[Record], columns: Mapping[str, str]) -> list[Record]:
    """All records of a source, strictly checked. `columns` renames what the source calls otherwise."""
    path = _downloaded(location) if location.startswith("hub:") else Path(location)
    return read_records(path, kind, columns)


def _downloaded(location: str) -> Path:
    """A hub data set as a JSON Lines file in the cache, so that it is checked like any file."""
    import datasets

    name, _, split = location.removeprefix("hub:").partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except Exception as error:
        fix = "check the id and the network; or download it and name the file"
        raise UserError(Problem(location, f"cannot be loaded: {error}", fix)) from error
    folder = cache_folder() / "data"
    path = folder / f"{digest([location, rows._fingerprint])[:16]}.jsonl"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        rows.to_json(path, force_ascii=False)
    return path


def _cached(path: Path) -> dict[str, Any]:
    """Hash and size of a file, remembered by path, length and time of change."""
    status = path.stat()
    key = digest([str(path.resolve()), status.st_size, status.st_mtime_ns])[:24]
    memory = cache_folder() / "files" / f"{key}.json"
    if memory.is_file():
        remembered: dict[str, Any] = read_json(memory)
        return remembered
    facts = {"sha256": file_digest(path), "size": asdict(_measure(path))}
    write_json(memory, facts)
    return facts


def _measure(path: Path) -> Size:
    """Lenient: a malformed file is reported when it is read, not when it is planned."""
    try:
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    except (UnicodeDecodeError, json.JSONDecodeError):
        return Size(1, 1, 1)
    rows = [row for row in rows if isinstance(row, dict)]
    questions = sum(len(str(row.get("question", ""))) for row in rows)
    texts = [str(row[key]) for row in rows for key in ("answer", "correction", "reference") if row.get(key)]
    count = max(1, len(rows))
    mean_text = sum(map(len, texts)) / max(1, len(texts))
    return Size(count, int(questions / count / CHARACTERS_PER_TOKEN) + 1, int(mean_text / CHARACTERS_PER_TOKEN) + 1)
