"""The recipe of an IDA experiment: a weak-to-strong recipe with rounds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from aligner_core.recipe import Count, Recipe, Strict, Student


class Rounds(Strict):
    """How amplification and distillation are repeated."""

    count: Count = Field(2, description="rounds of amplify and distil")
    start: Literal["previous", "base"] = Field(
        "previous", description="each round's student starts from the previous round's model, or from the upstream"
    )


class IdaRecipe(Recipe):
    """A weak-to-strong recipe whose student becomes the next round's upstream."""

    rounds: Rounds = Field(Rounds(), description="amplify and distil")

    @field_validator("student")
    @classmethod
    def _distils(cls, student: Student | None) -> Student:
        if student is None:
            raise ValueError("IDA distils into a student; give this section")
        return student

    @field_validator("arms", "compared", "upstreams")
    @classmethod
    def _compares_rounds(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            raise ValueError("belongs to weak-to-strong recipes; IDA compares its rounds")
        return value
