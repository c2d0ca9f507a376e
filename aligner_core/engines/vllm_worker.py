"""What vLLM's worker process can do besides its own: say how drafting went, and take new weights.

The engine calls these methods with `collective_rpc`, on every worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aligner_core.engines.vllm_drafter import AnswerDrafter

WORKER = "aligner_core.engines.vllm_worker.EngineWorker"


class EngineWorker:
    """vLLM makes it a base of its worker class."""

    model_runner: Any
    reload_weights: Callable[..., None]

    def begin_drafting(self, limit: int | None) -> None:
        self.model_runner.drafter.begin_call(self.model_runner, limit)

    def drafting_report(self) -> dict[str, Any]:
        """Counts of the call, and the probe's verdict if it came to one."""
        drafter: AnswerDrafter = self.model_runner.drafter
        verdict = drafter.probe.verdict() if drafter.probe else None
        return {"total": asdict(drafter.total), "verdict": None if verdict is None else asdict(verdict)}

    def take_weights(self, folder: str) -> None:
        """Load another checkpoint of the same architecture into the network.

        vLLM lays a layer's weights out for its kernels when they were loaded. An output layer that shares its weights
        with the embeddings is not loaded itself, and on CPUs would go on with a copy that was laid out before.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, UnquantizedEmbeddingMethod

        self.reload_weights(weights_path=folder)
        for layer in self.model_runner.get_model().modules():
            if isinstance(layer, ParallelLMHead) and isinstance(layer.quant_method, UnquantizedEmbeddingMethod):
                layer.quant_method.process_weights_after_loading(layer)
