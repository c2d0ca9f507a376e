"""What a corrector needs from outside, as a tree of settings says it: models, scorers and calibration records.

Each need is a slot, named by its place in the tree. A stage has one input per slot, and its own settings without the
models, so that its identity follows the models' content and not the paths where they lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

from aligner_core.recipe import (
    AlignerCorrector,
    BestOfCorrector,
    Corrector,
    GateCorrector,
    PromptedCorrector,
    RefuseCorrector,
    Role,
    StackCorrector,
    Strict,
)

Settings = TypeVar("Settings", bound=Strict)
MODEL_FIELDS = ("model", "scorer", "calibration")


@dataclass(frozen=True)
class Slot:
    """A need: `given` is what the settings name for it, None where whoever runs the corrector has to.

    `passes` says how often the model goes over all rows.
    """

    name: str
    what: Literal["aligner", "prompted", "scorer", "records"]
    given: Role | str | None
    passes: int = 1


def slots(settings: Corrector, name: str = "corrector", passes: int = 1) -> Iterator[Slot]:
    """All needs of a corrector and of those inside it."""
    match settings:
        case AlignerCorrector():
            yield Slot(name, "aligner", settings.model, passes)
        case PromptedCorrector():
            yield Slot(name, "prompted", settings.model, 2 * settings.rounds * passes)
        case StackCorrector():
            for number, inner in enumerate(settings.of):
                yield from slots(inner, f"{name}.{number}", passes)
        case RefuseCorrector():
            yield Slot(f"{name}.scorer", "scorer", settings.scorer, passes)
        case BestOfCorrector():
            yield from slots(settings.of, f"{name}.of", passes * settings.n)
            yield Slot(f"{name}.scorer", "scorer", settings.scorer, passes * settings.n)
        case GateCorrector():
            yield from slots(settings.of, f"{name}.of", passes)
            if settings.by in ("cost", "reward"):
                yield Slot(f"{name}.scorer", "scorer", settings.scorer, passes)
            if settings.threshold is None:
                yield Slot(f"{name}.calibration", "records", settings.calibration)


def draws(settings: Corrector) -> bool:
    """Whether it samples whatever the preset, itself or by a corrector inside it."""
    match settings:
        case BestOfCorrector():
            return True
        case StackCorrector():
            return any(map(draws, settings.of))
        case GateCorrector():
            return draws(settings.of)
        case _:
            return False


def bare(settings: Settings) -> Settings:
    """The settings without models and files."""
    changes: dict[str, object] = {name: None for name in MODEL_FIELDS if name in type(settings).model_fields}
    inner = getattr(settings, "of", None)
    if isinstance(inner, Strict):
        changes["of"] = bare(inner)
    elif inner:
        changes["of"] = [bare(item) for item in inner]
    return settings.model_copy(update=changes)


def describe(settings: Strict) -> str:
    """A name for output rows: kinds, and the models that are named."""
    kind = str(getattr(settings, "kind", ""))
    inner = getattr(settings, "of", None)
    if isinstance(inner, Strict):
        return f"{kind}:[{describe(inner)}]"
    if inner:
        return f"{kind}:[{', '.join(map(describe, inner))}]"
    role = getattr(settings, "model", None) or getattr(settings, "scorer", None)
    return f"{kind}:{role.model}" if role else kind
