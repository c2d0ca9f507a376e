"""Copy-aware decoding inside vLLM's worker process: a drafter of vLLM's own interface.

vLLM's n-gram speculation searches prompt and output for what was written last. This drafter is told each request's
draft (`SamplingParams.extra_args`) and follows it, as the transformers engine does. The interface is experimental in
vLLM 0.31; nothing but this module knows it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from aligner_core.engines.drafting import LONGEST, Drafter
from aligner_core.engines.probe import Probe, Tally

DRAFT = "draft"
SPECULATION = {
    "method": "custom_class",
    "model": "aligner_core.engines.vllm_drafter.AnswerDrafter",
    "num_speculative_tokens": LONGEST,
}


class AnswerDrafter:
    """What vLLM asks for proposals after every step, and tells what was sampled."""

    def __init__(self, vllm_config: Any) -> None:
        self._longest_sequence: int = vllm_config.model_config.max_model_len
        self._runner: Any = None
        self.probe: Probe | None = None
        self.begin_call(None, 0)

    def load_model(self, model: Any) -> None:
        """vLLM calls this for every drafter; there is nothing to load."""

    def begin_call(self, runner: Any, limit: int | None) -> None:
        """Requests of a new call are coming. `limit` None probes."""
        self._runner = runner
        self._limit = limit or 0
        self.probe = None if limit is not None else self.probe or Probe()
        if self.probe:
            self.probe.begin_call()
            self._limit = self.probe.next_limit()
        self.total = Tally()
        self._drafters: dict[str, Drafter] = {}
        self._proposed: dict[str, int] = {}
        self._proposed_at = time.perf_counter()

    def propose(
        self, sampled_token_ids: Sequence[Sequence[int]], num_tokens_no_spec: Any, token_ids_cpu: Any, **_: Any
    ) -> list[list[int]]:
        """Proposals for each request of the batch, in its order.

        Args:
            sampled_token_ids: what each request has got in this step; nothing where its prompt is still being read.
            num_tokens_no_spec: (requests,) length of each with that.
        """
        if self._runner is None:  # vLLM tries itself out while it starts
            return [[] for _ in sampled_token_ids]
        ids = self._runner.input_batch.req_ids[: len(sampled_token_ids)]
        self._count(ids, sampled_token_ids)
        proposals = []
        for name, sampled, length in zip(ids, sampled_token_ids, num_tokens_no_spec, strict=False):
            drafter = self._drafters.get(name) or self._drafter(name)
            drafter.follow(sampled)
            room = min(self._limit, self._longest_sequence - int(length))
            proposals.append(drafter.propose(room) if sampled and room > 0 else [])
        self._proposed = {name: len(proposal) for name, proposal in zip(ids, proposals, strict=True)}
        return proposals

    def _drafter(self, name: str) -> Drafter:
        extra = self._runner.requests[name].sampling_params.extra_args or {}
        self._drafters[name] = Drafter(extra.get(DRAFT, []))
        return self._drafters[name]

    def _count(self, ids: Sequence[str], sampled: Sequence[Sequence[int]]) -> None:
        """Enter the step that ended now, and choose the limit for the next one."""
        now = time.perf_counter()
        counts = (
            len(ids),
            sum(map(len, sampled)),
            sum(self._proposed.get(name, 0) for name in ids),
            sum(max(0, len(tokens) - 1) for tokens in sampled),
            now - self._proposed_at,
        )
        self._proposed_at = now
        self.total.add(*counts)
        if self.probe is not None and all(name in self._drafters for name in ids):
            self.probe.tallies[self._limit].add(*counts)
            self._limit = self.probe.next_limit()
