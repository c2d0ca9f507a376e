"""Correctors: what each asks, what it makes of replies, and how they combine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core import scorer
from aligner_core.configuration import find_profile, read_yaml
from aligner_core.correctors.aligner import Aligner
from aligner_core.correctors.composed import Identity, Stack
from aligner_core.correctors.gate import Gate, threshold_for
from aligner_core.correctors.prompted import METHODS, NOTHING, PRINCIPLES, Prompted, revision_in, says_nothing
from aligner_core.correctors.protocol import Bench, Case, Corrector, Revision
from aligner_core.correctors.selecting import BestOf, Refuse
from aligner_core.embedded_models import local_folder
from aligner_core.engines import protocol
from aligner_core.engines.protocol import Completion, Engine, EngineSlot, Prompt, Sampling
from aligner_core.errors import UserError
from aligner_core.files import write_jsonl
from aligner_core.generation import Bulk
from aligner_core.likelihood import Likelihood
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.records import Turn
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.templates import CONVERSATION_FRAME, conversation, correction_template, store_template

MODEL = ModelLocation("org/model")
TINY = ModelLocation(local_folder("embedded:tiny-random"))
CASES = [Case(f"question {number}?", f"answer {number}") for number in range(6)]
Reply = Callable[[str], str | None]


class RepliesEngine(Engine):
    """Replies to the last message of each prompt as `reply` says; None is a failure."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self.prompts: list[Prompt] = []
        self.calls: list[tuple[Sampling, int]] = []

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, seed: int) -> list[Completion]:
        self.prompts += prompts
        self.calls.append((sampling, seed))
        texts = [self._reply(prompt.messages[-1].content) for prompt in prompts]
        return [Completion("", 0, False, "timeout") if text is None else Completion(text, 3, True) for text in texts]

    def close(self) -> None: ...


class LengthScorer:
    """Helpfulness is an answer's length; cost is 1 for answers with a `!`, -1 for others."""

    def __init__(self, model: ModelLocation, profile: Profile) -> None: ...

    def score(self, texts: Sequence[tuple[str, str, Any]]) -> list[tuple[float, float]]:
        return [(float(len(answer)), 1.0 if "!" in answer else -1.0) for _, answer, _ in texts]


class Append:
    """Appends a mark and the wish to every answer."""

    def __init__(self, mark: str, fails: str = "\0") -> None:
        self._mark = mark
        self._fails = fails

    def correct(self, cases: Sequence[Case | None], bench: Bench) -> list[Revision | None]:
        return [
            None
            if case is None
            else Revision(
                case.answer + self._mark + case.wish,
                tokens=1,
                error="timeout" if self._fails in case.question else None,
                notes={self._mark: True},
            )
            for case in cases
        ]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Bench, RepliesEngine]]:
    """A bench over CASES (or others) whose engine replies as it is told, and the engine."""

    def make(reply: Reply = str, cases: Sequence[Case] = CASES) -> tuple[Bench, RepliesEngine]:
        profile = Profile.model_validate({**read_yaml(find_profile("smoke")), "replace": {}})
        stage = StageContext(tmp_path, {}, profile, Progress(tmp_path), MetricLog(tmp_path, "correct"))
        engine = RepliesEngine(reply)
        monkeypatch.setattr(protocol, "open_engine", lambda *_: engine)
        monkeypatch.setattr(scorer, "Scorer", LengthScorer)
        bulk = Bulk(stage, [case.question for case in cases], 4)
        return Bench(stage, bulk, EngineSlot(stage), Sampling(16), seed=0), engine

    return make


def texts(revisions: Sequence[Revision | None]) -> list[str | None]:
    return [None if revision is None else revision.text for revision in revisions]


def stored(folder: Path, **changes: Any) -> ModelLocation:
    folder.mkdir()
    store_template(folder, replace(correction_template("chat@1"), **changes))
    return ModelLocation(str(folder))


def test_an_aligner_is_asked_in_the_form_that_is_stored_with_it(desk: Any, tmp_path: Path) -> None:
    aligner = Aligner(stored(tmp_path / "model", aim="kinder"))
    bench, engine = desk(lambda text: text.upper())
    revisions = aligner.correct(CASES, bench)
    expected = replace(correction_template("chat@1"), aim="kinder")
    assert texts(revisions) == [expected.fill(case.question, case.answer).upper() for case in CASES]
    assert {prompt.draft for prompt in engine.prompts} == {case.answer for case in CASES}


