"""Generation with vLLM, which starts its own worker processes; fast where there are many rows."""

from __future__ import annotations

import os
import sysconfig
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_core.engines import vllm_drafter, vllm_worker
from aligner_core.engines.adapters import adapter_of
from aligner_core.engines.ahead import Ahead
from aligner_core.engines.drafting import Drafter
from aligner_core.engines.probe import DecodingRecord, DraftPolicy, Tally, Verdict
from aligner_core.engines.protocol import Completion, Prompt, Room, Sampling
from aligner_core.errors import Problem, UserError
from aligner_core.files import digest
from aligner_core.profile import Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import prepare_tokenizer, target_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class VllmEngine:
    """Hands whole shards to vLLM's continuous batching; token ids in and out, so no template is applied twice."""

    def __init__(
        self,
        model: ModelLocation,
        profile: Profile,
        frame: str | None = None,
        memory: Path | None = None,
        room: Room | None = None,
    ) -> None:
        if profile.device.kind == "cpu":
            _prepare_cpu()
        try:
            from vllm import LLM
            from vllm.lora.request import LoRARequest
        except ImportError as error:
            fix = "bash .ci/install vllm; or set generation.engine: transformers in the profile"
            raise UserError(Problem("generation.engine", "vllm is not installed", fix)) from error
        self.policy = DraftPolicy(profile.generation.copy_aware, memory)
        self._drafts = profile.generation.copy_aware != "off"
        self._record = DecodingRecord()
        more: dict[str, Any] = {"speculative_config": vllm_drafter.SPECULATION} if self._drafts else {}
        adapter = adapter_of(model)
        self._adapter = LoRARequest("adapter", 1, model.folder) if adapter else None
        if adapter:
            more |= {"enable_lora": True, "max_lora_rank": adapter.rank}
        if room:
            # vLLM insists on a free share of the device even where it is told how large its cache is to be.
            more |= {"kv_cache_memory_bytes": room.cache_bytes, "gpu_memory_utilization": 0.01}
            more["max_model_len"] = room.longest  # there has to be room for one text of the longest that it takes
        self._llm = LLM(
            model=adapter.base if adapter else model.folder,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=profile.precision,
            tensor_parallel_size=profile.generation.tensor_parallel,
            max_num_seqs=profile.generation.batch,
            enforce_eager=profile.device.kind == "cpu",
            enable_prefix_caching=True,
            worker_extension_cls=vllm_worker.WORKER,
            generation_config="vllm",
            seed=0,
            **more,
        )
        self.tokenizer = prepare_tokenizer(self._llm.get_tokenizer(), frame)
        os.environ["TOKENIZERS_PARALLELISM"] = "true"  # vLLM's processes have been started: nothing forks any more
        self._ahead = Ahead(self.tokenizer)

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        self._ahead.prepare(prompts)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        from vllm import SamplingParams

        drafts = self._draft_ids(prompts, sampling)
        parameters = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                repetition_penalty=sampling.repetition_penalty,
                frequency_penalty=sampling.frequency_penalty,
                seed=seed + index if prompt.seed is None else prompt.seed,
                detokenize=False,
                extra_args={vllm_drafter.DRAFT: draft} if draft else None,
            )
            for index, (prompt, draft) in enumerate(zip(prompts, drafts, strict=True))
        ]
        ids = self._ahead.take(prompts)
        call = digest([len(ids), *ids[::50]])
        if self._drafts:
            self._llm.collective_rpc("begin_drafting", args=(self.policy.limit(call) if any(drafts) else 0,))
        began = time.perf_counter()
        requests = self._llm.generate(
            [{"prompt_token_ids": item} for item in ids], parameters, use_tqdm=False, lora_request=self._adapter
        )
        outputs = [request.outputs[0] for request in requests]
        self._learn(call, drafts, [output.token_ids for output in outputs], time.perf_counter() - began)
        return [completed(self.tokenizer, output.token_ids, output.finish_reason == "stop") for output in outputs]

    @property
    def statistics(self) -> Mapping[str, Any]:
        return self._record.facts(self.policy)

    def refresh(self, folder: Path) -> None:
        """Every worker loads its part of the new weights.

        Raises:
            UserError: if the engine was opened with an adapter.
        """
        if self._adapter:
            what, fix = "is an adapter, whose base vLLM cannot give new weights", "merge it into its base"
            raise UserError(Problem(self._adapter.lora_path, what, fix))
        self._llm.collective_rpc("take_weights", args=(str(folder),))
        assert self._llm.reset_prefix_cache(), "vLLM kept keys and values of the old weights"

    def close(self) -> None:
        del self._llm

    def _draft_ids(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[list[int] | None]:
        if not self._drafts or not sampling.plain_greedy:
            return [None] * len(prompts)
        end = self.tokenizer.eos_token_id
        return [
            None if prompt.draft is None else [*target_ids(self.tokenizer, prompt.draft), end] for prompt in prompts
        ]

    def _learn(
        self, call: str, drafts: Sequence[list[int] | None], outputs: Sequence[Sequence[int]], seconds: float
    ) -> None:
        """Enter a call's figures, and the probe's verdict if this call was one to probe in."""
        tokens = sum(map(len, outputs))
        counted = Tally(sequence_steps=tokens, tokens=tokens)
        if self._drafts:
            report = self._llm.collective_rpc("drafting_report")[0]
            counted = Tally(**report["total"])
            self.policy.learn(call, Verdict(**report["verdict"]) if report["verdict"] else None)
        # What is passed on counts: not tokens beyond the length limit, but the time for prompts and messages.
        counted.tokens, counted.seconds = tokens, seconds
        self._record.total.merge(counted)
        for draft, output in zip(drafts, outputs, strict=True):
            if draft:
                drafter = Drafter(draft)
                drafter.follow(output)
                self._record.saw(drafter)


def completed(tokenizer: PreTrainedTokenizerBase, token_ids: Sequence[int], finished: bool) -> Completion:
    """A text that is finished ends with one of the model's end tokens, which need not be the tokenizer's."""
    tokens = list(token_ids[:-1] if finished else token_ids)
    return Completion(str(tokenizer.decode(tokens)).strip(), len(tokens), finished, ids=tuple(token_ids))


def _prepare_cpu() -> None:
    """Small key-value space, and Intel's OpenMP, which vLLM's CPU build is fastest with, for the worker processes."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    # vLLM would leave a core to its scheduler and one of each pair of hyper-threads idle: half of a small machine.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    library = Path(sysconfig.get_path("data")) / "lib" / "libiomp5.so"
    if library.is_file():
        os.environ.setdefault("LD_PRELOAD", str(library))
