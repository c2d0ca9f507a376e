"""Where data comes from: `embedded:NAME`, a file, `hub:ID` or `set:NAME`; identity and size without a network."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from aligner_core.data_files import read_rows
from aligner_core.errors import Problem, UserError
from aligner_core.evaluation_sets import PREFIX, VERSION, parse_set, questions_of
from aligner_core.files import cache_folder, digest, file_digest, read_json, write_json, write_jsonl
from aligner_core.records import Question, Reading, check_records, normalised
from aligner_core.stages import Source

EMBEDDED = Path(__file__).resolve().parent / "data" / "embedded"
CHARACTERS_PER_TOKEN = 4.0
TEXTS = ("answer", "correction", "chosen", "rejected", "reference")
Record = TypeVar("Record", bound=Question)


@dataclass(frozen=True)
class Size:
    """Number of records and mean tokens of their questions and texts (all but the question)."""

    records: int
    question_tokens: int
    text_tokens: int


@dataclass(frozen=True)
class HubId:
    """A parsed `hub:NAME[@REVISION][:CONFIG]:SPLIT`; `name` may also be a local folder in the hub's layout."""

    name: str
    revision: str | None
    config: str | None
    split: str


def parse_hub(source: str) -> HubId | None:
    """The parsed id, or None if `source` names no hub data set.

    One part after the name is the split, two are config and split; `train[:1000]` is a split too.

    Raises:
        UserError: if the id is not understood.
    """
    if not source.startswith("hub:"):
        return None
    name, *rest = re.split(r":(?![^\[]*\])", source.removeprefix("hub:"))
    name, _, revision = name.partition("@")
    if not name or len(rest) > 2 or not all(rest):
        raise UserError(Problem(source, "is no hub data set", "write hub:ORG/NAME[@REVISION][:CONFIG][:SPLIT]"))
    return HubId(name, revision or None, rest[0] if len(rest) == 2 else None, rest[-1] if rest else "train")


def local_path(source: str) -> Path | None:
    """The file that a source names; None for a hub data set, and for an evaluation set."""
    if source.startswith(("hub:", PREFIX)):
        return None
    if source.startswith("embedded:"):
        return EMBEDDED / (source.removeprefix("embedded:") + ".jsonl")
    return Path(source).expanduser()


def data_source(source: str, where: str) -> Source:
    """The source with its identity: content for files, id (with its revision, if named) for hub data sets.

    Raises:
        UserError: if there is no such file or evaluation set.
    """
    if named := parse_set(source, where):
        name, origin = named
        rows = data_source(origin, where)
        return Source(f"{PREFIX}{name}={rows.location}", f"{PREFIX}{name}:{VERSION}:{rows.identity}")
    if hub := parse_hub(source):
        return Source(source, source + _folder_content(Path(hub.name)))
    path = local_path(source)
    if path is None or not path.is_file():
        known = ", ".join("embedded:" + file.stem for file in sorted(EMBEDDED.glob("*.jsonl")))
        raise UserError(
            Problem(where, f'there is no data "{source}"', f"name a file, hub:ID, set:NAME, or one of: {known}")
        )
    return Source(str(path.resolve()), "file:" + _remembered(path, "sha256", file_digest))


def _folder_content(folder: Path) -> str:
    """What a local folder in the hub's layout holds; nothing for what lies on the hub."""
    if not folder.is_dir():
        return ""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "#" + digest({str(path.relative_to(folder)): _remembered(path, "sha256", file_digest) for path in files})


def size_of(source: str, columns: Mapping[str, str] | None = None) -> Size | None:
    """Counts of a local file, by a rule of thumb for tokens; None for a hub data set."""
    path = local_path(source)
    if path is None or not path.is_file():
        return None
    names = dict(columns or {})
    return Size(**_remembered(path, "size-" + digest(names)[:16], lambda file: asdict(_measure(file, names))))


def read_source(location: str, kind: type[Record], columns: Mapping[str, str]) -> Reading[Record]:
    """All records of a source, and its rows that are none. `columns` renames what the source calls otherwise."""
    return check_records(source_file(location), kind, columns, name=location)


def source_file(location: str) -> Path:
    """The file of a source; a hub data set is downloaded into the cache once, and then checked like any file."""
    if named := parse_set(location):
        return _made_set(*named)
    hub = parse_hub(location)
    if hub is None:
        return local_path(location) or Path(location)
    import datasets

    try:
        rows = datasets.load_dataset(hub.name, hub.config, split=hub.split, revision=hub.revision)
    except Exception as error:
        fix = "check id, config, split and the network; or download it and name the file"
        raise UserError(Problem(location, f"cannot be loaded: {error}", fix)) from error
    path = cache_folder() / "data" / f"{digest([location, rows._fingerprint])[:16]}.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            rows.to_parquet(Path(folder) / path.name)
            os.replace(Path(folder) / path.name, path)
    return path


def _made_set(name: str, origin: str) -> Path:
    """The questions of an evaluation set, made once from its published rows."""
    published = source_file(origin)
    path = cache_folder() / "data" / f"set-{name}-{digest([VERSION, file_digest(published)])[:16]}.jsonl"
    if not path.is_file():
        values = [value for _, value in read_rows(published)]
        if faults := [value for value in values if isinstance(value, Problem)]:
            raise UserError(faults[:20])
        write_jsonl(path, questions_of(name, [value for value in values if isinstance(value, dict)]))
    return path


def _remembered(path: Path, name: str, compute: Callable[[Path], Any]) -> Any:
    """A fact about a file, remembered by path, length and time of change."""
    status = path.stat()
    key = digest([str(path.resolve()), status.st_size, status.st_mtime_ns, name])[:24]
    memory = cache_folder() / "files" / f"{key}.json"
    if memory.is_file():
        return read_json(memory)
    fact = compute(path)
    write_json(memory, fact)
    return fact


def _measure(path: Path, columns: Mapping[str, str]) -> Size:
    """Lenient: a malformed file is reported when it is read, not when it is planned."""
    count = questions = texts = text_characters = 0
    try:
        for _, value in read_rows(path):
            row = normalised(value, columns)
            if not isinstance(row, dict):
                continue
            count += 1
            questions += len(str(row.get("question", "")))
            found = [len(str(row[key])) for key in TEXTS if row.get(key)]
            texts += len(found)
            text_characters += sum(found)
    except UserError:
        return Size(1, 1, 1)
    mean_text = text_characters / max(1, texts)
    mean_question = questions / max(1, count)
    return Size(
        max(1, count), int(mean_question / CHARACTERS_PER_TOKEN) + 1, int(mean_text / CHARACTERS_PER_TOKEN) + 1
    )
