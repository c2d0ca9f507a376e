"""What all sections are made of, and the models that play a part."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

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
    scorer: Role = Field(
        description="trunk of the scorer that evaluates, and of the reward and cost model that this recipe trains"
    )
    reward: Role | None = Field(
        None,
        description="a finished reward model for filters and PPO, e.g. PKU-Alignment/beaver-7b-v1.0-reward; null = "
        "this recipe trains one (section reward)",
    )
    cost: Role | None = Field(
        None,
        description="a finished cost model for filters and PPO, e.g. PKU-Alignment/beaver-7b-v1.0-cost; null = this "
        "recipe trains one (section cost)",
    )
    embedder: Role = Field(
        Role(model="embedded:all-minilm-l6-v2"), description="sentence embedder for similarity to the reference"
    )

    @field_validator("reward", "cost")
    @classmethod
    def _does_not_evaluate(cls, role: Role | None, info: ValidationInfo) -> Role | None:
        scorer: Role | None = info.data.get("scorer")
        if role and scorer and role.model == scorer.model:
            raise ValueError(
                f"{role.model} is roles.scorer too, and the scorer that evaluates is never one that was trained "
                "against; name another model for one of them"
            )
        return role


class Upstream(Strict):
    """A model of the main table: asked here, or known by its answers. May be written as the model's id alone."""

    model: Role | None = Field(None, description="the model that is asked")
    answers: str | None = Field(
        None, description="or a file of its answers to the evaluated questions, matched by the question's words"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_id(cls, value: Any) -> Any:
        return {"model": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _answers_somehow(self) -> Upstream:
        if (self.model is None) == (self.answers is None):
            raise ValueError("give a model, or a file of its answers")
        return self
