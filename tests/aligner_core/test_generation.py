"""Bulk generation: the same output however often it was interrupted, and little done twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.files import read_jsonl
from aligner_core.generation import generate_rows, shard_seed
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress, read_state
from aligner_core.stage_context import StageContext
from aligner_core.templates import conversation

ROWS = [f"{number} " + "x" * (number * 7 % 11) for number in range(10)]
SAMPLING = Sampling(max_new_tokens=8)


class SimulatedKillError(Exception):
    pass


class FakeEngine(Engine):
    """Answers a prompt with its reverse and a letter from the seed; stops at call number `stop_at`."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.asked: list[list[str]] = []
        self._stop_at = stop_at

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        self.asked.append([prompt.messages[-1].content for prompt in prompts])
        if self._stop_at == len(self.asked) - 1:
            raise SimulatedKillError
        return [
            Completion(text[::-1] + chr(97 + (seed + place) % 26), len(text) + 1, True)
            for place, text in enumerate(self.asked[-1])
        ]

    def close(self) -> None: ...


def context(folder: Path, batch: int) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    profile = Profile.model_validate(
        {
            "name": "here",
            "device": {"kind": "cpu", "name": "x", "memory_gib": 8, "tflops": 1.0, "bandwidth_gb_s": 20},
            "generation": {"batch": batch},
        }
    )
    return StageContext(folder, {}, profile, Progress(folder), MetricLog(folder, "generate"))


def prompt(row: str) -> Prompt:
    return Prompt(conversation(row))


def record(row: str, completion: Completion) -> dict[str, Any]:
    return {"row": row, "text": completion.text, "finished": completion.finished}


def generate(folder: Path, engine: FakeEngine, batch: int = 3, rows: Sequence[str] = ROWS) -> StageContext:
    stage = context(folder, batch)
    returned = generate_rows(stage, engine, rows, prompt, record, SAMPLING, 5, folder / "out.jsonl")
    assert returned == read_jsonl(folder / "out.jsonl")
    return stage


def test_rows_come_out_in_the_order_in_which_they_went_in(tmp_path: Path) -> None:
    generate(tmp_path, FakeEngine())
    written = read_jsonl(tmp_path / "out.jsonl")
    assert [row["row"] for row in written] == ROWS
    assert all(row["text"].startswith(row["row"][::-1]) for row in written)


def test_prompts_of_like_length_are_decoded_together(tmp_path: Path) -> None:
    engine = FakeEngine()
    generate(tmp_path, engine)
    lengths = [len(asked) for batch in engine.asked for asked in batch]
    assert lengths == sorted(lengths)
    assert [len(batch) for batch in engine.asked] == [3, 3, 3, 1]


@pytest.mark.parametrize("stop_at", range(4))
def test_a_resumed_run_equals_an_uninterrupted_one_and_repeats_one_shard(tmp_path: Path, stop_at: int) -> None:
    whole = FakeEngine()
    generate(tmp_path / "whole", whole)
    first, second = FakeEngine(stop_at), FakeEngine()
    with pytest.raises(SimulatedKillError):
        generate(tmp_path / "parts", first)
    assert not (tmp_path / "parts" / "out.jsonl").exists()
    generate(tmp_path / "parts", second)
    assert (tmp_path / "parts" / "out.jsonl").read_bytes() == (tmp_path / "whole" / "out.jsonl").read_bytes()
    times = Counter(shard[0] for shard in first.asked + second.asked)
    assert set(times) == {shard[0] for shard in whole.asked}
    assert sum(times.values()) == len(times) + 1


@pytest.mark.parametrize("at_row", [0, 4, 9])
def test_a_shard_lost_before_it_was_written_is_generated_again(tmp_path: Path, at_row: int) -> None:
    generate(tmp_path / "whole", FakeEngine())
    seen = 0

    def failing(row: str, completion: Completion) -> dict[str, Any]:
        nonlocal seen
        seen += 1
        if seen == at_row + 1:
            raise SimulatedKillError
        return record(row, completion)

    first, second = FakeEngine(), FakeEngine()
    stage = context(tmp_path / "parts", 3)
    with pytest.raises(SimulatedKillError):
        generate_rows(stage, first, ROWS, prompt, failing, SAMPLING, 5, stage.folder / "out.jsonl")
    generate(stage.folder, second)
    assert (stage.folder / "out.jsonl").read_bytes() == (tmp_path / "whole" / "out.jsonl").read_bytes()
    assert len(first.asked) + len(second.asked) == 5


def test_a_finished_output_is_made_again_without_asking_the_engine(tmp_path: Path) -> None:
    generate(tmp_path, FakeEngine())
    before = (tmp_path / "out.jsonl").read_bytes()
    again = FakeEngine()
    generate(tmp_path, again)
    assert again.asked == []
    assert (tmp_path / "out.jsonl").read_bytes() == before


@pytest.mark.parametrize("batch", [1, 2, 4, 5, 9, 10, 64])
@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_changed_batch_size_does_not_reuse_shards_of_other_rows(tmp_path: Path, batch: int, stop_at: int) -> None:
    generate(tmp_path / "whole", FakeEngine(), batch)
    with pytest.raises(SimulatedKillError):
        generate(tmp_path / "parts", FakeEngine(stop_at))
    generate(tmp_path / "parts", FakeEngine(), batch)
    assert (tmp_path / "parts" / "out.jsonl").read_bytes() == (tmp_path / "whole" / "out.jsonl").read_bytes()


def test_a_resumed_run_reports_the_facts_of_the_whole(tmp_path: Path) -> None:
    whole = generate(tmp_path / "whole", FakeEngine())
    with pytest.raises(SimulatedKillError):
        generate(tmp_path / "parts", FakeEngine(2))
    assert generate(tmp_path / "parts", FakeEngine()).facts == whole.facts


def test_facts_count_rows_and_tokens_and_progress_reaches_the_end(tmp_path: Path) -> None:
    stage = generate(tmp_path, FakeEngine())
    assert stage.facts == {"rows": 10, "generated_tokens": sum(len(row) + 1 for row in ROWS)}
    state = read_state(tmp_path)
    assert (state.done, state.total) == (10, 10)


def test_text_beyond_ascii_and_line_ends_stay_in_one_line_each(tmp_path: Path) -> None:
    rows = ["né", "日本", "a\nb", "\u2028", "a"]
    generate(tmp_path, FakeEngine(), rows=rows)
    lines = (tmp_path / "out.jsonl").read_bytes().decode().split("\n")
    assert [json.loads(line)["row"] for line in lines[:-1]] == rows


def test_every_shard_and_seed_has_its_own_randomness() -> None:
    assert len({shard_seed(seed, start) for seed in range(20) for start in range(0, 200, 10)}) == 400
