"""What an experiment is: the typed, strict recipe. Every key is described here once; docs and schema are generated."""

from aligner_core.recipe.correctors import (
    AlignerCorrector,
    BestOfCorrector,
    Corrector,
    GateCorrector,
    IdentityCorrector,
    PromptedCorrector,
    RefuseCorrector,
    StackCorrector,
)
from aligner_core.recipe.data import PARTS, Data, DataSource, Expected, Leakage, Limits, Part, Sources
from aligner_core.recipe.experiment import Evaluation, Generation, Recipe, ScoreModelSection, ScorerSection
from aligner_core.recipe.roles import Count, Fraction, Role, Roles, Shape, Strict, Upstream
from aligner_core.recipe.students import Dpo, Ppo, Student, WeakLabels
from aligner_core.recipe.training import AlignerSection, HeldOut, Lora, Training, WarmUp

__all__ = [
    "PARTS",
    "AlignerCorrector",
    "AlignerSection",
    "BestOfCorrector",
    "Corrector",
    "Count",
    "Data",
    "DataSource",
    "Dpo",
    "Evaluation",
    "Expected",
    "Fraction",
    "GateCorrector",
    "Generation",
    "HeldOut",
    "IdentityCorrector",
    "Leakage",
    "Limits",
    "Lora",
    "Part",
    "Ppo",
    "PromptedCorrector",
    "Recipe",
    "RefuseCorrector",
    "Role",
    "Roles",
    "ScoreModelSection",
    "ScorerSection",
    "Shape",
    "Sources",
    "StackCorrector",
    "Strict",
    "Student",
    "Training",
    "Upstream",
    "WarmUp",
    "WeakLabels",
]