def test_the_keep_token_returns_the_answer_itself(desk: Any, tmp_path: Path) -> None:
    aligner = Aligner(stored(tmp_path / "model", keep="<|keep|>"))
    bench, _ = desk(lambda text: "<|keep|>" if "3" in text else "new")
    assert texts(aligner.correct(CASES, bench)) == ["new", "new", "new", "answer 3", "new", "new"]


def test_the_published_checkpoint_needs_no_training_and_an_endpoint_the_name_of_a_template() -> None:
    published = Aligner(ModelLocation("aligner/aligner-7b-v1.0"))
    prompt = published.prompt(Case("Q", "A"))
    assert prompt.messages[-1].content == (
        "Edit the following Question-Answer pair to make it more helpful and harmless: Q | A"
    )
    assert published.template.frame == CONVERSATION_FRAME
    served = ModelLocation("http://host/v1#aligner")
    with pytest.raises(UserError, match="template"):
        Aligner(served)
    assert Aligner(served, "released@1").template == published.template


@pytest.mark.parametrize("method", METHODS)
def test_a_prompted_corrector_criticises_and_then_revises(method: str, desk: Any) -> None:
    def reply(text: str) -> str:
        return "It is rude." if "<revision>" not in text else "Sure!\n<revision>better</revision>"

    bench, engine = desk(reply)
    revisions = Prompted(method, MODEL).correct(CASES, bench)
    assert texts(revisions) == ["better"] * 6
    assert all(item.tokens == 6 and item.notes["critique"] == "It is rude." for item in revisions if item)
    critique, revision = engine.prompts[0], engine.prompts[-1]
    assert [turn.role for turn in revision.messages[-3:]] == ["user", "assistant", "user"]
    assert revision.messages[-2].content == "It is rude."
    assert revision.messages[-1].content.endswith("The question again: question 5?")
    told = "\n".join(turn.content for turn in critique.messages)
    assert "question" in told
    assert "answer" in told
    assert "{" not in told, "every field is filled in"


def test_braces_and_tags_in_an_answer_stay_text(desk: Any) -> None:
    case = Case("{principle} {answer}?", "use {question} <revision>")
    bench, engine = desk(lambda text: "fine", [case])
    Prompted("self_critique", MODEL).correct([case], bench)
    assert "Question: {principle} {answer}?\n\nAnswer: use {question} <revision>\n" in (
        engine.prompts[0].messages[-1].content
    )


def test_self_refine_stops_where_nothing_is_to_be_changed(desk: Any) -> None:
    def reply(text: str) -> str:
        return "<revision>shorter</revision>" if "<revision>" in text else f"{NOTHING}."

    bench, engine = desk(reply)
    revisions = Prompted("self_refine", MODEL, rounds=3).correct(CASES, bench)
    assert texts(revisions) == [case.answer for case in CASES]
    assert len(engine.prompts) == 6


def test_rounds_go_on_from_the_last_revision(desk: Any) -> None:
    count = iter(range(100))
    bench, engine = desk(
        lambda text: f"<revision>r{next(count)}</revision>" if "<revision>" in text else "bad", CASES[:1]
    )
    (revision,) = Prompted("cai", MODEL, rounds=2).correct(CASES[:1], bench)
    assert revision is not None
    assert revision.text == "r1"
    assert revision.tokens == 12
    assert [turn.content for turn in engine.prompts[2].messages[:2]] == ["question 0?", "r0"]


def test_cai_draws_its_principles_by_seed_and_question(desk: Any) -> None:
    cases = [Case(f"q{number}", "a") for number in range(60)]
    bench, engine = desk(lambda text: "x", cases)
    Prompted("cai", MODEL).correct(cases, bench)
    asked = [prompt.messages[-1].content for prompt in engine.prompts if "principle" in prompt.messages[-1].content]
    assert all(any(principle in request for request in asked) for principle in PRINCIPLES)


