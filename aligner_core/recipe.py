"""What an experiment is: the typed, strict recipe. Every key is described here once; docs and schema are generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from aligner_core.model_ids import unknown_model_reason


class Strict(BaseModel):
    """Unknown keys are errors; values do not change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class Shape(Strict):
    """A decoder's dimensions, for planning without loading it."""

    layers: Count = Field(description="transformer layers")
    hidden: Count = Field(description="width")
    intermediate: Count = Field(description="width inside the MLP")
    heads: Count = Field(description="query heads")
    kv_heads: Count = Field(description="key-value heads")
    head_dim: Count = Field(description="size of a head")
    vocabulary: Count = Field(description="tokens")
    tied_embeddings: bool = Field(False, description="input and output embeddings are one")


class Role(Strict):
    """A model that plays a part. May be written as its id alone."""

    model: str = Field(description="hub id (org/name), local folder, or embedded:NAME")
    revision: str | None = Field(None, description="hub revision; pin it to make the run's identity exact")
    trust_remote_code: bool = Field(False, description="run code that comes with the model; off unless you say so")
    shape: Shape | None = Field(None, description="dimensions, for plan, of a model it does not know")

    @model_validator(mode="before")
    @classmethod
    def _from_id(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @field_validator("model")
    @classmethod
    def _is_known(cls, model: str) -> str:
        if reason := unknown_model_reason(model):
            raise ValueError(reason)
        return model


class Roles(Strict):
    """Which model plays which part."""

    upstream: Role = Field(description="its answers are corrected; student and ceiling start from it")
    aligner: Role = Field(description="base of the Aligner and of the floor: the weak model")
    scorer: Role = Field(description="trunk of the scorer that evaluates (helpfulness and cost heads)")
    embedder: Role = Field(
        Role(model="embedded:all-minilm-l6-v2"), description="sentence embedder for similarity to the reference"
    )


class Limits(Strict):
    """At most so many records of each part; null means all."""

    corrections: Count | None = Field(None, description="ground-truth corrections for the Aligner and the floor (W)")
    weak_labels: Count | None = Field(None, description="questions for student and ceiling (S)")
    queries: Count | None = Field(None, description="further questions without ground truth")
    evaluation: Count | None = Field(None, description="held-out questions")


class Expected(Strict):
    """Sizes that plan assumes for data it cannot read without a network."""

    corrections: Count = Field(20_000, description="records in each hub data set of data.corrections")
    evaluation: Count = Field(700, description="records in each hub data set of data.evaluation")
    question_tokens: Count = Field(60, description="mean tokens of a question")
    answer_tokens: Count = Field(200, description="mean tokens of an answer or correction")


class Leakage(Strict):
    """Which training questions give an evaluation question away. They are left out, counted and kept apart."""

    jaccard: Annotated[float, Field(gt=0, le=1)] = Field(
        0.5, description="least Jaccard similarity of word 3-grams that makes two questions near-duplicates"
    )
    overlap: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="least share of an evaluation question's word 8-grams that must not stand in another"
    )


class DataSource(Strict):
    """Where records come from. May be written as its name alone."""

    source: str = Field(
        description="embedded:NAME, a .jsonl, .json or .parquet file, or hub:ORG/NAME[@REVISION][:CONFIG][:SPLIT]"
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


Part = Literal["corrections", "evaluation", "queries"]
PARTS: tuple[Part, ...] = get_args(Part)


class Data(Strict):
    """Ground-truth corrections are split once, by question hash, into W and S."""

    corrections: Sources = Field(description="Q-A-C records: a source (see below), or a list of sources to mix")
    evaluation: Sources = Field(description="held-out questions with references: a source or several")
    queries: Sources | None = Field(
        None, description="further questions; adds the arm student_more, labelled on them too"
    )
    columns: dict[str, str] = Field({}, description="renames columns of outside data, e.g. {prompt: question}")
    on_invalid: Literal["raise", "drop"] = Field(
        "raise", description="what a malformed record does: it stops the run, or is dropped, counted and kept apart"
    )
    leakage: Leakage = Field(Leakage(), description="training questions that are too close to an evaluated one")
    weak_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.6, description="share of the questions that goes to W")
    limits: Limits = Field(Limits(), description="how much of each part to use")
    expected: Expected = Field(Expected(), description="sizes for plan where the data is not at hand")

    def sources(self, name: Part) -> dict[str, DataSource]:
        """The sources of one part, each under the name that the data stage knows it by, with all its columns."""
        sources: list[DataSource] = getattr(self, name) or []
        named = {f"{name}-{number}" if len(sources) > 1 else name: item for number, item in enumerate(sources, 1)}
        return {
            key: item.model_copy(update={"columns": {**self.columns, **item.columns}}) for key, item in named.items()
        }


