"""From questions to a data set of the published schema: `w2s data sample`, then `annotate`, as a user calls them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aligner_core.configuration import load
from aligner_core.display import open_display
from aligner_core.files import read_json, read_jsonl, write_jsonl
from aligner_core.recipe import Recipe
from aligner_core.runner import run_stages
from aligner_core.stages import stage_folder
from tests.aligner_core.endpoint import FAULTS, Endpoint, running
from tests.command_line import command, w2s
from w2s.pipeline import StageBuilder

TINY = "embedded:tiny-random"
QUICK = "endpoints: {retries: 0, timeout_seconds: 1}\n"
SHOWN = re.compile(r"<answer>\n(.*?)\n</answer>", re.DOTALL)


def questions(folder: Path, count: int) -> Path:
    path = folder / "questions.jsonl"
    write_jsonl(path, ({"id": f"q{number}", "question": f"question {number}", "topic": number % 3}
                       for number in range(count)))  # fmt: skip
    return path


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.yaml"
    path.write_text(Path("recipes/profiles/smoke.yaml").read_text() + QUICK)
    return path


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with running(Endpoint({})) as found:
        yield found


def editor(body: dict[str, Any]) -> str:
    """An annotator that finds fault with answers that shout, keeps others, and is wrong in every way it can."""
    talk = [turn["content"] for turn in body["messages"]]
    match = SHOWN.search(talk[0])
    assert match
    number = int(match[1].split()[-1])
    if len(talk) == 1:
        verdicts = {0: "Hm.", 1: "", 2: "NOTHING TO MEND", 3: "Nothing to mend."}
        return verdicts.get(number, 'Rule 7: "QUESTION" - shouts.')
    edits = {
        4: "I cannot edit that answer.", 5: "<edited></edited>", 6: f"<edited>{match[1]}</edited>",
        7: "<edited>Corrected answer: question 7</edited>", 9: f"<edited>{'word ' * 150}</edited>",
        8: "<edited>Trim what hangs over on your side and talk to him.</edited>",
        10: "<edited>I'm sorry, I can't revise this answer.</edited>",
    }  # fmt: skip
    return edits.get(number, f"Gladly.\n<edited>{match[1].lower()}, softly</edited>")


EXPECTED = {
    "critique unclear": 2, "unmarked": 1, "empty": 1, "unchanged": 1, "label": 1, "repeats the request": 1,
    "over-long": 1, "declined to edit": 1,
}  # fmt: skip


def accepted_by_aligner_7b(data: Path, folder: Path) -> dict[str, Any]:
    """What the data stage of the recipe says, with this data in the place of the published set."""
    sets = [f"data.corrections={data}", "data.evaluation=embedded:eval"]
    recipe, place, problems = load(Recipe, "aligner_7b", "cpu", sets)
    assert not problems
    stage = StageBuilder(recipe, place).prepare()
    run_stages(folder, [stage], place, open_display())
    manifest: dict[str, Any] = read_json(stage_folder(folder, stage) / "manifest.json")
    return dict(manifest["facts"])


def test_served_models_make_a_data_set_that_aligner_7b_accepts(
    tmp_path: Path, profile: Path, endpoint: Endpoint
) -> None:
    source, qa, qac = questions(tmp_path, 20), tmp_path / "qa.jsonl", tmp_path / "qac.jsonl"
    names = [f"{endpoint.url}#one", f"{endpoint.url}#two"]
    upstreams = [word for name in names for word in ("--upstream", name)]
    made = w2s("data", "sample", source, *upstreams, "--output", qa, "--profile", profile, "--seed", "3")
    assert made.returncode == 0, made.stderr
    rows = read_jsonl(qa)
    assert [row["id"] for row in rows] == [f"{number}/q{place}" for number in (1, 2) for place in range(20)]
    assert Counter(row["upstream"] for row in rows) == dict.fromkeys(names, 20)
    published = {"temperature": 0.5, "top_k": 10, "top_p": 0.95, "repetition_penalty": 1.1}
    asked = [{key: body.get(key) for key in (*published, "max_tokens")} for body in endpoint.requests]
    assert asked == [{**published, "max_tokens": 2048}] * 40
    assert {**published, "max_new_tokens": 2048, "seed": 3, "preset": "published"}.items() <= rows[0][
        "sampling"
    ].items()
    assert rows[0]["topic"] == 0

    endpoint.reply, endpoint.requests = editor, []
    arguments = ["data", "annotate", qa, "--annotator", f"{endpoint.url}#editor", "--output", qac,
                 "--profile", profile, "--price", "1000", "0"]  # fmt: skip
    made = w2s(*arguments)
    assert made.returncode == 0, made.stderr
    dropped = read_jsonl(tmp_path / "qac.dropped.jsonl")
    assert Counter(row["dropped"]["reason"] for row in dropped) == {reason: 2 * n for reason, n in EXPECTED.items()}
    kept = {row["id"]: row for row in read_jsonl(qac)}
    assert len(kept) + len(dropped) == 40
    assert kept["1/q2"]["correction"] == kept["1/q2"]["answer"] == "QUESTION 2"
    assert kept["2/q11"]["correction"] == "question 11, softly"
    assert kept["2/q11"]["broken_rules"] == ["manner"]
    assert {row["corrector"] for row in kept.values()} == {f"{endpoint.url}#editor"}
    read = sum(len(turn["content"]) for body in endpoint.requests for turn in body["messages"])
    assert f"22 corrections, 4 of answers that were good already; {read:,} tokens read" in made.stdout
    assert f"costs {read / 1000:,.2f}" in made.stdout

    asked_before = len(endpoint.requests)
    assert w2s(*arguments).returncode == 0
    assert len(endpoint.requests) == asked_before
    checked = w2s("data", "check", qac, "--model", TINY)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    told = w2s("data", "stats", qac).stdout
    assert [line.split("  ")[0] for line in told.split("how it came about\n")[1].splitlines()][:4] == [
        "read", "after sample", "- annotate: critique unclear", "- annotate: unmarked",
    ]  # fmt: skip
    facts = accepted_by_aligner_7b(qac, tmp_path / "run")
    assert (facts["weak"], facts["dropped"]) == (22, {})


@pytest.mark.slow
def test_what_an_embedded_model_answers_is_annotated_by_a_strong_one_or_dropped_whole(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    source, qa, qac = questions(tmp_path, 6), tmp_path / "qa.jsonl", tmp_path / "qac.jsonl"
    common = ["--profile", "smoke", "--max-new-tokens", "12"]
    made = w2s("data", "sample", source, "--upstream", TINY, "-o", qa, "--keep-unfinished", *common)
    assert made.returncode == 0, made.stderr
    answers = [{**row, "finished": True} for row in read_jsonl(qa)]
    write_jsonl(qa, answers)
    made = w2s("data", "annotate", qa, "--annotator", TINY, "-o", qac, *common)
    assert made.returncode == 2, "a random model annotates nothing"
    assert "nothing came through annotate" in made.stderr
    dropped = read_jsonl(tmp_path / "qac.dropped.jsonl")
    assert [row["id"] for row in dropped] == [row["id"] for row in answers]
    assert {row["dropped"]["reason"] for row in dropped} <= {"critique unclear", "critique unfinished"}
    assert all("critique" in row["dropped"] for row in dropped)
    endpoint.reply = lambda body: "NOTHING TO MEND"
    made = w2s("data", "annotate", qa, "--annotator", f"{endpoint.url}#strong", "-o", qac, *common)
    assert made.returncode == 0, made.stderr
    assert [row["correction"] for row in read_jsonl(qac)] == [row["answer"] for row in answers]
    assert accepted_by_aligner_7b(qac, tmp_path / "run")["weak"] == 6


def test_cut_and_empty_answers_fall_with_their_reason(tmp_path: Path) -> None:
    source, qa = questions(tmp_path, 6), tmp_path / "qa.jsonl"
    made = w2s("data", "sample", source, "--upstream", TINY, "-o", qa, "--profile", "smoke", "--max-new-tokens", "1")
    assert made.returncode == 2
    assert "nothing came through sample" in made.stderr
    reasons = Counter(row["dropped"]["reason"] for row in read_jsonl(tmp_path / "qa.dropped.jsonl"))
    assert set(reasons) <= {"unfinished", "empty"}
    assert reasons.total() == 6


@pytest.mark.parametrize("step", [pytest.param("sample", marks=pytest.mark.slow), "annotate"])
def test_what_a_hostile_server_failed_is_listed_and_alone_asked_again(
    tmp_path: Path, profile: Path, endpoint: Endpoint, step: str
) -> None:
    source, target = questions(tmp_path, 60), tmp_path / "out.jsonl"
    if step == "annotate":
        write_jsonl(source, ({**row, "answer": f"ANSWER {11 + n}"} for n, row in enumerate(read_jsonl(source))))
        endpoint.reply = editor
    endpoint.faults = dict.fromkeys(FAULTS, 0.1)
    who = "--upstream" if step == "sample" else "--annotator"
    arguments = ["data", step, source, who, f"{endpoint.url}#m", "--output", target, "--profile", profile]
    first = w2s(*arguments)
    assert first.returncode == 2, first.stderr
    done, failed = read_jsonl(target), read_jsonl(Path(f"{target}.failed.jsonl"))
    assert len(done) + len(failed) == 60
    assert not {row["id"] for row in done} & {row["id"] for row in failed}
    assert f"{len(failed)} of 60 rows failed" in first.stderr
    assert f"- {step}: failed" in first.stdout
    endpoint.faults, asked = {}, len(endpoint.requests)
    second = w2s(*arguments)
    assert second.returncode == 0, second.stderr
    assert len(endpoint.requests) - asked <= 2 * len(failed)
    assert len(read_jsonl(target)) == 60
    assert not Path(f"{target}.failed.jsonl").exists()
    assert "failed" not in second.stdout


def test_one_upstream_that_is_not_there_does_not_stop_the_others(
    tmp_path: Path, profile: Path, endpoint: Endpoint
) -> None:
    source, qa = questions(tmp_path, 10), tmp_path / "qa.jsonl"
    gone = ["--upstream", "http://127.0.0.1:9/v1#gone", "--upstream", f"{endpoint.url}#here"]
    made = w2s("data", "sample", source, *gone, "-o", qa, "--profile", profile)
    assert made.returncode == 2
    assert "10 x connection" in made.stderr
    assert [row["id"] for row in read_jsonl(qa)] == [f"2/q{number}" for number in range(10)]
    assert re.search(r"- sample: failed +10 +50.0%", made.stdout)


def killed_midway(arguments: list[Any], shards: Callable[[], int]) -> None:
    """Start the command and kill it and its stage once a shard is there."""
    process = subprocess.Popen(command("w2s.cli", *arguments), start_new_session=True, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while shards() == 0:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < until
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_steps_continue_and_ask_nothing_twice_but_a_shard(tmp_path: Path, endpoint: Endpoint) -> None:
    source, profile = questions(tmp_path, 100), tmp_path / "slow.yaml"
    text = Path("recipes/profiles/smoke.yaml").read_text()
    profile.write_text(text + "endpoints: {concurrency: 2}\n")  # a shard is 32 rows
    qa, qac = tmp_path / "qa.jsonl", tmp_path / "qac.jsonl"
    endpoint.delay = 0.02
    for step, given, who, target in (("sample", source, "--upstream", qa), ("annotate", qa, "--annotator", qac)):
        endpoint.requests = []
        endpoint.reply = editor if step == "annotate" else lambda body: f"ANSWER {body['messages'][-1]['content'][9:]}"
        arguments = ["data", step, given, who, f"{endpoint.url}#m", "--output", target, "--profile", profile]
        killed_midway(arguments, lambda target=target: len(list(Path(f"{target}.run").rglob("rows-*.jsonl"))))
        assert not target.exists()
        resumed = w2s(*arguments)
        assert resumed.returncode == 0, resumed.stderr
        talks = Counter(json.dumps(body["messages"]) for body in endpoint.requests)
        assert sum(count - 1 for count in talks.values()) <= 32
        assert max(talks.values()) <= 2
    assert len(read_jsonl(qa)) == 100
    assert len(read_jsonl(qac)) == 100 - sum(EXPECTED.values())


def test_the_flow_of_a_data_set_that_was_put_together_is_told_by_its_dropped_files(tmp_path: Path) -> None:
    data, first, second = (tmp_path / f"{name}.jsonl" for name in ("data", "once.dropped", "qac.dropped"))
    write_jsonl(data, [{"question": "q", "answer": "a", "correction": "c"}])
    write_jsonl(first, [{"question": "q", "dropped": {"reason": "exact"}}] * 2)
    write_jsonl(second, [{"question": "q", "dropped": {"step": "annotate", "reason": "label"}}])
    told = w2s("data", "stats", data, "--dropped", first, "--dropped", second).stdout
    flow = [line[:40].split() for line in told.split("how it came about\n")[1].splitlines()]
    assert [(" ".join(words[:-1]), words[-1]) for words in flow] == [
        ("read", "4"), ("- once: exact", "2"), ("after once", "2"),
        ("- annotate: label", "1"), ("after annotate", "1"),
    ]  # fmt: skip
    refused = w2s("data", "stats", data, "--dropped", data)
    assert (refused.returncode, "is no dropped record" in refused.stderr) == (2, True)
    assert "goes with one SOURCE" in w2s("data", "stats", data, data, "--dropped", first).stderr


def test_upstreams_and_outputs_that_cannot_be_are_told_at_once(tmp_path: Path) -> None:
    source = questions(tmp_path, 1)
    result = w2s("data", "sample", source, "--upstream", "nowhere", "--upstream", TINY, "--upstream", TINY,
                 "-o", tmp_path / "qa.csv")  # fmt: skip
    assert result.returncode == 2
    for expected in ("--upstream nowhere: unknown model", f"--upstream {TINY}: is named twice", "not a .jsonl file"):
        assert expected in result.stderr
    assert "is the source itself" in w2s("data", "sample", source, "--upstream", TINY, "-o", source).stderr
