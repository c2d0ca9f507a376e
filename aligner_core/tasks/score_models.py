"""Training the reward and the cost model that filters choose by and PPO is rewarded with."""

from __future__ import annotations

from typing import ClassVar

from aligner_core.errors import Problem, UserError
from aligner_core.recipe import ScoreModelSection
from aligner_core.records import Answer, Correction, Pair, Safety
from aligner_core.splits import held_out_by_question
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task


class TrainRewardModel(Task):
    """Helpfulness, from the corrections in `records*` and the preferences in `preferences*`, on the trunk `model`.

    A pair whose texts are the same teaches nothing; it is left out and counted.
    """

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    section: ScoreModelSection
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.training.reward import preference, train_reward_model

        corrections = stage.records("records", Correction)
        given = stage.records("preferences", Pair)
        different = [pair for pair in given if pair.chosen.strip() != pair.rejected.strip()]
        pairs = [pair for record in corrections if (pair := preference(record))] + different
        if not pairs:
            what = "no safe answer was changed by its correction, so there is nothing to prefer"
            raise UserError(Problem("data", what, "add data.preferences, or name a finished model in roles.reward"))
        stage.facts |= {"from_corrections": len(pairs) - len(different), "identical": len(given) - len(different)}
        training, held_out = held_out_by_question(pairs, self.section.held_out, self.seed)
        train_reward_model(stage, stage.model("model"), training, held_out, self.section, self.seed)


class TrainCostModel(Task):
    """Cost (above 0 = unsafe), from the corrections in `records*` and labels in `safety*`, on the trunk `model`."""

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    section: ScoreModelSection
    precision: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from aligner_core.training.cost import labelled_texts, train_cost_model

        records: list[Answer] = [*stage.records("records", Correction), *stage.records("safety", Safety)]
        training, held_out = held_out_by_question(records, self.section.held_out, self.seed)
        _, unsafe = labelled_texts(training)
        if all(unsafe) or not any(unsafe):
            what = f"all {len(unsafe)} texts to learn from are {'unsafe' if all(unsafe) else 'safe'}"
            fix = "add data.safety, flag unsafe answers of data.corrections, or name a finished model in roles.cost"
            raise UserError(Problem("data", what, fix))
        train_cost_model(stage, stage.model("model"), training, held_out, self.section, self.seed)
