"""Generation with vLLM, which starts its own worker processes; fast where there are many rows."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from aligner_core.engines.ahead import Ahead
from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.errors import Problem, UserError
from aligner_core.profile import Profile
from aligner_core.stage_context import ModelLocation
from aligner_core.templates import prepare_tokenizer


class VllmEngine:
    """Hands whole shards to vLLM's continuous batching; token ids in and out, so no template is applied twice."""

    def __init__(self, model: ModelLocation, profile: Profile, frame: str | None = None) -> None:
        if profile.device.kind == "cpu":
            _prepare_cpu()
        try:
            from vllm import LLM
        except ImportError as error:
            fix = "bash .ci/install vllm; or set generation.engine: transformers in the profile"
            raise UserError(Problem("generation.engine", "vllm is not installed", fix)) from error
        self._llm = LLM(
            model=model.folder,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            dtype=profile.precision,
            tensor_parallel_size=profile.generation.tensor_parallel,
            max_num_seqs=profile.generation.batch,
            enforce_eager=profile.device.kind == "cpu",
            enable_prefix_caching=True,
            generation_config="vllm",
            seed=0,
        )
        self.tokenizer = prepare_tokenizer(self._llm.get_tokenizer(), frame)
        os.environ["TOKENIZERS_PARALLELISM"] = "true"  # vLLM's processes have been started: nothing forks any more
        self._ahead = Ahead(self.tokenizer)

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        self._ahead.prepare(prompts)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        from vllm import SamplingParams

        parameters = [
            SamplingParams(
                max_tokens=sampling.max_new_tokens,
                temperature=sampling.temperature,
                top_k=sampling.top_k,
                top_p=sampling.top_p,
                repetition_penalty=sampling.repetition_penalty,
                frequency_penalty=sampling.frequency_penalty,
                seed=seed + index,
                detokenize=False,
            )
            for index in range(len(prompts))
        ]
        requests = [{"prompt_token_ids": ids} for ids in self._ahead.take(prompts)]
        outputs = [request.outputs[0] for request in self._llm.generate(requests, parameters, use_tqdm=False)]
        return [self._completion(output.token_ids, output.finish_reason == "stop") for output in outputs]

    def _completion(self, token_ids: Sequence[int], finished: bool) -> Completion:
        tokens = [token for token in token_ids if token != self.tokenizer.eos_token_id]
        return Completion(str(self.tokenizer.decode(tokens)).strip(), len(tokens), finished)

    def close(self) -> None:
        del self._llm


def _prepare_cpu() -> None:
    """Small key-value space, and Intel's OpenMP, which vLLM's CPU build is fastest with, for the worker processes."""
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    library = Path(sysconfig.get_path("data")) / "lib" / "libiomp5.so"
    if library.is_file():
        os.environ.setdefault("LD_PRELOAD", str(library))
