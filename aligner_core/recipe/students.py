"""How weak labels are chosen, and how a strong student learns from them: by SFT, DPO or PPO."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from aligner_core.recipe.roles import Count, Fraction, Strict
from aligner_core.recipe.training import Lora, Training, TrainingToAnswer

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Method = Literal["sft", "dpo", "ppo"]


class WeakLabels(Strict):
    """Which corrections become weak labels."""

    drop_unfinished: bool = Field(True, description="leave out corrections that did not reach their end")
    drop_identical: bool = Field(False, description="leave out corrections equal to the answer (copies)")
    min_edit: Fraction = Field(
        0.0, description="leave out corrections that differ from the answer by a smaller share of its words; copies "
        "stay, see drop_identical"
    )  # fmt: skip
    min_margin: float | None = Field(
        None, description="leave out corrections that do not score so much above the answer in reward - cost_weight * "
        "cost, by the training-time score models; copies stay, see drop_identical; null = do not score"
    )  # fmt: skip
    drop_unsafe: bool = Field(
        False, description="leave out corrections that the training-time cost model finds unsafe"
    )
    cost_weight: NotNegative = Field(1.0, description="lambda in reward - lambda * cost")
    confidence: bool = Field(
        False, description="weigh each label by sigmoid(margin), the score models' belief that it is better"
    )

    @property
    def needs_scores(self) -> bool:
        return self.min_margin is not None or self.drop_unsafe or self.confidence


class Dpo(Strict):
    """Direct preference optimization (Rafailov et al. 2023): the correction is preferred over the answer."""

    start: Literal["upstream", "sft"] = Field(
        "upstream", description="begin with the upstream (as in the paper), or with the SFT student"
    )
    beta: Positive | None = Field(
        None, description="strength of the pull towards the reference; null = 0.1, and 5 for sigmoid_norm, whose "
        "log-probabilities are per token (Lambert et al. 2024)"
    )  # fmt: skip
    loss: Literal["sigmoid", "sigmoid_norm", "apo_zero"] = Field(
        "sigmoid", description="DPO's loss; with log-probabilities per token; or anchored (APO, D'Oosterlinck et al. "
        "2024), which does not lower the correction's likelihood to raise the margin"
    )  # fmt: skip
    sft_weight: NotNegative = Field(
        0.0, description="weight of an added cross-entropy per token of the correction, in nats (Pang et al. 2024)"
    )
    min_edit: Fraction = Field(
        0.05,
        description="pairs that differ by a smaller share of the answer's words are left out; identical ones always",
    )
    training: TrainingToAnswer = Field(
        Training(learning_rate=1e-6, global_batch=128, weight_decay=0.05), description="training on the pairs"
    )

    @property
    def strength(self) -> float:
        """beta, or the published value for the loss."""
        return self.beta or {"sigmoid": 0.1, "apo_zero": 0.1, "sigmoid_norm": 5.0}[self.loss]

    @field_validator("training")
    @classmethod
    def _pairs_are_not_watched(cls, training: Training) -> Training:
        if training.held_out:
            raise ValueError("held_out is for supervised training; remove it")
        return training


class Ppo(Strict):
    """Proximal policy optimization (Schulman et al. 2017), with the paper's defaults (Table 23)."""

    start: Literal["upstream", "sft"] = Field("sft", description="begin with the upstream, or with the SFT student")
    iterations: Count | None = Field(None, description="how many rounds of rollout and update; null = by epochs")
    epochs: Positive = Field(2.0, description="passes over the questions, where iterations is null")
    prompts: Count = Field(128, description="questions answered in an iteration, over all processes")
    global_batch: Count = Field(128, description="rollouts per optimizer step, over all processes")
    updates: Count = Field(1, description="passes over an iteration's rollouts")
    max_new_tokens: Count | None = Field(None, description="longest rollout in tokens; null = as in generation")
    max_length: Count = Field(2048, description="longest question and rollout together, in tokens")
    temperature: Positive = Field(1.0, description="temperature at which rollouts are sampled")
    learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(1e-5, description="of the policy; falls as a cosine")
    value_learning_rate: Annotated[float, Field(gt=0, lt=1)] = Field(5e-6, description="of the value model; constant")
    lr_warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.03, description="share of steps in which both rates rise")
    weight_decay: NotNegative = Field(0.01, description="of the policy")
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="AdamW betas of both")
    max_grad_norm: Positive = Field(1.0, description="gradient clipping of both")
    lora: Lora | None = Field(None, description="train adapters of both instead of all weights")
    cost_weight: NotNegative = Field(1.0, description="lambda in reward - lambda * cost")
    clip_score: Positive = Field(50.0, description="scores are clipped to this magnitude")
    whiten_scores: bool = Field(False, description="centre an iteration's scores and divide by their spread")
    unfinished_penalty: NotNegative = Field(
        0.0, description="taken off the score of a rollout that did not reach its end"
    )
    kl: NotNegative = Field(0.02, description="price of a nat of divergence from the reference, per token")
    gamma: Fraction = Field(1.0, description="discount of later rewards")
    gae_lambda: Fraction = Field(0.95, description="lambda of generalized advantage estimation")
    whiten_advantages: bool = Field(False, description="centre and scale the advantages over an iteration")
    clip_ratio: Positive = Field(0.2, description="the policy's ratio is clipped to 1 - this and 1 + this")
    clip_value: Positive = Field(5.0, description="a value's change is clipped to this")
    ptx: NotNegative = Field(16.0, description="weight of an added cross-entropy on the weak labels")
    value_start: Literal["reward", "policy"] = Field(
        "reward", description="weights that the value model begins with; the policy's where the tokenizers differ"
    )
    max_kl: Positive | None = Field(
        None, description="alarm: the mean divergence of a rollout in nats that stops the run; null = never"
    )
    min_entropy: NotNegative = Field(0.0, description="alarm: mean entropy per token below this stops the run")
    max_length_ratio: Positive | None = Field(
        None, description="alarm: rollouts so many times longer, or shorter, than the first stop the run; null = never"
    )
    max_score_drop: Positive | None = Field(
        None, description="alarm: a mean score so many spreads (standard deviations of the first iteration's scores) "
        "below the first stops the run; null = never"
    )  # fmt: skip

    @field_validator("lora")
    @classmethod
    def _without_dropout(cls, lora: Lora | None) -> Lora | None:
        if lora and lora.dropout:
            raise ValueError("dropout would make a policy differ from itself, so PPO has none; remove it")
        return lora


class Student(Strict):
    """The strong model, fine-tuned on weak labels. The ceiling is trained on the ground truth as the SFT student."""

    methods: Annotated[list[Method], Field(min_length=1)] = Field(
        ["sft"], description="a student for each: the systems student, student_dpo, student_ppo of the report"
    )
    learns_from: Literal["weak_labels", "corrections", "preferences"] = Field(
        "weak_labels", description="the Aligner's corrections of S; or, to compare the Aligner with fine-tuning on "
        "the same data (paper, Table 3): the ground truth of W, or data.preferences; without floor and ceiling"
    )  # fmt: skip
    training: TrainingToAnswer = Field(Training(), description="training of the SFT student and of the ceiling")
    dpo: Dpo = Field(Dpo(), description="the DPO student")
    ppo: Ppo = Field(Ppo(), description="the PPO student")

    @field_validator("methods")
    @classmethod
    def _distinct(cls, methods: list[Method]) -> list[Method]:
        if len(set(methods)) < len(methods):
            raise ValueError("methods repeat; name each one once")
        return methods
