"""What an Aligner under training does to held-out answers: how many it copies, how much it edits, and to what."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from aligner_core.edits import edit_facts
from aligner_core.engines import packed_attention
from aligner_core.engines.probe import DraftPolicy
from aligner_core.engines.protocol import Prompt, Sampling
from aligner_core.engines.transformers_engine import Decoder
from aligner_core.files import write_jsonl
from aligner_core.records import Correction
from aligner_core.refusals import is_refusal
from aligner_core.stage_context import StageContext
from aligner_core.templates import CorrectionTemplate, target_ids

SPARE = 1.5  # a correction may be longer than the longest of the ground truth by this factor
FOLDER = "held_out"


class CorrectionTable:
    """Corrects the same answers greedily at each call; every correction is kept under `held_out/`."""

    def __init__(
        self,
        stage: StageContext,
        tokenizer: PreTrainedTokenizerBase,
        template: CorrectionTemplate,
        records: Sequence[Correction],
    ) -> None:
        self._stage = stage
        self._tokenizer = tokenizer
        self._template = template
        self._records = records
        longest = max(len(target_ids(tokenizer, record.correction)) for record in records)
        self._sampling = Sampling(int(SPARE * longest) + 1)
        self._prompts = [
            Prompt(template.messages(record.question, record.answer, record.history), record.answer)
            for record in records
        ]

    def __call__(self, network: Any, step: int) -> dict[str, float]:
        """Copy rate, edit, length ratio and refusals of the corrections after a step; all processes must call it."""
        replies = self._replies(getattr(network, "module", network))
        answers = [record.answer for record in self._records]
        corrections = [self._template.correction(*pair) for pair in zip(answers, replies, strict=True)]
        if self._stage.is_main_process:
            rows = [{**record.row(), "ground_truth": record.correction, "correction": correction}
                    for record, correction in zip(self._records, corrections, strict=True)]  # fmt: skip
            write_jsonl(self._stage.folder / FOLDER / f"step-{step:06d}.jsonl", rows)
        refused = sum(map(is_refusal, corrections)) / len(corrections)
        return {**edit_facts(answers, corrections), "refusal_rate": round(refused, 4)}

    def _replies(self, network: Any) -> list[str]:
        training = network.config._attn_implementation
        network.set_attn_implementation(packed_attention.NAME)
        with torch.random.fork_rng():  # an interrupted training must find the random state as it was
            decoder = Decoder(network, self._tokenizer, self._stage.profile.generation.batch, DraftPolicy("on"))
            completions = decoder.generate(self._prompts, self._sampling, seed=0)
        network.set_attn_implementation(training)
        return [completion.text for completion in completions]
