"""A process of bulk generation to be killed: `python -m tests.aligner_core.bulk_process FOLDER ENGINE ROWS`.

ENGINE is `fake`, which takes its time and depends on its seed and on what is decoded together, or `vllm`.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.engines.protocol import Completion, Engine, EngineSlot, Prompt, Sampling
from aligner_core.generation import Bulk, write_results
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.templates import conversation


class SlowEngine(Engine):
    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        time.sleep(0.01)
        noise = random.Random(seed)
        return [
            Completion(prompt.messages[-1].content[::-1] + f" {noise.random()}", place + 1, True)
            for place, prompt in enumerate(prompts)
        ]

    def close(self) -> None: ...


def main(folder: Path, engine: str, count: int) -> None:
    folder.mkdir(exist_ok=True)
    document = {**read_yaml(find_profile("smoke")), "replace": {}}
    document["generation"] = {"engine": "vllm" if engine == "vllm" else "transformers", "batch": 16}
    stage = StageContext(folder, {}, Profile.model_validate(document), Progress(folder), MetricLog(folder, "generate"))
    texts = [f"question {number} " + "x" * (number * 7 % 97) for number in range(count)]
    slot = EngineSlot(stage)

    def open_engine() -> Engine:
        if engine == "fake":
            return SlowEngine()
        from aligner_core.embedded_models import local_folder

        return slot.open(ModelLocation(local_folder("embedded:tiny-random")))

    prompts = [Prompt(conversation(text)) for text in texts]
    size = 16 if engine == "fake" else 128
    found = Bulk(stage, texts, size).ask("texts", open_engine, prompts, Sampling(8, temperature=0.7), seed=1)
    rows = [
        {"id": text, "text": item.text, "tokens": item.tokens} for text, item in zip(texts, found, strict=True) if item
    ]
    write_results(stage, folder / "out.jsonl", rows, [None] * len(rows))
    slot.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
