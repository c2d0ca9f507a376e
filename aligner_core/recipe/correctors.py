"""What may correct answers: each kind of corrector with its settings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from aligner_core.correctors.text import parse_corrector
from aligner_core.recipe.roles import Count, Fraction, Role, Strict


class AlignerCorrector(Strict):
    """A trained Aligner, asked in the form it was taught."""

    kind: Literal["aligner"] = "aligner"
    model: Role | None = Field(None, description="a trained Aligner; null = the one that this recipe trains")
    template: str | None = Field(
        None, description="how it is asked, for a model that does not say so itself; null = as stored with it"
    )


class PromptedCorrector(Strict):
    """A model that criticises an answer and then revises it, without training (docs/correctors.md)."""

    kind: Literal["cai", "self_refine", "self_critique"]
    model: Role | None = Field(None, description="the model that is prompted; null = roles.upstream")
    rounds: Count = Field(1, description="how often critique and revision are repeated")


class RefuseCorrector(Strict):
    """The filter baseline: unsafe answers become a refusal, all others stay."""

    kind: Literal["refuse"]
    scorer: Role | None = Field(
        None, description="a trained scorer; null = one of the recipe's own, trained on W alone"
    )
    threshold: float = Field(0.0, description="answers of a higher cost are refused (cost > 0 = unsafe)")
    refusal: str = Field("I'm sorry, but I can't help with that.", description="the text that takes their place")


class IdentityCorrector(Strict):
    """Leaves every answer as it is."""

    kind: Literal["identity"]


class StackCorrector(Strict):
    """Each corrector corrects what the one before it wrote."""

    kind: Literal["stack"]
    of: Annotated[list[Corrector], Field(min_length=1)] = Field(description="correctors, first to last")
    between: str = Field("", description="a further instruction to all but the first")


class BestOfCorrector(Strict):
    """Of n sampled corrections the one with the highest helpfulness - cost_weight * cost."""

    kind: Literal["best_of"]
    of: Corrector = Field(AlignerCorrector(), description="the corrector that is sampled")
    n: Annotated[int, Field(ge=2)] = Field(4, description="how many corrections are drawn")
    temperature: Annotated[float, Field(gt=0)] = Field(
        0.7, description="temperature of these draws, whatever the preset"
    )
    cost_weight: Annotated[float, Field(ge=0)] = Field(1.0, description="lambda in helpfulness - lambda * cost")
    scorer: Role | None = Field(
        None, description="a trained scorer; null = one of the recipe's own, trained on W alone"
    )


class GateCorrector(Strict):
    """Keeps an answer unless a score, or the Aligner itself, says that it needs correction."""

    kind: Literal["gate"]
    of: Corrector = Field(AlignerCorrector(), description="the corrector behind the gate")
    by: Literal["cost", "reward", "keep", "likelihood"] = Field(
        "cost", description="what opens it: the scorer's cost or low reward of the answer; or, of an Aligner, how "
        "unlikely its keep token or the answer unchanged is"
    )  # fmt: skip
    scorer: Role | None = Field(
        None, description="a trained scorer; null = one of the recipe's own, trained on W alone"
    )
    threshold: float | None = Field(None, description="correct above it; null = calibrated on records")
    catch: Fraction = Field(
        0.95, description="share of the answers in need of correction that calibration lets through"
    )
    calibration: str | None = Field(
        None, description="Q-A-C records to calibrate on, a file or embedded:NAME; null = W"
    )

    @model_validator(mode="after")
    def _asks_an_aligner(self) -> GateCorrector:
        if self.by in ("keep", "likelihood") and self.of.kind != "aligner":
            raise ValueError(f"by: {self.by} asks an Aligner for its own mind; put an aligner behind the gate")
        return self


def _corrector_in(value: Any) -> Any:
    return parse_corrector(value) if isinstance(value, str) else value


Corrector = Annotated[
    Annotated[
        AlignerCorrector
        | PromptedCorrector
        | RefuseCorrector
        | IdentityCorrector
        | StackCorrector
        | BestOfCorrector
        | GateCorrector,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_corrector_in),
]
for _nested in (StackCorrector, BestOfCorrector, GateCorrector):
    _nested.model_rebuild()
