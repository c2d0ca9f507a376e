"""Batched generation with transformers: runs anywhere, and is deterministic for a given batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from aligner_core.engines.protocol import Completion, Sampling
from aligner_core.profile import Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import prepare_tokenizer


class TransformersEngine:
    """Left-padded batches of the profile's size, sorted by length so that little is padded."""

    def __init__(self, model: ModelLocation, profile: Profile) -> None:
        self._batch = profile.generation.batch
        self._device = profile.device.kind
        self.tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(model.folder, **model.arguments()))
        network: Any = AutoModelForCausalLM.from_pretrained(
            model.folder, dtype=getattr(torch, profile.precision), **model.arguments()
        )
        self._model = network.to(self._device).eval()
        self._end = self._end_ids()

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, seed: int) -> list[Completion]:
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
        completions: dict[int, Completion] = {}
        torch.manual_seed(seed)
        for start in range(0, len(order), self._batch):
            chosen = order[start : start + self._batch]
            completions.update(zip(chosen, self._generate_batch([prompts[i] for i in chosen], sampling), strict=True))
        return [completions[index] for index in range(len(prompts))]

    def close(self) -> None:
        del self._model

    @torch.inference_mode()
    def _generate_batch(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        longest = max(map(len, prompts))
        pad = self._end[0]
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        output = self._model.generate(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            generation_config=self._configuration(sampling),
        )
        return [self._completion(row) for row in output[:, longest:].tolist()]

    def _configuration(self, sampling: Sampling) -> GenerationConfig:
        # Built from nothing: the checkpoint's own generation_config.json must not add settings of its own.
        sample = sampling.temperature > 0
        chosen = {"temperature": sampling.temperature, "top_k": sampling.top_k, "top_p": sampling.top_p}
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=sampling.max_new_tokens,
            do_sample=sample,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self._end,
            pad_token_id=self._end[0],
            **(chosen if sample else {}),
        )

    def _completion(self, ids: list[int]) -> Completion:
        for position, token in enumerate(ids):
            if token in self._end:
                return Completion(tuple(ids[:position]), finished=True)
        return Completion(tuple(ids), finished=False)

    def _end_ids(self) -> list[int]:
        """Every id that ends an answer: the tokenizer's EOS first, and those the checkpoint declares."""
        declared = self._model.generation_config.eos_token_id
        more = declared if isinstance(declared, list) else [declared] if declared is not None else []
        return list(dict.fromkeys([self.tokenizer.eos_token_id, *more]))
