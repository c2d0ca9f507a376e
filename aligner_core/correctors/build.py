"""From a corrector's settings to a corrector, its models taken from the inputs of the stage that runs it."""

from __future__ import annotations

from aligner_core.correctors.aligner import Aligner
from aligner_core.correctors.composed import Identity, Stack
from aligner_core.correctors.gate import Gate
from aligner_core.correctors.prompted import Prompted
from aligner_core.correctors.protocol import Corrector
from aligner_core.correctors.selecting import BestOf, Refuse
from aligner_core.recipe import (
    AlignerCorrector,
    BestOfCorrector,
    GateCorrector,
    IdentityCorrector,
    PromptedCorrector,
    RefuseCorrector,
    StackCorrector,
)
from aligner_core.recipe import Corrector as Settings
from aligner_core.stage_context import StageContext


def build_corrector(settings: Settings, stage: StageContext, name: str = "corrector") -> Corrector:
    """The corrector, with inputs named as `parts.slots` names them.

    Raises:
        UserError: if a model is no Aligner, or cannot do what is asked of it.
    """
    match settings:
        case AlignerCorrector():
            return Aligner(stage.model(name), settings.template)
        case PromptedCorrector():
            return Prompted(settings.kind, stage.model(name), settings.rounds)
        case IdentityCorrector():
            return Identity()
        case StackCorrector():
            inner = [build_corrector(item, stage, f"{name}.{number}") for number, item in enumerate(settings.of)]
            return Stack(inner, settings.between)
        case RefuseCorrector():
            return Refuse(stage.model(f"{name}.scorer"), settings.threshold, settings.refusal)
        case BestOfCorrector():
            corrector = build_corrector(settings.of, stage, f"{name}.of")
            scorer = stage.model(f"{name}.scorer")
            return BestOf(corrector, scorer, settings.n, settings.cost_weight, settings.temperature)
        case GateCorrector():
            return _gate(settings, stage, name)


def _gate(settings: GateCorrector, stage: StageContext, name: str) -> Gate:
    return Gate(
        build_corrector(settings.of, stage, f"{name}.of"),
        settings.by,
        stage.model(f"{name}.scorer") if f"{name}.scorer" in stage.inputs else None,
        settings.threshold,
        settings.catch,
        stage.file(f"{name}.calibration") if settings.threshold is None else None,
    )
