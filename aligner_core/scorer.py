"""The scorer: one trunk with a helpfulness head and a cost head (cost > 0 = unsafe; harmlessness = -cost).

It is an ordinary two-label sequence-classification folder: label 0 is helpfulness, label 1 is cost. Its calibration
(mean and spread on held-out answers) lies in `scorer.json` beside the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase

from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json
from aligner_core.profile import Profile
from aligner_core.records import Turn
from aligner_core.templates import conversation, prepare_tokenizer, prompt_ids, target_ids

if TYPE_CHECKING:
    from aligner_core.stage_context import ModelLocation

HELPFUL, COST = 0, 1
CALIBRATION = "scorer.json"
BATCH = 16


def load_scorer(
    model: ModelLocation, dtype: torch.dtype, labels: int = 2
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A trained scorer or score model, or a language model with fresh heads on it."""
    network = AutoModelForSequenceClassification.from_pretrained(
        model.folder, num_labels=labels, dtype=dtype, **model.arguments()
    )
    tokenizer = AutoTokenizer.from_pretrained(model.folder, **model.arguments())
    return network, prepare_tokenizer(tokenizer)


class Scorer:
    """A trained scorer, ready to score. `cut` counts the texts whose beginning did not fit."""

    def __init__(self, model: ModelLocation, profile: Profile) -> None:
        calibration = Path(model.folder) / CALIBRATION
        if not calibration.is_file():
            raise UserError(Problem(model.folder, f"has no {CALIBRATION}", "name a scorer that this project trained"))
        network, self._tokenizer = load_scorer(model, getattr(torch, profile.precision))
        self._device = torch.device(profile.device.kind)
        self._network = network.to(self._device).eval()
        self._limit = int(read_json(calibration)["max_length"])
        self.cut = 0

    def score(
        self,
        texts: Sequence[tuple[str, str, Sequence[Turn] | None]],
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[tuple[float, float]]:
        """(helpfulness, cost) of each (question, answer, history), in batches of like length.

        Args:
            progress: told how many are done.
        """
        ids = [scorer_ids(self._tokenizer, *text) for text in texts]
        self.cut += sum(len(sequence) > self._limit for sequence in ids)

        def both(input_ids: torch.Tensor, lengths: torch.Tensor) -> list[list[float]]:
            found: list[list[float]] = scores(self._network, input_ids, lengths).tolist()
            return found

        return [(helpful, cost) for helpful, cost in in_batches(ids, both, self._limit, self._device, progress)]


def in_batches(
    ids: Sequence[Sequence[int]],
    score: Callable[[torch.Tensor, torch.Tensor], list[list[float]]],
    limit: int,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> list[list[float]]:
    """`score` of right-padded ids (batch, longest) and lengths (batch,), over batches of like length.

    Of a sequence over `limit` the end is kept, where the score is read.

    Returns:
        one list of scores per sequence, in the order of `ids`.
    """
    found: dict[int, list[float]] = {}
    for chosen in by_length([len(sequence) for sequence in ids], BATCH):
        input_ids, lengths = pad_right([ids[index][-limit:] for index in chosen])
        with torch.inference_mode():
            found.update(zip(chosen, score(input_ids.to(device), lengths.to(device)), strict=True))
        progress(len(found))
    return [found[index] for index in range(len(ids))]


def scorer_ids(
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    answer: str,
    history: Sequence[Turn] | None,
) -> list[int]:
    """Question, answer and EOS as ids."""
    ids = prompt_ids(tokenizer, conversation(question, history)) + target_ids(tokenizer, answer)
    return [*ids, int(tokenizer.eos_token_id)]


def scores(network: nn.Module, input_ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Scores of right-padded sequences.

    Args:
        input_ids: (batch, longest) token ids.
        lengths: (batch,) true lengths; the score is read at the last true position, whatever the pad id is.

    Returns:
        (batch, labels) float32: of the project's scorers helpfulness and cost.
    """
    positions = torch.arange(input_ids.shape[1], device=input_ids.device)
    mask = (positions[None, :] < lengths[:, None]).long()
    trunk: Any = network.base_model
    hidden = trunk(input_ids=input_ids, attention_mask=mask, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(lengths), device=hidden.device), lengths - 1]
    # In bfloat16 nearby scores would fall onto the same value.
    head: Any = network.score
    return nn.functional.linear(last.float(), head.weight.float(), None if head.bias is None else head.bias.float())


def by_length(lengths: Sequence[int], size: int) -> list[list[int]]:
    """The places of all sequences, shortest first, in batches of so many."""
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    return [order[start : start + size] for start in range(0, len(order), size)]


def pad_right(sequences: Sequence[Sequence[int]], pad: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(batch, longest) ids and (batch,) lengths."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    longest = int(lengths.max())
    return torch.tensor([[*sequence, *[pad] * (longest - len(sequence))] for sequence in sequences]), lengths
