"""Which records an experiment uses, and how they are split."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from aligner_core.recipe.roles import Count, Strict


class Limits(Strict):
    """At most so many records of each part; null means all."""

    corrections: Count | None = Field(None, description="ground-truth corrections for the Aligner and the floor (W)")
    weak_labels: Count | None = Field(None, description="questions for student and ceiling (S)")
    queries: Count | None = Field(None, description="further questions without ground truth")
    evaluation: Count | None = Field(None, description="held-out questions")
    preferences: Count | None = Field(None, description="preferences for the reward model")
    safety: Count | None = Field(None, description="safety labels for the cost model")
    instructions: Count | None = Field(None, description="answers that the upstream imitates first")


class Expected(Strict):
    """Sizes that plan assumes for data it cannot read without a network."""

    corrections: Count = Field(20_000, description="records in each hub data set of data.corrections")
    evaluation: Count = Field(700, description="records in each hub data set of data.evaluation")
    instructions: Count = Field(52_000, description="records in each hub data set of data.instructions")
    question_tokens: Count = Field(60, description="mean tokens of a question")
    answer_tokens: Count = Field(200, description="mean tokens of an answer or correction")


class Leakage(Strict):
    """Which training questions give an evaluation question away. They are left out, counted and kept apart."""

    jaccard: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="least Jaccard similarity of word 3-grams that makes two questions near-duplicates"
    )
    overlap: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="a training question is left out where it holds this share, or more, of the word 8-grams of "
        "an evaluation question"
    )  # fmt: skip


class DataSource(Strict):
    """Where records come from. May be written as its name alone."""

    source: str = Field(
        description="embedded:NAME, a .jsonl, .json or .parquet file, hub:ORG/NAME[@REVISION][:CONFIG][:SPLIT], or an "
        "evaluation set: set:NAME, set:NAME=FILE (docs/evaluation.md)"
    )
    weight: Annotated[float, Field(gt=0)] | None = Field(
        None, description="its share of the mix, relative to the others'; without weights all records are taken"
    )
    columns: dict[str, str] = Field({}, description="renames columns of this source, over data.columns")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


def _all_weighted_or_none(sources: list[DataSource]) -> list[DataSource]:
    if len({source.weight is None for source in sources}) > 1:
        raise ValueError("some sources have a weight and some have none; give each a weight, or none")
    return sources


Sources = Annotated[
    list[DataSource],
    Field(min_length=1),
    AfterValidator(_all_weighted_or_none),
    BeforeValidator(_as_list, json_schema_input_type=str | DataSource | list[str | DataSource]),
]


Part = Literal["corrections", "evaluation", "queries", "preferences", "safety", "instructions"]
PARTS: tuple[Part, ...] = get_args(Part)


class Data(Strict):
    """Ground-truth corrections are split once, by question hash, into W and S."""

    corrections: Sources = Field(description="Q-A-C records: a source (see below), or a list of sources to mix")
    evaluation: Sources = Field(description="held-out questions with references: a source or several")
    queries: Sources | None = Field(
        None, description="further questions; adds the arm student_more, labelled on them too"
    )
    preferences: Sources | None = Field(
        None, description="preferences of others (question, chosen, rejected), for the reward model alone"
    )
    safety: Sources | None = Field(
        None, description="safety labels of others (question, answer, unsafe), for the cost model alone"
    )
    instructions: Sources | None = Field(
        None, description="answers to imitate (question, answer), for upstream_sft: a base model becomes an upstream"
    )
    columns: dict[str, str] = Field({}, description="renames columns of outside data, e.g. {prompt: question}")
    on_invalid: Literal["raise", "drop"] = Field(
        "raise", description="what a malformed record does: it stops the run, or is dropped, counted and kept apart"
    )
    leakage: Leakage = Field(Leakage(), description="training questions that are too close to an evaluated one")
    answers: Literal["sampled", "given"] = Field(
        "sampled", description="the upstream's answers: sampled from roles.upstream, or those that the records carry"
    )
    weak_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.6, description="share of the questions that goes to W; 1 where there is no student"
    )
    limits: Limits = Field(Limits(), description="how much of each part to use")
    expected: Expected = Field(Expected(), description="sizes for plan where the data is not at hand")

    def sources(self, name: Part) -> dict[str, DataSource]:
        """The sources of one part, each under the name that the data stage knows it by, with all its columns."""
        sources: list[DataSource] = getattr(self, name) or []
        named = {f"{name}-{number}" if len(sources) > 1 else name: item for number, item in enumerate(sources, 1)}
        return {
            key: item.model_copy(update={"columns": {**self.columns, **item.columns}}) for key, item in named.items()
        }
