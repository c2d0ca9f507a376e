"""A corrector for answers as they come, instead of for the rows of a stage.

Nothing is written, every model stays loaded once it was used, and a request may change rounds and threshold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from aligner_core.correctors.build import build_corrector
from aligner_core.correctors.parts import slots
from aligner_core.correctors.protocol import Bench, Case, Corrector, Revision
from aligner_core.engines.protocol import Engine, EngineSlot, open_engine, sampling_of
from aligner_core.errors import Problem, UserError
from aligner_core.generation import Bulk, RowWork
from aligner_core.metrics import MetricLog
from aligner_core.model_ids import parse_endpoint
from aligner_core.progress import Progress
from aligner_core.recipe import Corrector as CorrectorSettings
from aligner_core.recipe import GateCorrector
from aligner_core.stage_context import ModelLocation, StageContext
from w2s.correct import slot_sources
from w2s.serving.settings import ServeSettings

RETRIES = 1  # at a corrector behind a URL: somebody waits for the answer
Measure = Callable[[Sequence[Case]], list[dict[str, Any]]]


@dataclass(frozen=True)
class Job:
    """An answer to correct; `threshold` None is the gate's own."""

    case: Case
    rounds: int = 1
    threshold: float | None = None


class LiveCorrector:
    """The settings' corrector. One object serves one thread.

    Attributes:
        served: whether all its models are behind URLs, so that nothing is gained by waiting for a batch.
    """

    def __init__(self, settings: ServeSettings) -> None:
        """Loads no model.

        Raises:
            UserError: if a model is missing, is no Aligner, has no key, or a gate no threshold.
        """
        self._settings = settings.corrector
        needs = list(slots(settings.corrector))
        _refuse_calibration([slot.name for slot in needs if slot.what == "records"])
        sources = slot_sources(needs)
        self.served = all(parse_endpoint(source.location) for source in sources.values())
        self._folder = tempfile.TemporaryDirectory(prefix="w2s-serve-")
        self._stage = _stage(Path(self._folder.name), {name: asdict(item) for name, item in sources.items()}, settings)
        self._own = build_corrector(settings.corrector, self._stage)
        self._bench = LiveBench(
            self._stage, Passing(self._stage, [], 1), OpenEngines(self._stage),
            sampling_of(settings.generation, correcting=True), seed=0,
        )  # fmt: skip

    def correct(self, jobs: Sequence[Job]) -> list[Revision]:
        """A revision per job. Equal wishes are corrected together, so they share batches."""
        revisions: dict[int, Revision] = {}
        for wish in dict.fromkeys((job.rounds, job.threshold) for job in jobs):
            chosen = [index for index, job in enumerate(jobs) if (job.rounds, job.threshold) == wish]
            found = self._repeat([jobs[index].case for index in chosen], *wish)
            revisions |= dict(zip(chosen, found, strict=True))
        return [revisions[index] for index in range(len(jobs))]

    def close(self) -> None:
        self._bench.engines.close()
        self._stage.metrics.close()
        self._folder.cleanup()

    def _repeat(self, cases: Sequence[Case], rounds: int, threshold: float | None) -> list[Revision]:
        corrector = self._own if threshold is None else self._with_threshold(threshold)
        so_far = [Revision(case.answer) for case in cases]
        for _ in range(rounds):
            current = [
                None if revision.error else replace(case, answer=revision.text)
                for case, revision in zip(cases, so_far, strict=True)
            ]
            revisions = corrector.correct(
                current, replace(self._bench, bulk=Passing(self._stage, [""] * len(cases), 1))
            )
            so_far = [
                before if then is None else replace(then, tokens=before.tokens + then.tokens)
                for before, then in zip(so_far, revisions, strict=True)
            ]
        return so_far

    def _with_threshold(self, threshold: float) -> Corrector:
        return build_corrector(self._settings.model_copy(update={"threshold": threshold}), self._stage)


def takes_threshold(settings: CorrectorSettings) -> bool:
    return isinstance(settings, GateCorrector)


class Passing(Bulk):
    """Rows that are worked on at once and kept nowhere."""

    def each(self, step: str, keys: Sequence[str | None], work: RowWork) -> list[dict[str, Any] | None]:
        chosen = [index for index, key in enumerate(keys) if key is not None]
        made = dict(zip(chosen, work(chosen, []), strict=True)) if chosen else {}
        return [made.get(index) for index in range(len(keys))]


class OpenEngines(EngineSlot):
    """Keeps every engine open: a server has room for all of its models, and no time to load them again."""

    def __init__(self, stage: StageContext) -> None:
        super().__init__(stage)
        self._open: dict[tuple[ModelLocation, str | None], Engine] = {}

    def open(self, model: ModelLocation, frame: str | None = None) -> Engine:
        if (model, frame) not in self._open:
            self._open[model, frame] = open_engine(self._stage, model, frame)
        return self._open[model, frame]

    def close(self) -> None:
        for engine in self._open.values():
            engine.close()
        self._open = {}


@dataclass(frozen=True)
class LiveBench(Bench):
    """Keeps the models that measure, too."""

    loaded: dict[str, Measure] = field(default_factory=dict)

    def score(self, step: str, model: ModelLocation, cases: Sequence[Case | None]) -> list[tuple[float, float] | None]:
        # Named by the model alone, so that all steps with one scorer share it.
        return Bench.score(replace(self, prefix=""), model.folder, model, cases)

    def measure(
        self, step: str, cases: Sequence[Case | None], load: Callable[[], Measure]
    ) -> list[dict[str, Any] | None]:
        name = self.prefix + step
        there = [case for case in cases if case is not None]
        if there and name not in self.loaded:
            self.loaded[name] = load()
        made = iter(self.loaded[name](there) if there else [])
        return [None if case is None else next(made) for case in cases]


def _refuse_calibration(names: Sequence[str]) -> None:
    what = "a server's gate is not calibrated"
    fix = "name its threshold; a run's manifest has the calibrated one under gates"
    if names:
        raise UserError(Problem(name.removesuffix(".calibration"), what, fix) for name in names)


def _stage(folder: Path, inputs: dict[str, dict[str, Any]], settings: ServeSettings) -> StageContext:
    endpoints = settings.profile.endpoints.model_copy(
        update={"retries": RETRIES, "timeout_seconds": settings.correction_seconds}
    )
    generation = settings.profile.generation.model_copy(update={"batch": settings.batch})
    profile = settings.profile.for_one_process().model_copy(update={"endpoints": endpoints, "generation": generation})
    return StageContext(folder, inputs, profile, Progress(folder, writes=False), MetricLog(folder, "serve"))
