"""What an experiment is: the typed, strict recipe. Every key is described here once; docs and schema are generated."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from aligner_core.correctors.text import parse_corrector
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

    model: str = Field(description="hub id (org/name), local folder, embedded:NAME, or http://HOST/v1#MODEL")
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


class Lora(Strict):
    """Low-rank adapters on every linear layer but the output (Hu et al. 2021); merged into the weights at the end."""

    rank: Count = Field(16, description="rank of the adapters")
    alpha: Count = Field(32, description="adapters are scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the adapters")


class HeldOut(Strict):
    """Records kept out of the training to watch it; the weights with the lowest loss on them are the result."""

    share: Annotated[float, Field(gt=0, lt=1)] = Field(0.05, description="share of the records, by question hash")
    every: Count | None = Field(None, description="evaluate every so many steps; null = ten times in the training")
    patience: Count | None = Field(
        None, description="stop after so many evaluations without a lower loss; null = never early"
    )
    corrected: Annotated[int, Field(ge=0)] = Field(
        32, description="held-out answers that an Aligner corrects at each evaluation, for the table of copy rate etc."
    )


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
    over_long: Literal["drop", "raise", "truncate_answer"] = Field(
        "drop",
        description="what happens to a longer example: it is dropped and counted, stops the run, or the answer to be "
        "corrected loses its end (a correction is never cut)",
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    held_out: HeldOut | None = Field(None, description="watch the loss on records kept out; null = train on all")
    keep_steps: list[Count] = Field([], description="steps whose weights are kept too, under steps/")


class WarmUp(Strict):
    """Identity warm-up (Q-A-A) before the residual training (paper, section 3.1)."""

    fraction: Fraction = Field(0.2, description="share of W trained as identity; 0 switches warm-up off")
    epochs: Annotated[float, Field(gt=0)] = Field(1.0, description="passes over the identity records")
    mode: Literal["sequential", "mixed"] = Field(
        "sequential", description="identity records first, or spread evenly over the residual training"
    )
    optimizer: Literal["fresh", "continued"] = Field(
        "fresh",
        description="sequential only: the residual training begins with new optimizer states and schedule, or goes on",
    )


class AlignerSection(Strict):
    """The corrector: warm-up on Q-A-A, then residual training on Q-A-C."""

    template: str = Field("chat@1", description="how question and answer are laid out; stored in the checkpoint")
    aim: str | None = Field(
        None, description='what corrections should be, e.g. "more empathic and helpful"; null = the template\'s own'
    )
    instruction: str = Field("", description="further wishes in free text, put after the template's own")
    identity_target: Literal["copy", "keep"] = Field(
        "copy",
        description="what is taught where the ground truth leaves an answer as it is: its text, or one special token",
    )
    warm_up: WarmUp = Field(WarmUp(), description="identity warm-up")
    training: Training = Field(Training(), description="residual training")

    @model_validator(mode="after")
    def _a_new_token_needs_full_training(self) -> AlignerSection:
        if self.identity_target == "keep" and self.training.lora:
            raise ValueError("identity_target: keep adds a token, which adapters cannot learn; remove training.lora")
        return self


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
        "greedy",
        description="greedy, or the source's sampling: for answers T 0.5, top-k 10, top-p 0.95, repetition penalty "
        "1.1; for corrections T 0.3, top-k 10, top-p 0.95, frequency penalty 1.2, which punishes copying",
    )
    max_new_tokens: Count = Field(2048, description="longest answer in tokens")


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
    temperature: Annotated[float, Field(gt=0)] = Field(0.7, description="they are drawn with, whatever the preset")
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
    corrector: Corrector = Field(
        AlignerCorrector(), description="what corrects the answers: a kind with its settings, or a line such as "
        "stack:[cai, aligner] (docs/correctors.md)"
    )  # fmt: skip
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