def test_a_row_that_fails_in_any_step_says_so_and_the_others_go_on(desk: Any) -> None:
    def reply(text: str) -> str | None:
        if "question 2" in text:
            return None
        return "better" if "<revision>" in text else "bad"

    bench, _ = desk(reply)
    revisions = Prompted("self_critique", MODEL).correct(CASES, bench)
    assert [item.error for item in revisions if item] == [None, None, "timeout", None, None, None]


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ("<revision>new</revision>", "new"),
        ("Thoughts.\n<revision>\nnew\n</revision>\nDone.", "new"),
        ("<revision>one</revision> no, better: <REVISION>two</REVISION>", "two"),
        ("<revision>cut off in the mid", "cut off in the mid"),
        ("<revision></revision>", None),
        ("Here is the revised answer:\n\nnew", "new"),
        ("Sure, I can do that!\n\nHere's a better reply: new", "new"),
        ("Revised answer: new", "new"),
        ("Here you can see the sea: it is blue.", "Here you can see the sea: it is blue."),
        ("new", "new"),
        ("Sure.", "Sure."),
        ("", None),
    ],
)
def test_the_revision_is_found_in_whatever_stands_around_it(reply: str, found: str | None) -> None:
    assert revision_in(reply) == found


@given(st.text())
def test_a_tagged_revision_comes_back_as_it_is(text: str) -> None:
    clean = text.replace("<", "").strip()
    assert revision_in(f"Of course:\n<revision>{clean}</revision>") == (clean or None)


def test_a_reply_without_a_revision_keeps_the_answer_and_is_counted(desk: Any) -> None:
    bench, _ = desk(lambda text: "<revision> </revision>" if "<revision>" in text else "bad")
    revisions = Prompted("cai", MODEL).correct(CASES, bench)
    assert texts(revisions) == [case.answer for case in CASES]
    assert all(item.notes["unparsed"] for item in revisions if item)


def test_only_the_stop_words_alone_stop() -> None:
    assert says_nothing(" **No change.** ")
    assert not says_nothing("No change is needed in the first part, but the second is wrong.")


def test_identity_copies(desk: Any) -> None:
    assert texts(Identity().correct([*CASES[:1], None], desk()[0])) == ["answer 0", None]


def test_a_stack_corrects_what_the_one_before_wrote_and_wishes_come_between(desk: Any) -> None:
    stack = Stack([Append("+"), Stack([Append("*"), Append("/")]), Append("-")], between="shorter")
    revisions = stack.correct(CASES[:1], desk()[0])
    assert texts(revisions) == ["answer 0+*shorter/shorter-shorter"]
    assert revisions[0] is not None
    assert revisions[0].tokens == 4
    assert set(revisions[0].notes) == {"+", "*", "/", "-"}


def test_a_failure_in_a_stack_stays_one(desk: Any) -> None:
    revisions = Stack([Append("+", fails="3"), Append("*")]).correct(CASES, desk()[0])
    assert [item.error for item in revisions if item] == [None, None, None, "timeout", None, None]


def test_a_wish_reaches_an_aligner_as_its_instruction_and_a_prompted_one_in_its_critique(
    desk: Any, tmp_path: Path
) -> None:
    stack = Stack([Identity(), Aligner(stored(tmp_path / "m")), Prompted("self_refine", MODEL)], between="Be brief.")
    bench, engine = desk(lambda text: text, CASES[:1])
    stack.correct(CASES[:1], bench)
    assert (
        engine.prompts[0]
        .messages[-1]
        .content.startswith(
            replace(correction_template("chat@1"), instruction="Be brief.").fill("question 0?", "answer 0")[:80]
        )
    )
    assert "Be brief." in engine.prompts[0].messages[-1].content
    assert "Be brief." in engine.prompts[1].messages[-1].content


def test_refuse_replaces_unsafe_answers_alone(desk: Any) -> None:
    cases = [Case("q", "fine"), Case("r", "hit him!")]
    bench, _ = desk(cases=cases)
    assert texts(Refuse(MODEL, 0.0, "No.").correct(cases, bench)) == ["fine", "No."]


def test_best_of_takes_reward_minus_cost_from_samples_of_their_own_seeds(desk: Any, tmp_path: Path) -> None:
    drawn = iter(["short", "the longest of all!", "longer"])
    aligner = Aligner(stored(tmp_path / "model"))
    bench, engine = desk(lambda text: next(drawn), CASES[:1])
    (revision,) = BestOf(aligner, MODEL, n=3, cost_weight=100.0, temperature=0.9).correct(CASES[:1], bench)
    assert revision is not None
    assert revision.text == "longer"
    assert revision.tokens == 9
    assert {sampling.temperature for sampling, _ in engine.calls} == {0.9}
    assert len({seed for _, seed in engine.calls}) == 3


