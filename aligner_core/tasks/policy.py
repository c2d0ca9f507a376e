"""Training of a student by PPO on its own answers, scored by reward and cost model."""

from __future__ import annotations

from typing import ClassVar

from aligner_core.recipe.students import Ppo
from aligner_core.records import Question, WeakLabel, read_records
from aligner_core.stage_context import StageContext
from aligner_core.stages import Task
from aligner_core.tasks.train import open_tokenizer, store_card


class TrainPpo(Task):
    """`model` answers `questions`, and is trained so that reward - lambda * cost rises (aligner_core/ppo).

    Inputs: `model` (where policy and reference begin), `questions`, `reward`, perhaps `cost`, and `labels` for the PTX
    term. Outputs: `model/`, `iterations.jsonl`, `rollouts.jsonl`.

    `max_new_tokens` is that of generation, in force where the section has none of its own.
    """

    version: ClassVar[int] = 1
    distributed: ClassVar[bool] = True
    section: Ppo
    max_new_tokens: int
    precision: str
    engine: str
    seed: int

    def run(self, stage: StageContext) -> None:
        from transformers import set_seed

        from aligner_core.ppo.loop import Loop
        from aligner_core.ppo.parts import open_parts, within_room
        from aligner_core.training.examples import Example, reply_example, within_length

        section = self.section
        _, tokenizer = open_tokenizer(stage)
        new_tokens = section.max_new_tokens or self.max_new_tokens
        questions = read_records(stage.file("questions"), Question)
        asked = within_room(stage, questions, tokenizer, section.max_length - new_tokens)

        labels: list[Example] = []
        if section.ptx:
            given = read_records(stage.file("labels"), WeakLabel)
            examples = [
                reply_example(tokenizer, row, row.correction, row.confidence) for row in given if row.confidence > 0
            ]
            labels, left_out = within_length(examples, section.max_length, "drop")
            stage.facts["labels_over_long"] = left_out
        set_seed(self.seed)
        parts = open_parts(stage, tokenizer, section, new_tokens, asked)
        Loop(stage, section, parts, asked, labels, self.seed).run()
        if stage.is_main_process:
            store_card(stage, "A model trained by PPO on reward and cost", self)
