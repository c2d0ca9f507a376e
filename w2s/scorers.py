"""The models that score: the one that evaluates, that of correctors, and the reward and cost model of filters and PPO.

All are trained on the scorer's trunk, each with data and seed of its own, unless the recipe names a finished one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from aligner_core.recipe import ScoreModelSection, Shape
from aligner_core.stages import Artifact, Source, Stage, Task
from aligner_core.tasks.score import TrainScorer
from aligner_core.tasks.score_models import TrainCostModel, TrainRewardModel
from aligner_core.tasks.train import MODEL
from aligner_core.work import TrainingWork
from w2s.prepare import PREFERENCES, SAFETY, STRONG, WEAK

if TYPE_CHECKING:
    from w2s.pipeline import StageBuilder


class Scorers:
    """Makes the stages that train them."""

    def __init__(self, builder: StageBuilder) -> None:
        self._builder = builder
        self._recipe = builder.recipe

    def evaluating(self) -> Artifact:
        """One for the whole experiment; it sees all ground truth and no held-out question."""
        parts = (WEAK,) if self._recipe.data.weak_share == 1 else (WEAK, STRONG)
        return self._scorer("scorer", parts, self._recipe.scorer.seed)

    def selector(self) -> Artifact:
        """The scorer that correctors may use: other data than the evaluating one (W alone), and another seed."""
        return self._scorer("selector", (WEAK,), self._recipe.scorer.seed + 1)

    def score_models(self, cost_weight: float) -> dict[str, Artifact | Source]:
        """What filters and PPO score with, as inputs of a stage; a cost that does not count is not learnt."""
        models = {"reward": self._score_model("reward", TrainRewardModel, PREFERENCES)}
        if cost_weight > 0:
            models["cost"] = self._score_model("cost", TrainCostModel, SAFETY)
        return models

    def score_shapes(self, cost_weight: float) -> dict[str, Shape]:
        """The dimensions of `score_models`, by the same names."""
        shapes = self._builder.shapes
        return {name: shapes.get(name, shapes["scorer"]) for name in self.score_models(cost_weight)}

    def _scorer(self, name: str, parts: tuple[str, ...], seed: int) -> Artifact:
        section = self._recipe.scorer
        task = TrainScorer(section=section, precision=self._builder.precision, seed=seed)
        records = {f"records_{part[0]}": part for part in parts}
        return self._trained(name, task, section, records)

    def _score_model(self, name: str, kind: type[TrainRewardModel | TrainCostModel], part: str) -> Artifact | Source:
        """The role's, or one that learns from W and, where the recipe has it, from `part`."""
        if name in self._builder.models:
            return self._builder.models[name]
        section: ScoreModelSection = getattr(self._recipe, name)
        task = kind(section=section, precision=self._builder.precision, seed=section.seed)
        records, others = {"records": WEAK}, part.removesuffix(".jsonl")
        if getattr(self._recipe.data, others):
            records[others] = part
        return self._trained(name, task, section, records)

    def _trained(self, name: str, task: Task, section: ScoreModelSection, records: Mapping[str, str]) -> Artifact:
        """A model trained on parts of the data, with what it will need: two texts of each record are read."""
        builder, shape, training = self._builder, self._builder.shapes["scorer"], section.training
        texts = 2 * sum(map(builder.rows_of, records.values()))
        share = (section.trainable_layers or shape.layers) / shape.layers
        work = TrainingWork(
            shape, texts, builder.sizes.question + builder.sizes.text, 1, training.epochs, 2 * training.global_batch,
            training.max_length, share,
        )  # fmt: skip
        inputs: dict[str, Artifact | Source] = {
            "model": builder.models["scorer"],
            **{key: builder.part(part) for key, part in records.items()},
        }
        return Stage(name, task, inputs, work).output(MODEL)
