"""Log-probabilities of pairs under the frozen model that preference training starts from.

They are a stage's output, keyed by the model's identity and the pairs', so that no training computes them again, holds
a second model for them, or takes another model's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from aligner_core.files import digest, write_jsonl
from aligner_core.generation import Bulk
from aligner_core.records import Pair
from aligner_core.scorer import by_length, pad_right
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.tasks.preference import REFERENCE
from aligner_core.training.deepspeed_setup import frozen_engine
from aligner_core.training.examples import IGNORED, Example
from aligner_core.training.pairs import select_pairs
from aligner_core.training.preference_loss import text_log_probs
from aligner_core.training.processes import gathered, shared_out
from aligner_core.training.supervised import load_network

SHARD = 256  # pairs; what a kill can lose
TEXTS_TOGETHER = 8


def write_reference(
    stage: StageContext,
    model: ModelLocation,
    tokenizer: PreTrainedTokenizerBase,
    records: Sequence[Pair],
    max_length: int,
) -> None:
    """Write `reference.jsonl`: a row for every pair that training could use. Interrupted, it continues.

    Raises:
        UserError: if no pair is left.
    """
    selected = select_pairs(tokenizer, records, max_length, "drop")
    pairs = selected.pairs
    opened: list[FrozenModel] = []

    # On several processes each works on its share of a shard. None writes before all have taken part in the first,
    # so all find the same shards on the disk.
    def work(chosen: Sequence[int], following: Sequence[int]) -> list[dict[str, Any]]:
        if not opened:
            opened.append(FrozenModel(stage, model))
        found = opened[0].log_probs([side for i in chosen for side in (pairs[i].chosen, pairs[i].rejected)])
        return [
            {"chosen_logp": better, "rejected_logp": worse}
            for better, worse in zip(found[::2], found[1::2], strict=True)
        ]

    bulk = Bulk(stage, ["-" * len(pair) for pair in pairs], SHARD)
    keys = [digest([pair.chosen.input_ids, pair.rejected.input_ids, pair.chosen.supervised]) for pair in pairs]
    found = bulk.each("reference", keys, work)
    if stage.is_main_process:
        write_jsonl(
            stage.folder / REFERENCE,
            (
                {"id": pair.record, **(row or {}), "chosen_tokens": pair.chosen.supervised,
                 "rejected_tokens": pair.rejected.supervised}
                for pair, row in zip(pairs, found, strict=True)
            ),
        )  # fmt: skip
    stage.facts |= {
        "pairs": len(pairs),
        "tokens": sum(pair.tokens for pair in pairs),
        "dropped_identical": len(selected.identical),
        "dropped_over_long": selected.over_long,
    }


class FrozenModel:
    """A model that is only asked: whole on every process, or sharded over them under ZeRO-3."""

    def __init__(self, stage: StageContext, model: ModelLocation) -> None:
        self._network, self._place = frozen_engine(stage.profile, lambda: load_network(stage, model))

    @torch.no_grad()
    def log_probs(self, texts: Sequence[Example]) -> list[float]:
        """Summed log-probability of every text, on every process."""
        device = self._place.device
        mine: list[tuple[int, float]] = []
        for batch, counts in shared_out(by_length([len(text) for text in texts], TEXTS_TOGETHER)):
            input_ids, _ = pad_right([texts[index].input_ids for index in batch])
            labels, _ = pad_right([texts[index].labels for index in batch], IGNORED)
            sums, _ = text_log_probs(self._network, input_ids.to(device), labels.to(device))
            if counts:
                mine += zip(batch, sums.tolist(), strict=True)
        return [value for _, value in sorted(chain(*gathered(mine)))]