class Training(Strict):
    """One supervised training. Micro-batch and accumulation follow from global_batch and the profile."""

    epochs: Annotated[float, Field(gt=0)] = Field(3.0, description="passes over the data")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(2e-5, description="peak learning rate")
    global_batch: Count = Field(256, description="records per optimizer step, over all devices")
    schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="learning-rate schedule")
    lr_warmup: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.03, description="share of the steps over which the learning rate rises"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(0.0, description="AdamW weight decay")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="AdamW betas")
    max_grad_norm: Annotated[float, Field(gt=0)] = Field(1.0, description="gradient clipping")
    max_length: Count = Field(2048, description="longest example in tokens")
    over_long: Literal["drop", "raise"] = Field(
        "drop", description="what happens to a longer example: it is dropped and counted, or stops the run"
    )


class WarmUp(Strict):
    """Identity warm-up (Q-A-A) before the residual training (paper, section 3.1)."""

    fraction: Fraction = Field(0.2, description="share of W trained as identity first; 0 switches warm-up off")
    epochs: Annotated[float, Field(gt=0)] = Field(1.0, description="passes over the identity records")


class AlignerSection(Strict):
    """The corrector: warm-up on Q-A-A, then residual training on Q-A-C."""

    template: str = Field("chat@1", description="how question and answer are laid out; stored in the checkpoint")
    warm_up: WarmUp = Field(WarmUp(), description="identity warm-up")
    training: Training = Field(Training(), description="residual training")


class WeakLabels(Strict):
    """Which corrections become weak labels."""

    drop_unfinished: bool = Field(True, description="leave out corrections that did not reach their end")
    drop_identical: bool = Field(False, description="leave out corrections equal to the answer (copies)")


class Student(Strict):
    """The strong model, fine-tuned on weak labels; the ceiling is trained alike on the ground truth."""

    method: Literal["sft"] = Field("sft", description="how the weak labels are used")
    training: Training = Field(Training(), description="training of student and ceiling")


class ScorerSection(Strict):
    """The evaluating scorer: one trunk, a helpfulness head and a cost head (cost > 0 = unsafe)."""

    trainable_layers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="how many of the trunk's last layers are trained; null = all"
    )
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.15, description="share of questions kept to test it")
    training: Training = Field(Training(epochs=2), description="training of the scorer")
    seed: int = Field(1, description="its own seed: one scorer serves all seeds of the experiment")


class Generation(Strict):
    """How answers and corrections are decoded."""

    preset: Literal["greedy", "published"] = Field(
        "greedy", description="greedy, or the source's sampling for answers (T 0.5, top-k 10, top-p 0.95, penalty 1.1)"
    )
    max_new_tokens: Count = Field(2048, description="longest answer in tokens")


class Evaluation(Strict):
    """Intervals by bootstrap over questions, clustered over seeds."""

    resamples: Annotated[int, Field(ge=100)] = Field(2000, description="bootstrap resamples")
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = Field(0.95, description="coverage of the intervals")
    tie_margin: Annotated[float, Field(ge=0)] = Field(
        0.1, description="two answers tie where their scores differ by less, in standard deviations of the upstream's"
    )


class Recipe(Strict):
    """A weak-to-strong experiment."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="names the run folder")
    description: str = Field("", description="one line for the report")
    roles: Roles
    data: Data
    generation: Generation = Field(Generation(), description="decoding")
    aligner: AlignerSection = Field(AlignerSection(), description="the weak corrector")
    floor: Training | None = Field(None, description="training of the floor; null = the Aligner's residual training")
    weak_labels: WeakLabels = Field(WeakLabels(), description="rules for weak labels")
    student: Student = Field(Student(), description="the strong student")
    scorer: ScorerSection = Field(ScorerSection(), description="the evaluating scorer")
    evaluation: Evaluation = Field(Evaluation(), description="statistics")
    seeds: Annotated[list[int], Field(min_length=1)] = Field([42], description="the experiment is repeated per seed")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("seeds repeat; name each one once")
        return seeds
