"""What bulk generation costs around the engine: read, template, tokenise, shard, hash, write.

`python benchmarks/generation_overhead.py [--rows N] [--data FILE]`: the correction task runs as in a stage, with an
engine that tokenises prompts as vLLM's does and then only waits, as long as decoding would take at 5,000 and at 50,000
tokens per second. Shards are those of a GPU profile. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from aligner_core.configuration import find_profile, read_yaml
from aligner_core.data_sources import local_path
from aligner_core.embedded_models import local_folder
from aligner_core.engines import protocol
from aligner_core.engines.ahead import Ahead
from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import AlignerCorrector, Generation
from aligner_core.stage_context import StageContext
from aligner_core.tasks.generate import CorrectAnswers
from aligner_core.templates import prepare_tokenizer

SPEEDS = {"5k": 5_000, "50k": 50_000}


class WaitingEngine:
    """Replies with the known correction, after the time that its tokens would take; `waited` is that time alone."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, replies: Mapping[str | None, Completion], speed: float
    ) -> None:
        self._ahead = Ahead(tokenizer)
        self._replies = replies
        self._speed = speed
        self.waited = 0.0
        self.tokens = 0

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        self._ahead.prepare(prompts)

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        self._ahead.take(prompts)
        completions = [self._replies[prompt.draft] for prompt in prompts]
        tokens = sum(item.tokens for item in completions)
        started = time.perf_counter()
        time.sleep(tokens / self._speed)
        self.waited += time.perf_counter() - started
        self.tokens += tokens
        return completions

    def close(self) -> None: ...


def overhead(data: Path, engine: WaitingEngine, profile: Profile) -> float:
    """Share of the wall time that the engine did not wait."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {"answers": {"location": str(data)}, "corrector": {"location": "embedded:tiny-random"}}
        stage = StageContext(folder, inputs, profile, Progress(folder), MetricLog(folder, "benchmark"))
        task = CorrectAnswers(corrector=AlignerCorrector(template="chat@1"), name="benchmark", generation=Generation(),
                              precision="float32", engine="transformers", seed=0)  # fmt: skip
        started = time.perf_counter()
        task.run(stage)
        wall = time.perf_counter() - started
    return 1 - engine.waited / wall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--data", type=Path, default=local_path("embedded:corrections"), help="Q-A-C rows")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(local_folder("embedded:smollm2-135m-instruct")))
    profile = Profile.model_validate({**read_yaml(find_profile("h200x1")), "replace": {}})
    source = read_jsonl(arguments.data)
    lengths = [len(ids) for ids in tokenizer([row["correction"] for row in source])["input_ids"]]
    replies: dict[str | None, Completion] = {
        row["answer"]: Completion(row["correction"], length, True) for row, length in zip(source, lengths, strict=True)
    }
    result: dict[str, float] = {"rows": arguments.rows}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "answers.jsonl"
        kept = ("question", "history", "answer")
        rows = islice(cycle(source), arguments.rows)
        write_jsonl(data, ({"id": str(number), **{key: row[key] for key in kept if key in row}}
                           for number, row in enumerate(rows)))  # fmt: skip
        for label, speed in SPEEDS.items():
            engine = WaitingEngine(tokenizer, replies, speed)
            protocol.open_engine = lambda *_, engine=engine: engine  # type: ignore[assignment,misc]
            result[f"ratio_overhead_{label}"] = round(overhead(data, engine, profile), 4)
            result["tokens_per_row"] = round(engine.tokens / arguments.rows, 1)
            print(f"{label} tokens/s: {100 * result[f'ratio_overhead_{label}']:.1f} % overhead, "
                  f"{result['tokens_per_row']} tokens a row", flush=True)  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
