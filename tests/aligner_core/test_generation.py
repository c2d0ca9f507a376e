"""Bulk generation: the same output however often it was interrupted, and little done twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from aligner_core.engines.protocol import Completion, Engine, Prompt, Sampling
from aligner_core.errors import UserError
from aligner_core.files import read_jsonl
from aligner_core.generation import FAILED, HOPELESS, Bulk, digest_seed, generation_facts, write_results
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


def generate(folder: Path, engine: Engine, batch: int = 3, rows: Sequence[str] = ROWS) -> StageContext:
    stage = context(folder, batch)
    bulk = Bulk(stage, rows, batch)
    prompts = [Prompt(conversation(row)) for row in rows]
    completions = [item for item in bulk.ask("texts", lambda: engine, prompts, SAMPLING, 5) if item]
    written = [
        {"id": row, "row": row, "text": item.text, "finished": item.finished}
        for row, item in zip(rows, completions, strict=True)
    ]
    stage.facts |= generation_facts(bulk)
    returned = write_results(stage, folder / "out.jsonl", written, [item.error for item in completions])
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


def test_the_order_of_the_rows_changes_nothing_but_their_order(tmp_path: Path) -> None:
    generate(tmp_path / "one", FakeEngine())
    generate(tmp_path / "other", FakeEngine(), rows=ROWS[::-1])
    assert read_jsonl(tmp_path / "one" / "out.jsonl") == read_jsonl(tmp_path / "other" / "out.jsonl")[::-1]


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
    resumed = generate(tmp_path / "parts", FakeEngine())
    for fact in ("rows", "generated_tokens"):
        assert resumed.facts[fact] == whole.facts[fact]


def test_facts_count_rows_and_tokens_and_progress_reaches_the_end(tmp_path: Path) -> None:
    stage = generate(tmp_path, FakeEngine())
    expected = {"rows": 10, "generated_tokens": sum(len(row) + 1 for row in ROWS)}
    assert {**stage.facts, **expected} == stage.facts
    assert stage.facts["tokens_per_second"] > 0
    state = read_state(tmp_path)
    assert (state.done, state.total) == (10, 10)


def test_progress_tells_of_the_rows_again_once_the_model_is_loaded(tmp_path: Path) -> None:
    stage, seen = context(tmp_path, 3), []

    class Watching(FakeEngine):
        def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
            seen.append(read_state(tmp_path))
            return super().generate(prompts, sampling, seed)

    def load() -> Engine:
        stage.progress.pause("loading the model")
        seen.append(read_state(tmp_path))
        return Watching()

    Bulk(stage, ROWS, 10).ask("texts", load, [Prompt(conversation(row)) for row in ROWS], SAMPLING, 5)
    assert [(state.doing, state.total) for state in seen] == [("loading the model", 0), ("texts", 10)]


def test_text_beyond_ascii_and_line_ends_stay_in_one_line_each(tmp_path: Path) -> None:
    rows = ["né", "日本", "a\nb", "\u2028", "a"]
    generate(tmp_path, FakeEngine(), rows=rows)
    lines = (tmp_path / "out.jsonl").read_bytes().decode().split("\n")
    assert [json.loads(line)["row"] for line in lines[:-1]] == rows


class FailingEngine(FakeEngine):
    """Fails on the rows that begin with one of `bad`."""

    def __init__(self, bad: str) -> None:
        super().__init__()
        self._bad = bad

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        completions = super().generate(prompts, sampling, seed)
        texts = [prompt.messages[-1].content for prompt in prompts]
        failed = Completion("", 0, False, error="timeout: no answer")
        return [failed if text[0] in self._bad else item for text, item in zip(texts, completions, strict=True)]


def test_rows_that_failed_are_told_kept_apart_and_alone_asked_again(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 of 10 rows failed \(3 x timeout\)\. timeout: no answer"):
        generate(tmp_path, FailingEngine("258"))
    assert [row["id"][0] for row in read_jsonl(tmp_path / FAILED)] == ["2", "5", "8"]
    assert [row["row"][0] for row in read_jsonl(tmp_path / "out.jsonl")] == list("0134679")
    again = FailingEngine("8")
    with pytest.raises(UserError, match="1 of 10 rows failed"):
        generate(tmp_path, again)
    assert sorted(text[0] for shard in again.asked for text in shard) == ["2", "5", "8"]
    generate(tmp_path, FakeEngine())
    assert [row["row"] for row in read_jsonl(tmp_path / "out.jsonl")] == ROWS
    assert not (tmp_path / FAILED).exists()


def test_where_a_whole_shard_fails_the_next_ones_are_not_tried(tmp_path: Path) -> None:
    engine = FailingEngine("0123456789")
    rows = [f"{number} row" for number in range(3 * HOPELESS)]
    with pytest.raises(UserError, match=f"{HOPELESS} of {3 * HOPELESS} rows failed"):
        generate(tmp_path, engine, HOPELESS, rows)
    assert len(engine.asked) == 1


def test_a_row_whose_prompt_changed_is_asked_again_and_no_other(tmp_path: Path) -> None:
    stage = context(tmp_path, 3)

    def ask(engine: FakeEngine, changed: str) -> list[Completion | None]:
        prompts = [Prompt(conversation(row + changed * (index == 4))) for index, row in enumerate(ROWS)]
        return Bulk(stage, ROWS, 3).ask("step", lambda: engine, prompts, SAMPLING, 5)

    first, engine = ask(FakeEngine(), ""), FakeEngine()
    second = ask(engine, "!")
    assert engine.asked == [[ROWS[4] + "!"]]
    assert [index for index in range(10) if first[index] != second[index]] == [4]


def test_a_row_without_a_prompt_is_left_alone(tmp_path: Path) -> None:
    prompts = [Prompt(conversation(row)) if index % 2 else None for index, row in enumerate(ROWS)]
    engine = FakeEngine()
    found = Bulk(context(tmp_path, 3), ROWS, 3).ask("step", lambda: engine, prompts, SAMPLING, 5)
    assert [item is not None for item in found] == [index % 2 == 1 for index in range(10)]
    assert sum(map(len, engine.asked)) == 5


def test_every_shard_and_seed_has_its_own_randomness() -> None:
    assert len({digest_seed(seed, [str(row), "x"]) for seed in range(20) for row in range(20)}) == 400


class CountingEngine(FakeEngine):
    """Says what it read, as servers do."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        made = super().generate(prompts, sampling, seed)
        return [
            replace(item, prompt_tokens=len(prompt.messages[-1].content))
            for item, prompt in zip(made, prompts, strict=True)
        ]


def test_tokens_that_were_read_before_a_kill_are_counted_too(tmp_path: Path) -> None:
    with pytest.raises(SimulatedKillError):
        generate(tmp_path, CountingEngine(stop_at=2))
    assert generate(tmp_path, CountingEngine()).facts["prompt_tokens"] == sum(map(len, ROWS))
