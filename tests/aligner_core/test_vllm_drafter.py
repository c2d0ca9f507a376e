"""The drafter in vLLM's worker follows each request by its name, whatever place it has in the batch."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from aligner_core.engines.drafting import LONGEST, accepted
from aligner_core.engines.probe import ENOUGH, LIMITS
from aligner_core.engines.vllm_drafter import DRAFT, AnswerDrafter
from aligner_core.engines.vllm_worker import EngineWorker

DRAFTS = {"a": list(range(100, 160)), "b": list(range(200, 240)), "c": None}
OUTPUTS = {"a": [*range(100, 120), 7, *range(121, 160)], "b": list(range(210, 240)), "c": list(range(300, 330))}


def drafter(limit: int | None, longest_sequence: int = 4096) -> tuple[AnswerDrafter, SimpleNamespace]:
    requests = {
        name: SimpleNamespace(sampling_params=SimpleNamespace(extra_args=draft and {DRAFT: draft}))
        for name, draft in DRAFTS.items()
    }
    runner = SimpleNamespace(input_batch=SimpleNamespace(req_ids=[]), requests=requests)
    made = AnswerDrafter(SimpleNamespace(model_config=SimpleNamespace(max_model_len=longest_sequence)))
    runner.drafter = made
    worker: Any = EngineWorker()
    worker.model_runner = runner
    worker.begin_drafting(limit)
    return made, runner


def decode(made: AnswerDrafter, runner: SimpleNamespace) -> tuple[dict[str, list[int]], int]:
    """Greedy decoding of OUTPUTS as vLLM does it, the batch in another order at every step."""
    said: dict[str, list[int]] = {name: [] for name in OUTPUTS}
    proposals: dict[str, list[int]] = {}
    steps = 0
    while going := [name for name in OUTPUTS if len(said[name]) < len(OUTPUTS[name])]:
        going = going[steps % len(going) :] + going[: steps % len(going)]
        sampled = []
        for name in going:
            proposal = proposals.get(name, [])
            rest = OUTPUTS[name][len(said[name]) :]
            reading = name == "b" and steps < 2  # its prompt is long: nothing is sampled yet
            sampled.append([] if reading else rest[: accepted(proposal, rest[: len(proposal) + 1]) + 1])
            said[name] += sampled[-1]
        runner.input_batch.req_ids = going
        lengths = [50 + len(said[name]) for name in going]
        proposals = dict(zip(going, made.propose(sampled, lengths, None), strict=True))
        steps += 1
    return said, steps


def test_copies_take_few_steps_and_requests_without_a_draft_get_no_proposal() -> None:
    made, runner = drafter(LONGEST)
    said, steps = decode(made, runner)
    assert said == OUTPUTS
    assert steps == len(OUTPUTS["c"])
    assert made.total.tokens == sum(map(len, OUTPUTS.values()))
    assert made.total.accepted > 60
    assert made.total.accepted <= made.total.proposed


def test_plain_decoding_proposes_nothing() -> None:
    made, runner = drafter(0)
    said, steps = decode(made, runner)
    assert said == OUTPUTS
    assert steps == len(OUTPUTS["a"])
    assert made.total.proposed == 0


def test_no_proposal_reaches_beyond_the_longest_sequence() -> None:
    made, runner = drafter(LONGEST, longest_sequence=55)
    runner.input_batch.req_ids = ["a"]
    assert made.propose([[100]], [52], None) == [[101, 102, 103]]
    assert made.propose([[101, 102, 103]], [55], None) == [[]]


def test_the_probe_counts_each_step_under_the_limit_it_was_proposed_with() -> None:
    made, runner = drafter(None)
    for _ in range(ENOUGH * len(LIMITS)):
        decode(made, runner)
    assert made.probe is not None
    assert made.probe.tallies[0].proposed == 0
    assert all(made.probe.tallies[limit].proposed for limit in LIMITS[1:])
    assert made.probe.verdict() is not None


def test_vllm_may_try_the_drafter_before_any_call() -> None:
    made = AnswerDrafter(SimpleNamespace(model_config=SimpleNamespace(max_model_len=10)))
    assert made.propose([[1], []], [1, 2], None) == [[], []]
