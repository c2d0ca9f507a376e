"""The recipe of an IDA experiment: a weak-to-strong recipe with rounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from aligner_core.recipe import Corrector, Count, Recipe, Strict


class Rounds(Strict):
    """How amplification and distillation are repeated."""

    count: Count = Field(2, description="rounds of amplify and distil")
    start: Literal["previous", "base"] = Field(
        "previous", description="each round's student starts from the previous round's model, or from the upstream"
    )


class IdaRecipe(Recipe):
    """A weak-to-strong recipe whose student becomes the next round's upstream."""

    rounds: Rounds = Field(Rounds(), description="amplify and distil")

    @field_validator("compared")
    @classmethod
    def _compares_rounds(cls, compared: dict[str, Corrector]) -> dict[str, Corrector]:
        if compared:
            raise ValueError("belongs to weak-to-strong recipes; IDA compares its rounds")
        return compared
