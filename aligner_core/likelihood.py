"""How likely a model finds a given text as its reply: one forward pass, nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from aligner_core.profile import Profile
from aligner_core.records import Turn
from aligner_core.scorer import by_length
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import prepare_tokenizer, prompt_ids, target_ids

BATCH = 8  # the logits of every target position are held at once


class Likelihood:
    """A causal language model asked for log-probabilities; `frame` replaces its chat template."""

    def __init__(self, model: ModelLocation, profile: Profile, frame: str | None = None) -> None:
        self._device = profile.device.kind
        self._tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(model.folder, **model.arguments()), frame)
        network: Any = AutoModelForCausalLM.from_pretrained(
            model.folder, dtype=getattr(torch, profile.precision), **model.arguments()
        )
        self._network = network.to(self._device).eval()

    def per_token(self, conversations: Sequence[Sequence[Turn]], replies: Sequence[str]) -> list[float]:
        """Mean log-probability, in nats, of each reply's tokens and its end."""
        end = int(self._tokenizer.eos_token_id)
        return self._mean([[*target_ids(self._tokenizer, reply), end] for reply in replies], conversations)

    def of_token(self, conversations: Sequence[Sequence[Turn]], token: str) -> list[float]:
        """Log-probability, in nats, that each reply begins with a token of the vocabulary."""
        number: Any = self._tokenizer.convert_tokens_to_ids(token)
        return self._mean([[number]] * len(conversations), conversations)

    def _mean(self, targets: Sequence[Sequence[int]], conversations: Sequence[Sequence[Turn]]) -> list[float]:
        prompts = [prompt_ids(self._tokenizer, turns) for turns in conversations]
        lengths = [len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True)]
        found: dict[int, float] = {}
        for chosen in by_length(lengths, BATCH):
            means = self._batch([prompts[index] for index in chosen], [targets[index] for index in chosen])
            found.update(zip(chosen, means, strict=True))
        return [found[index] for index in range(len(prompts))]

    @torch.inference_mode()
    def _batch(self, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[float]:
        """Rows are padded on the left, so that all targets end in the last column."""
        rows = [[*prompt, *target] for prompt, target in zip(prompts, targets, strict=True)]
        longest, kept = max(map(len, rows)), max(map(len, targets))
        ids = torch.tensor([[row[0]] * (longest - len(row)) + row for row in rows], device=self._device)
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=self._device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        output = self._network(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=kept + 1)
        each = output.logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, -kept:, None])[..., 0]
        return [float(row[-len(target) :].mean()) for row, target in zip(each, targets, strict=True)]