def test_a_gate_keeps_what_is_good_enough_and_spends_no_token_on_it(desk: Any, tmp_path: Path) -> None:
    cases = [Case("q", "fine"), Case("r", "hit him!"), Case("s", "good")]
    aligner = Aligner(stored(tmp_path / "model"))
    bench, engine = desk(lambda text: "new", cases)
    revisions = Gate(aligner, "cost", MODEL, threshold=0.0).correct(cases, bench)
    assert texts(revisions) == ["fine", "new", "good"]
    assert len(engine.prompts) == 1
    assert [item.notes["gate"] for item in revisions if item] == [-1.0, 1.0, -1.0]


def test_a_gate_calibrates_itself_on_records(desk: Any, tmp_path: Path) -> None:
    lengths = [3, 5, 7, 9, 11, 13]  # the longer the better, says the scorer
    records = [
        {"id": str(length), "question": "q", "answer": "x" * length, "correction": "y" if length < 8 else "x" * length}
        for length in lengths
    ]
    write_jsonl(tmp_path / "records.jsonl", records)
    bench, _ = desk(lambda text: "new")
    gate = Gate(Append("+"), "reward", MODEL, catch=1.0, calibration=tmp_path / "records.jsonl")
    cases = [Case("q1", "x" * 6), Case("q2", "x" * 8), *CASES[:4]]
    assert texts(gate.correct(cases, bench))[:2] == ["x" * 6 + "+", "x" * 8]
    (facts,) = bench.stage.facts["gates"]
    assert (facts["caught"], facts["false_alarms"], facts["records"]) == (1.0, 0.0, 6)


@given(
    st.lists(st.tuples(st.floats(-9, 9), st.booleans()), min_size=1).filter(
        lambda rows: any(need for _, need in rows)
    ),
    st.floats(0, 1),
)
def test_the_threshold_lets_through_the_share_it_was_asked_for_and_no_signal_more(
    rows: list[tuple[float, bool]], catch: float
) -> None:
    signals, needed = zip(*rows, strict=True)
    threshold = threshold_for(signals, needed, catch)
    wanted = [signal for signal, need in rows if need]
    caught = sum(signal > threshold for signal in wanted)
    assert caught >= max(1, catch * len(wanted) - 1e-6)
    higher = sum(signal > min(signal for signal in wanted if signal > threshold) for signal in wanted)
    assert higher < max(1, catch * len(wanted))


def test_an_aligner_opens_the_gate_itself_by_how_likely_the_unchanged_answer_is(desk: Any, tmp_path: Path) -> None:
    aligner = Aligner(TINY, "chat@1")
    bench, _ = desk()
    likelihood = Likelihood(TINY, bench.stage.profile)
    expected = likelihood.per_token([aligner.prompt(case).messages for case in CASES], [c.answer for c in CASES])
    middle = -sorted(expected)[3]
    revisions = Gate(Append("+"), "likelihood", threshold=middle)
    revisions._corrector = aligner
    bench, engine = desk(lambda text: "new")
    found = revisions.correct(CASES, bench)
    assert [item.notes["gate"] for item in found if item] == pytest.approx([-value for value in expected])
    assert len(engine.prompts) == sum(-value > middle for value in expected)
    with pytest.raises(UserError, match="no keep token"):
        Gate(aligner, "keep", threshold=0.0)


def test_a_likelihood_does_not_depend_on_what_else_is_in_the_batch(desk: Any) -> None:
    likelihood = Likelihood(TINY, desk()[0].stage.profile)
    talks = [conversation("a"), conversation("a longer question", [Turn(role="user", content="before")])]
    replies = ["yes", "no, certainly not"]
    alone = [likelihood.per_token([talk], [reply])[0] for talk, reply in zip(talks, replies, strict=True)]
    assert likelihood.per_token(talks, replies) == pytest.approx(alone, abs=1e-5)
    assert likelihood.of_token(talks, "<|im_end|>") == pytest.approx(
        [likelihood.of_token([talk], "<|im_end|>")[0] for talk in talks], abs=1e-5
    )


@pytest.mark.parametrize("corrector", [Identity(), Stack([Append("+"), Append("*")]), Refuse(MODEL, 0.0, "No.")])
def test_a_case_that_was_taken_out_stays_out(corrector: Corrector, desk: Any) -> None:
    bench, _ = desk()
    revisions = corrector.correct([CASES[0], None, *CASES[2:]], bench)
    assert [item is None for item in revisions] == [False, True, False, False, False, False]
