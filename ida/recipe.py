"""The recipe of an IDA experiment: a weak-to-strong recipe with rounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from aligner_core.recipe import Count, Recipe, Strict


class Rounds(Strict):
    """How amplification and distillation are repeated."""

    count: Count = Field(2, description="rounds of amplify and distil")
    start: Literal["previous", "base"] = Field(
        "previous", description="each round's student starts from the previous round's model, or from the upstream"
    )


class IdaRecipe(Recipe):
    """A weak-to-strong recipe whose student becomes the next round's upstream."""

    rounds: Rounds = Field(Rounds(), description="amplify and distil")

    @model_validator(mode="after")
    def _has_a_student_and_no_arms(self) -> IdaRecipe:
        if self.student is None:
            raise ValueError("IDA distils into a student; give the section student")
        if self.arms:
            raise ValueError("IDA has no arms; make a recipe of each Aligner")
        return self
