"""Batched generation with transformers: runs anywhere, and is deterministic for a given batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.profile import Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import batch_prompt_ids, prepare_tokenizer

# Ended rows are taken out when they are this share of the batch or more: each time the cache is copied.
KEEP_UNTIL = 0.75


class TransformersEngine:
    """Left-padded batches of the profile's size, sorted by length so that little is padded."""

    def __init__(self, model: ModelLocation, profile: Profile, frame: str | None = None) -> None:
        self._batch = profile.generation.batch
        self._device = profile.device.kind
        self.tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(model.folder, **model.arguments()), frame)
        network: Any = AutoModelForCausalLM.from_pretrained(
            model.folder, dtype=getattr(torch, profile.precision), **model.arguments()
        )
        self._model = network.to(self._device).eval()
        self._end = self._end_ids()

    def prepare(self, prompts: Sequence[Prompt]) -> None: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        ids = batch_prompt_ids(self.tokenizer, [prompt.messages for prompt in prompts])
        order = sorted(range(len(prompts)), key=lambda index: len(ids[index]))
        completions: dict[int, Completion] = {}
        torch.manual_seed(seed)
        for start in range(0, len(order), self._batch):
            chosen = order[start : start + self._batch]
            completions.update(zip(chosen, self._generate_batch([ids[i] for i in chosen], sampling), strict=True))
        return [completions[index] for index in range(len(prompts))]

    def close(self) -> None:
        del self._model

    @torch.inference_mode()
    def _generate_batch(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """Decode until every row has ended; those that have are taken out, so nothing is computed for them."""
        ids, mask = self._pad_left(prompts)
        choose = _Chooser(sampling, ids.shape[1])
        generated: list[list[int]] = [[] for _ in prompts]
        finished = [False] * len(prompts)
        rows = list(range(len(prompts)))  # the prompts that the batch still holds
        cache = DynamicCache(config=self._model.config)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        new = ids
        for _ in range(sampling.max_new_tokens):
            logits = self._model(
                input_ids=new, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]  # fmt: skip
            new = choose(ids, logits.float())
            for row, token in zip(rows, new.tolist(), strict=True):
                finished[row] = finished[row] or token in self._end
                if not finished[row]:
                    generated[row].append(token)
            going = [index for index, row in enumerate(rows) if not finished[row]]
            if not going:
                break
            new, positions = new[:, None], positions[:, -1:] + 1
            ids, mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
            if len(going) <= KEEP_UNTIL * len(rows):
                keep = torch.tensor(going, device=ids.device)
                cache.batch_select_indices(keep)
                ids, mask, new, positions = ids[keep], mask[keep], new[keep], positions[keep]
                rows = [rows[index] for index in going]
        return [
            Completion(str(self.tokenizer.decode(tokens)).strip(), len(tokens), end)
            for tokens, end in zip(generated, finished, strict=True)
        ]

    def _pad_left(self, prompts: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, longest) ids and mask. A row is padded with its own first token, which no penalty minds."""
        longest = max(map(len, prompts))
        ids = [[prompt[0]] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        return torch.tensor(ids, device=self._device), torch.tensor(mask, device=self._device)

    def _end_ids(self) -> list[int]:
        """Every id that ends an answer: the tokenizer's EOS first, and those the checkpoint declares."""
        declared = self._model.generation_config.eos_token_id
        more = declared if isinstance(declared, list) else [declared] if declared is not None else []
        return list(dict.fromkeys([self.tokenizer.eos_token_id, *more]))


class _Chooser:
    """The next token of each row: the best one, or a sample after penalties, temperature, top-k and top-p.

    The first `prompt` ids of a row are its prompt: the frequency penalty counts what was written after it.
    """

    def __init__(self, sampling: Sampling, prompt: int) -> None:
        self._sample = sampling.temperature > 0
        self._prompt = prompt
        self._frequency_penalty = sampling.frequency_penalty
        self._processors = LogitsProcessorList()
        if sampling.repetition_penalty != 1.0:
            self._processors.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if self._sample:
            self._processors.append(TemperatureLogitsWarper(sampling.temperature))
        if self._sample and sampling.top_k:
            self._processors.append(TopKLogitsWarper(sampling.top_k))
        if self._sample and sampling.top_p < 1.0:
            self._processors.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, ids: Any, logits: Any) -> torch.Tensor:
        if self._frequency_penalty:
            written = ids[:, self._prompt :]
            logits = logits.scatter_add(
                1, written, torch.full(written.shape, -self._frequency_penalty, device=ids.device)
            )
        scores: torch.Tensor = self._processors(ids, logits)
        if not self._sample:
            return scores.argmax(-1)
        return torch.multinomial(scores.softmax(-1), 1)[:, 0]
