"""The typed, strict recipe of a weak-to-strong experiment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from aligner_core.recipe.correctors import AlignerCorrector, Corrector
from aligner_core.recipe.data import Data
from aligner_core.recipe.roles import Count, Roles, Strict, Upstream
from aligner_core.recipe.students import Student, WeakLabels
from aligner_core.recipe.training import AlignerSection, Training, TrainingToAnswer


class ScoreModelSection(Strict):
    """A model that scores answers, trained on the trunk roles.scorer; by default as the paper's reward model."""

    trainable_layers: Annotated[int, Field(ge=0)] | None = Field(
        None, description="how many of the trunk's last layers are trained; null = all"
    )
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = Field(0.15, description="share of questions kept to test it")
    training: Training = Field(
        Training(epochs=2, global_batch=64, weight_decay=0.1), description="training of the score model"
    )
    seed: int = Field(2, description="its own seed: one model serves all seeds of the experiment")

    @field_validator("training")
    @classmethod
    def _trains_all_it_may(cls, training: Training) -> Training:
        unknown = [key for key in ("lora", "held_out", "keep_steps") if getattr(training, key)]
        if unknown:
            raise ValueError(f"a scorer's training has no {', '.join(unknown)}; see trainable_layers and held_out")
        return training


class ScorerSection(ScoreModelSection):
    """The evaluating scorer: one trunk, a helpfulness head and a cost head (cost > 0 = unsafe)."""

    training: Training = Field(Training(epochs=2), description="training of the scorer")
    seed: int = Field(1, description="its own seed: one scorer serves all seeds of the experiment")


class Generation(Strict):
    """How answers and corrections are decoded."""

    preset: Literal["greedy", "published"] = Field(
        "greedy", description="greedy, or sampled as in the paper: docs/correctors.md, Decoding"
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
    upstream_sft: TrainingToAnswer | None = Field(
        None, description="fine-tunes roles.upstream on data.instructions before all else, with keys and defaults of "
        "student.training; null = it is used as it is"
    )  # fmt: skip
    generation: Generation = Field(Generation(), description="decoding")
    aligner: AlignerSection = Field(AlignerSection(), description="the weak corrector")
    floor: TrainingToAnswer | None = Field(
        None, description="training of the floor, with keys and defaults of student.training; null = the Aligner's "
        "residual training, whose truncate_answer drops what is too long here"
    )  # fmt: skip
    corrector: Corrector = Field(
        AlignerCorrector(), description="what corrects the answers: a kind with its settings, or a line such as "
        "stack:[cai, aligner] (docs/correctors.md)"
    )  # fmt: skip
    compared: dict[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")], Corrector] = Field(
        {},
        description="name -> further correctors of the upstream's answers to the held-out questions, for the report",
    )
    weak_labels: WeakLabels = Field(WeakLabels(), description="rules for weak labels")
    student: Student | None = Field(
        Student(), description="the strong student; null = the Aligner alone, without student, floor and ceiling"
    )
    scorer: ScorerSection = Field(ScorerSection(), description="the evaluating scorer")
    reward: ScoreModelSection = Field(
        ScoreModelSection(),
        description="the reward model (helpfulness) of filters and PPO, where roles.reward is null",
    )
    cost: ScoreModelSection = Field(
        ScoreModelSection(),
        description="the cost model of filters and PPO (cost > 0 = unsafe), where roles.cost is null",
    )
    evaluation: Evaluation = Field(Evaluation(), description="statistics")
    arms: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")], dict[str, Any]] = Field(
        {}, description="further Aligners beside the own one, each a name and what differs in the section aligner, "
        "e.g. {no_warm_up: {warm_up.fraction: 0}}; their corrections are scored as aligned_NAME"
    )  # fmt: skip
    upstreams: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")], Upstream] = Field(
        {}, description="name -> model: makes this a main table, in which these models' answers to each set of "
        "data.evaluation are corrected and scored in place of roles.upstream's (docs/evaluation.md)"
    )  # fmt: skip
    seeds: Annotated[list[int], Field(min_length=1)] = Field([42], description="the experiment is repeated per seed")

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("seeds repeat; name each one once")
        return seeds

    @model_validator(mode="after")
    def _data_has_its_use(self) -> Recipe:
        if (self.upstream_sft is None) != (self.data.instructions is None):
            raise ValueError("upstream_sft and data.instructions go together; give both, or neither")
        if self.student and self.student.learns_from == "preferences" and self.data.preferences is None:
            raise ValueError("student.learns_from: preferences needs data.preferences")
        return self

    @model_validator(mode="after")
    def _a_student_has_questions(self) -> Recipe:
        weak_to_strong = self.student and self.student.learns_from == "weak_labels"
        if weak_to_strong and self.data.weak_share == 1:
            raise ValueError("data.weak_share: 1 leaves no question to the student; lower it, or set student: null")
        return self

    @model_validator(mode="after")
    def _a_main_table_is_of_aligners(self) -> Recipe:
        if self.upstreams and self.student:
            raise ValueError("upstreams: a main table has no student; set student: null")
        if self.upstreams and self.data.answers == "given":
            raise ValueError("data.answers: given is for roles.upstream; give upstreams.NAME.answers a file each")
        if self.upstreams and any(source.weight for source in self.data.evaluation):
            raise ValueError("data.evaluation: a main table asks every set by itself, not a mix; remove the weights")
        return self

    @model_validator(mode="after")
    def _arms_are_aligners(self) -> Recipe:
        for name in self.arms:
            try:
                self.arm(name)
            except ValidationError as error:
                detail = error.errors()[0]
                where = ".".join(str(part) for part in detail["loc"])
                raise ValueError(f"arm {name}: {where}: {detail['msg'].removeprefix('Value error, ')}") from error
        return self

    def arm(self, name: str) -> AlignerSection:
        """The section aligner of one arm."""
        section = self.aligner.model_dump()
        for path, value in self.arms[name].items():
            *parents, last = path.split(".")
            target = section
            for key in parents:
                target = target.setdefault(key, {})
            target[last] = value
        return AlignerSection.model_validate(section)
