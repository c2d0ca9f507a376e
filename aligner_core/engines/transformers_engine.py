"""Generation with transformers, batched and copy-aware: runs anywhere, and is deterministic for a given call."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from aligner_core.engines.adapters import adapter_of, merge_adapter
from aligner_core.engines.cpu_linear import pack_linear_layers, packing_helps
from aligner_core.engines.drafting import Drafter, accepted
from aligner_core.engines.packed_attention import NAME, KeyValueStore
from aligner_core.engines.probe import DecodingRecord, DraftPolicy, Probe
from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.files import digest
from aligner_core.profile import Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import batch_prompt_ids, prepare_tokenizer, target_ids

# Prompt tokens taken in at once; bounds the memory of a step.
STEP_TOKENS = 8192


@dataclass
class _Sequence:
    """A prompt being continued. `ahead` is what the model has yet to read: the prompt, later the last token."""

    index: int
    prompt: list[int]
    drafter: Drafter | None
    ahead: list[int]
    stored: int = 0
    output: list[int] = field(default_factory=list)
    end: tuple[int, ...] = ()
    noise: list[float] | None = None

    @property
    def finished(self) -> bool:
        return bool(self.end)

    def take(self, tokens: Sequence[int], end: Sequence[int]) -> None:
        """The model has chosen these tokens; what comes after an end token is dropped."""
        self.ahead = [tokens[-1]]
        for token in tokens:
            if token in end:
                self.end = (token,)
                return
            self.output.append(token)
            if self.drafter:
                self.drafter.follow([token])


class Decoder:
    """Decodes with a network in memory; a sequence that ends gives its place to the next prompt."""

    def __init__(self, network: Any, tokenizer: PreTrainedTokenizerBase, batch: int, policy: DraftPolicy) -> None:
        """
        Args:
            network: a causal language model whose attention is `packed_attention.NAME`.
            batch: how many sequences are in work at once.
        """
        self._model = network
        self._device = next(network.parameters()).device
        self._batch = batch
        self.tokenizer = tokenizer
        self.policy = policy
        self._probe = Probe()
        self._record = DecodingRecord()
        self._end = self._end_ids()

    def prepare(self, prompts: Sequence[Prompt]) -> None: ...

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        ids = batch_prompt_ids(self.tokenizer, [prompt.messages for prompt in prompts])
        sequences = [self._sequence(index, prompt, ids[index], sampling) for index, prompt in enumerate(prompts)]
        call = digest([len(sequences), *([item.prompt for item in sequences[::50]])])
        limit = self.policy.limit(call) if sampling.plain_greedy and any(item.drafter for item in sequences) else 0
        torch.manual_seed(seed)
        if limit is None:
            self._probe.begin_call()
            self._decode(sequences, sampling, self._probe.next_limit(), self._probe)
            self.policy.learn(call, self._probe.verdict())
        else:
            self._decode(sequences, sampling, limit, None)
        for item in sequences:
            if item.drafter:
                self._record.saw(item.drafter)
        return [
            Completion(
                str(self.tokenizer.decode(item.output)).strip(), len(item.output), item.finished,
                ids=(*item.output, *item.end),
            )
            for item in sequences
        ]  # fmt: skip

    @property
    def statistics(self) -> Mapping[str, Any]:
        return self._record.facts(self.policy)

    def close(self) -> None:
        del self._model

    def _sequence(self, index: int, prompt: Prompt, ids: list[int], sampling: Sampling) -> _Sequence:
        draft = None if prompt.draft is None else [*target_ids(self.tokenizer, prompt.draft), self._end[0]]
        noise = None if prompt.seed is None else _uniform(prompt.seed, sampling.max_new_tokens)
        return _Sequence(index, ids, None if draft is None else Drafter(draft), ids, noise=noise)

    @torch.inference_mode()
    def _decode(self, sequences: Sequence[_Sequence], sampling: Sampling, limit: int, probe: Probe | None) -> None:
        """Continue all to their end, the longest first, so that those in work are of like length."""
        waiting = deque(sorted(sequences, key=lambda item: -len(item.prompt)))
        store = KeyValueStore(min(self._batch, len(waiting)) + 1, self._device)
        shared = self._read_shared(sequences, store)
        choose = _Chooser(sampling)
        active: list[_Sequence] = []
        while waiting or active:
            began = time.perf_counter()
            fresh = self._admit(waiting, active, store, shared)
            if probe and not fresh:
                limit = probe.next_limit()
            counts = self._step(active, store, choose, limit, sampling.max_new_tokens)
            seconds = time.perf_counter() - began
            self._record.total.add(*counts, seconds)
            if probe and not fresh:
                probe.tallies[limit].add(*counts, seconds)
            self._release(active, store, sampling.max_new_tokens)

    def _read_shared(self, sequences: Sequence[_Sequence], store: KeyValueStore) -> int:
        """Read what all prompts begin with, once, into the last slot; returns its length."""
        if len(sequences) < 2:
            return 0
        first, last = min(item.prompt for item in sequences), max(item.prompt for item in sequences)
        shared = min(accepted(first, last), min(len(item.prompt) for item in sequences) - 1)
        if shared:
            self._forward([first[:shared]], store, [0], [shared - 1])
            store.copy(0, store.slots - 1, shared)
        return shared

    def _admit(self, waiting: deque[_Sequence], active: list[_Sequence], store: KeyValueStore, shared: int) -> int:
        """Fill the free slots; returns how many tokens of prompts that adds to the step."""
        fresh = 0
        while waiting and len(active) < self._batch and fresh < STEP_TOKENS:
            item = waiting.popleft()
            if shared:
                store.copy(store.slots - 1, len(active), shared)
            item.stored, item.ahead = shared, item.prompt[shared:]
            fresh += len(item.ahead)
            active.append(item)
        return fresh

    def _step(
        self, active: Sequence[_Sequence], store: KeyValueStore, choose: _Chooser, limit: int, longest: int
    ) -> tuple[int, int, int, int]:
        """One forward pass, which gives each sequence a token and as many more as its proposal was right.

        Returns:
            counts: sequences, new tokens, proposed tokens, accepted tokens.
        """
        proposals = [
            item.drafter.propose(min(limit, longest - len(item.output) - 1)) if item.drafter else [] for item in active
        ]
        new = [item.ahead + proposal for item, proposal in zip(active, proposals, strict=True)]
        ends = accumulate(map(len, new))
        wanted = [
            place
            for end, proposal in zip(ends, proposals, strict=True)
            for place in range(end - len(proposal) - 1, end)
        ]
        logits = self._forward(new, store, [item.stored for item in active], wanted)
        chosen = iter(choose(active, logits).tolist())
        tokens = right = 0
        for item, proposal in zip(active, proposals, strict=True):
            choices = list(islice(chosen, len(proposal) + 1))
            kept = accepted(proposal, choices)
            item.stored += len(item.ahead) + kept
            item.take(choices[: kept + 1], self._end)
            tokens, right = tokens + kept + 1, right + kept
        return len(active), tokens, len(wanted) - len(active), right

    def _forward(
        self, new: Sequence[list[int]], store: KeyValueStore, stored: list[int], wanted: list[int]
    ) -> torch.Tensor:
        """Read the new tokens of each slot; logits (wanted, vocabulary) after the wanted ones of all, packed."""
        step = store.plan(stored, [len(tokens) for tokens in new])
        logits: torch.Tensor = self._model(
            input_ids=self._tensor(list(chain(*new)))[None], position_ids=step.positions[None], use_cache=False,
            logits_to_keep=self._tensor(wanted), store=store, step=step,
        ).logits  # fmt: skip
        return logits[0]

    def _release(self, active: list[_Sequence], store: KeyValueStore, longest: int) -> None:
        """Take out the sequences that have ended; the last ones move into their slots."""
        for slot in reversed(range(len(active))):
            if active[slot].finished or len(active[slot].output) >= longest:
                last = active.pop()
                if slot < len(active):
                    active[slot] = last
                    store.copy(len(active), slot, last.stored)

    def _tensor(self, ids: list[int]) -> torch.Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self._device)

    def _end_ids(self) -> list[int]:
        """Every id that ends an answer: the tokenizer's EOS first, and those the checkpoint declares."""
        declared = self._model.generation_config.eos_token_id
        more = declared if isinstance(declared, list) else [declared] if declared is not None else []
        return list(dict.fromkeys([self.tokenizer.eos_token_id, *more]))


