"""How models are trained: any supervised training, and the Aligner's two phases."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from aligner_core.recipe.roles import Count, Fraction, Strict


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
        "corrected loses its end; a correction is never cut",
    )
    lora: Lora | None = Field(None, description="train adapters instead of all weights")
    held_out: HeldOut | None = Field(None, description="watch the loss on records kept out; null = train on all")
    keep_steps: list[Count] = Field([], description="steps whose weights are kept too, under steps/")


def _cuts_nothing(training: Training) -> Training:
    if training.over_long == "truncate_answer":
        raise ValueError("over_long: truncate_answer cuts answers that an Aligner corrects; here, use drop or raise")
    return training


TrainingToAnswer = Annotated[Training, AfterValidator(_cuts_nothing)]


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
    records: Count | None = Field(None, description="learn from at most so many records of W; null = all")
    warm_up: WarmUp = Field(WarmUp(), description="identity warm-up")
    training: Training = Field(Training(), description="residual training")

    @model_validator(mode="after")
    def _a_new_token_needs_full_training(self) -> AlignerSection:
        if self.identity_target == "keep" and self.training.lora:
            raise ValueError("identity_target: keep adds a token, which adapters cannot learn; remove training.lora")
        return self
