"""The recipe of an IDA experiment: a weak-to-strong recipe with rounds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from aligner_core.correctors.parts import draws
from aligner_core.recipe import Count, Fraction, Recipe, Strict, Student

MOST_ROUNDS = 12  # systems are named by letters, two to a round
Percent = Annotated[float, Field(ge=0, le=100)]


class Stop(Strict):
    """When no further round is begun. Judged on the held-out questions by the training-time scorer, never the other.

    Every rule is off by default: a recipe then runs all its rounds.
    """

    min_gain: Percent | None = Field(
        None, description="no gain: a round's model is not above the one before it by such an omega on either axis"
    )
    max_loss: Percent | None = Field(
        None, description="drift: on an axis even the upper end of omega against the upstream is below minus this"
    )
    max_needless_refusals: Fraction | None = Field(
        None, description="drift: a larger share of the questions that only look unsafe is refused"
    )
    max_hours: Annotated[float, Field(gt=0)] | None = Field(
        None, description="budget: one more round like the last would take all stages together beyond these hours"
    )
    max_tokens: Count | None = Field(None, description="budget: the same for tokens, generated and trained on")


class Rounds(Strict):
    """How amplification and distillation are repeated."""

    count: Annotated[int, Field(ge=1, le=MOST_ROUNDS)] = Field(2, description="rounds of amplify and distil")
    start: Literal["previous", "base"] = Field(
        "previous", description="each round's student starts from the previous round's model, or from the upstream"
    )
    aligner: Literal["fixed", "retrained"] = Field(
        "fixed", description="one Aligner for all rounds; or from the second on a new one, trained on the current "
        "model's answers to W and their ground-truth corrections (paper, Fig. 5)"
    )  # fmt: skip
    questions: Literal["same", "fresh"] = Field(
        "same", description="every round asks all of S (and data.queries, where given); or its own share of them"
    )
    samples: Count = Field(
        1, description="corrections drawn of each answer; more than one needs sampling: generation.preset published, "
        "or a best_of corrector"
    )  # fmt: skip
    replay: Fraction = Field(0.0, description="share of every earlier round's corrections that is learnt again")
    replay_ground_truth: Fraction = Field(0.0, description="share of the ground truth of W that is learnt with it")
    stop: Stop = Field(Stop(), description="when to stop before count")


class IdaRecipe(Recipe):
    """A weak-to-strong recipe whose student becomes the next round's upstream."""

    rounds: Rounds = Field(Rounds(), description="amplify and distil")

    @field_validator("student")
    @classmethod
    def _distils_in_one_way(cls, student: Student | None) -> Student:
        if student is None:
            raise ValueError("IDA distils into a student; give this section")
        if len(student.methods) > 1:
            raise ValueError("each round distils into one student; name one method")
        if student.learns_from != "weak_labels":
            raise ValueError("learns_from: a round's student learns the corrections of the model before it")
        return student

    @field_validator("arms", "compared", "upstreams")
    @classmethod
    def _compares_rounds(cls, value: dict[str, Any]) -> dict[str, Any]:
        if value:
            raise ValueError("belongs to weak-to-strong recipes; IDA compares its rounds")
        return value

    @model_validator(mode="after")
    def _samples_differ(self) -> IdaRecipe:
        if self.rounds.samples > 1 and self.generation.preset == "greedy" and not draws(self.corrector):
            raise ValueError("rounds.samples: greedy decoding draws the same correction every time; "
                             "set generation.preset: published, or a best_of corrector")  # fmt: skip
        return self
