"""Which model came from which data, questions, corrector and seed, back to the first one.

Read off a graph of stages: a model is what a stage leaves under the name `model`, or a source from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aligner_core.errors import Problem
from aligner_core.integrity import MANIFEST, faults
from aligner_core.stages import SHOWN, Artifact, Source, Stage, is_finished, stage_folder
from aligner_core.tasks.generate import AnswerQuestions
from aligner_core.tasks.train import MODEL
from aligner_core.text_tables import text_table

SCORING = ("scorer", "reward", "cost")
HEAD = ("model", "state", "seed", "starts from", "learns from", "on questions", "answered by", "corrected by",
        "chosen by")  # fmt: skip


@dataclass
class ModelOrigin:
    """A model and what it came from; names of models, of parts of the data, and of sources from outside."""

    model: str
    identity: str
    finished: bool = False
    seed: int | None = None
    starts_from: list[str] = field(default_factory=list)
    learns_from: list[str] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)
    answered_by: list[str] = field(default_factory=list)
    corrected_by: list[str] = field(default_factory=list)
    chosen_by: list[str] = field(default_factory=list)

    def add(self, relation: str, name: str) -> None:
        names: list[str] = getattr(self, relation)
        if name not in names:
            names.append(name)


def model_origins(stages: Sequence[Stage], run: Path) -> list[ModelOrigin]:
    """Every model that any stage makes, in the order of the stages."""
    made = {
        source.stage.folder_name
        for stage in stages
        for source in stage.inputs.values()
        if isinstance(source, Artifact) and source.path == MODEL
    }
    return [_origin(stage, run) for stage in stages if stage.folder_name in made]


def data_origins(stages: Sequence[Stage]) -> dict[str, Source]:
    """What the parts of the data were made of: sources from outside, by name."""
    return {
        name: source
        for stage in stages
        if _reads_the_world(stage)
        for name, source in stage.inputs.items()
        if isinstance(source, Source)
    }


def _origin(stage: Stage, run: Path) -> ModelOrigin:
    origin = ModelOrigin(stage.name, stage.identity, is_finished(run, stage), getattr(stage.task, "seed", None))
    for name, source in stage.inputs.items():
        if name == "model":
            origin.add("starts_from", _name(source))
    for relation, name in _ancestors(stage):
        origin.add(relation, name)
    return origin


def _ancestors(stage: Stage) -> Iterator[tuple[str, str]]:
    """(relation, name) of the models and the parts of the data that a stage's inputs came from, but its own start."""
    for name, source in stage.inputs.items():
        if name == "model" and not isinstance(stage.task, AnswerQuestions):
            continue
        if isinstance(source, Source) or source.path == MODEL or _reads_the_world(source.stage):
            yield _relation(name, source), _name(source)
        else:
            yield from _ancestors(source.stage)


def _relation(name: str, source: Artifact | Source) -> str:
    """What an input is to the stage that reads it, by its name there."""
    if name.startswith("questions"):
        return "questions"
    if isinstance(source, Artifact) and source.path != MODEL:
        return "learns_from"
    if name == "model":
        return "answered_by"
    return "chosen_by" if name.rpartition(".")[2] in SCORING else "corrected_by"


def _reads_the_world(stage: Stage) -> bool:
    """The stage that makes the parts of the data: all that it reads is from outside, and it trains nothing."""
    return "model" not in stage.inputs and all(isinstance(source, Source) for source in stage.inputs.values())


def _name(source: Artifact | Source) -> str:
    if isinstance(source, Source):
        return source.location
    return source.stage.name if source.path == MODEL else Path(source.path).stem


def check(run: Path) -> list[Problem]:
    """Read every byte of every finished stage of a run, those of other settings too, and say what does not fit."""
    folders = sorted(path.parent for path in run.glob(f"stages/*/{MANIFEST}") if path.parent.suffix != ".partial")
    return [problem for folder in folders for problem in faults(folder, every_byte=True)]


def as_table(origins: Sequence[ModelOrigin], data: Mapping[str, Source]) -> str:
    """For people: one line per model, and where the data came from."""
    rows = [
        (item.model, f"{'done' if item.finished else 'to do'} {item.identity[:SHOWN]}",
         "–" if item.seed is None else item.seed, *(", ".join(names) or "–" for names in _relations(item)))
        for item in origins
    ]  # fmt: skip
    sources = [(name, source.location, source.identity) for name, source in data.items()]
    return text_table(HEAD, rows) + "\n\n" + text_table(("data", "from", "identity"), sources)


def _relations(item: ModelOrigin) -> list[list[str]]:
    return [item.starts_from, item.learns_from, item.questions, item.answered_by, item.corrected_by, item.chosen_by]


def as_json(run: Path, stages: Sequence[Stage], origins: Sequence[ModelOrigin]) -> dict[str, Any]:
    """Everything, for programs: models, data, and all stages with settings and inputs."""
    return {
        "schema": "w2s/lineage/1",
        "run": str(run),
        "models": [asdict(item) for item in origins],
        "data": {name: asdict(source) for name, source in data_origins(stages).items()},
        "stages": [
            {
                "name": stage.name,
                "identity": stage.identity,
                "folder": str(stage_folder(run, stage).relative_to(run)),
                "finished": is_finished(run, stage),
                "task": stage.task.path(),
                "version": stage.task.version,
                "settings": stage.task.model_dump(mode="json"),
                "inputs": {name: source.identity for name, source in stage.inputs.items()},
            }
            for stage in stages
        ],
    }