class TransformersEngine(Decoder):
    """A decoder with a model of its own, loaded for nothing else."""

    def __init__(
        self, model: ModelLocation, profile: Profile, frame: str | None = None, memory: Path | None = None
    ) -> None:
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(model.folder, **model.arguments()), frame)
        policy = DraftPolicy(profile.generation.copy_aware, memory)
        self._profile = profile
        super().__init__(_load(model, profile), tokenizer, profile.generation.batch, policy)

    def refresh(self, folder: Path) -> None:
        del self._model  # before its successor is loaded: two are never in memory at once
        self._model = _load(ModelLocation(str(folder)), self._profile)


def _load(model: ModelLocation, profile: Profile) -> Any:
    network: Any = AutoModelForCausalLM.from_pretrained(
        model.folder, dtype=getattr(torch, profile.precision), attn_implementation=NAME, **model.arguments()
    )
    if adapter_of(model):
        merge_adapter(network)
    network = network.to(profile.device.kind).eval()
    if packing_helps(profile):
        pack_linear_layers(network)
    return network


class _Chooser:
    """The next tokens: the best ones, or samples after penalties, temperature, top-k and top-p."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._repetition: Any = RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty)
        self._warpers: list[Any] = []
        if sampling.temperature > 0:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                self._warpers.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(self, active: Sequence[_Sequence], logits: torch.Tensor) -> torch.Tensor:
        """Tokens for (rows, vocabulary) logits: one row per sequence, or, where there is no penalty, several."""
        if self._sampling.plain_greedy:
            return logits.argmax(-1)
        logits = logits.float()
        if self._sampling.frequency_penalty:
            written = [(row, token) for row, item in enumerate(active) for token in item.output]
            places = torch.tensor(written, dtype=torch.long, device=logits.device).view(-1, 2)
            penalty = logits.new_tensor(-self._sampling.frequency_penalty)
            logits = logits.index_put((places[:, 0], places[:, 1]), penalty, accumulate=True)
        if self._sampling.repetition_penalty != 1.0:
            texts = [item.prompt + item.output for item in active]
            longest = max(map(len, texts))
            # Padded with the first token of each, which counts once like every other.
            padded = [ids[:1] * (longest - len(ids)) + ids for ids in texts]
            logits = self._repetition(torch.tensor(padded, device=logits.device), logits)
        if self._sampling.temperature == 0:
            return logits.argmax(-1)
        for warper in self._warpers:
            logits = warper(None, logits)
        return _sampled(logits.softmax(-1), [item.noise[len(item.output)] if item.noise else None for item in active])


def _uniform(seed: int, count: int) -> list[float]:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).tolist()


def _sampled(probabilities: torch.Tensor, noise: Sequence[float | None]) -> torch.Tensor:
    """A token for each row (rows, vocabulary): where its cumulated probability passes the row's number in [0, 1)."""
    if None in noise:
        return torch.multinomial(probabilities, 1)[:, 0]
    cumulated = probabilities.cumsum(-1, dtype=torch.float64)
    wanted = cumulated.new_tensor(noise)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, wanted, right=True)[:, 0].clamp(max=probabilities.shape[-1] - 1)
