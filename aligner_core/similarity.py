"""How near a text is to a reference in meaning, so that learning a writer's style is not mistaken for help."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoModel, AutoTokenizer

from aligner_core.stage_context import ModelLocation


class Embedder:
    """Mean-pooled, normalised sentence embeddings (the all-MiniLM-L6-v2 way)."""

    def __init__(self, model: ModelLocation) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model.folder, **model.arguments())
        self._network = AutoModel.from_pretrained(model.folder, dtype=torch.float32, **model.arguments()).eval()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], batch: int = 64) -> torch.Tensor:
        """(texts, width) unit vectors."""
        parts = []
        for start in range(0, len(texts), batch):
            encoded = self._tokenizer(
                list(texts[start : start + batch]), padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            encoded.pop("token_type_ids", None)
            hidden = self._network(**encoded).last_hidden_state
            mask = encoded["attention_mask"][:, :, None].float()
            parts.append((hidden * mask).sum(1) / mask.sum(1).clamp(min=1))
        return torch.nn.functional.normalize(torch.cat(parts), dim=-1)

    def similarities(self, texts: Sequence[str], references: Sequence[str]) -> list[float]:
        """Cosine of each text with its reference."""
        together = self.embed([*texts, *references])
        cosines = (together[: len(texts)] * together[len(texts) :]).sum(-1)
        return [float(value) for value in cosines]
