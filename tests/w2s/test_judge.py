"""`w2s judge` against servers that prefer, babble and fail."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aligner_core.files import read_json, read_jsonl, write_json, write_jsonl
from tests.aligner_core.endpoint import Endpoint, running
from tests.analysis.fake_runs import fake_main_table, fake_run
from tests.command_line import command
from w2s.cli import main
from w2s.judged_sides import open_side

PAIRS = 30
PRICE = ("--price", "2", "8")


def answers_shown(body: dict[str, Any]) -> tuple[str, str]:
    text = body["messages"][1]["content"]
    first, second = re.findall(r"<answer_\d>\n(.*?)\n</answer_\d>", text, re.DOTALL)
    return first, second


def prefers_longer(body: dict[str, Any]) -> str:
    first, second = map(len, answers_shown(body))
    return "I weigh both, perhaps [[tie]].\n" + ("[[tie]]" if first == second else f"[[{1 if first > second else 2}]]")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("W2S_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A's answers are longer on 20 of 30 questions, the same on 4, shorter on 6; B's rows come in another order."""
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    rows = [(f"Question {n}?", "x" * (30 if n < 20 else 20 if n < 24 else 10), "x" * 20) for n in range(PAIRS)]
    write_jsonl(a, ({"question": q, "answer": "-", "correction": text, "corrector": "ours"} for q, text, _ in rows))
    write_jsonl(
        b, ({"id": q, "question": q.upper(), "answer": text, "upstream": "theirs"} for q, _, text in rows[::-1])
    )
    return a, b


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.yaml"
    path.write_text(
        Path("recipes/profiles/smoke.yaml").read_text()
        + "endpoints: {retries: 0, timeout_seconds: 5, concurrency: 4}\n"
    )
    return path


def judged(endpoint: Endpoint, files: tuple[Path | str, Path | str], profile: Path, *more: str | Path) -> Result:
    arguments = ["judge", *files, "--judge", f"{endpoint.url}#m", "--profile", profile, *more]
    return CliRunner().invoke(main, list(map(str, arguments)), catch_exceptions=False)


def served(reply: Callable[[dict[str, Any]], str], faults: dict[str, float] | None = None) -> Endpoint:
    endpoint = Endpoint(faults or {})
    endpoint.reply = reply
    return endpoint


def test_a_comparison_has_the_counts_and_is_asked_once(
    files: tuple[Path, Path], profile: Path, tmp_path: Path
) -> None:
    target = tmp_path / "comparison.jsonl"
    with running(served(prefers_longer)) as endpoint:
        first = judged(endpoint, files, profile, "-o", target, *PRICE)
        assert first.exit_code == 0, first.output
        assert len(endpoint.requests) == 2 * (PAIRS - 4)
        assert all(body["temperature"] == 0 for body in endpoint.requests)
        second = judged(endpoint, files, profile, "-o", target, *PRICE)
        assert len(endpoint.requests) == 2 * (PAIRS - 4)
    (row,) = read_jsonl(target)
    assert list(row)[:10] == ["a", "b", "axis", "win", "tie", "lose", "unparsed", "omega", "low", "high"]
    assert list(row.values())[:7] == ["ours", "theirs", "helpful", 20, 4, 6, 0]
    assert row["omega"] == pytest.approx(100 * 14 / 30)
    assert row["low"] < row["omega"] < row["high"]
    assert "52 requests, 0 kept from before; 52 to ask" in first.output
    assert re.search(r"asked 52, 0 failed; [\d,]+ tokens read, [\d,]+ written, costs 0.\d\d", first.output)
    assert "No order bias can be told" in first.output
    assert "52 kept from before; 0 to ask" in second.output
    assert len(read_jsonl(Path(f"{target}.verdicts.jsonl"))) == PAIRS
    assert not Path(f"{target}.unparsed.jsonl").exists()


def test_a_judge_that_always_prefers_the_first_yields_omega_0_and_is_named(
    files: tuple[Path, Path], profile: Path
) -> None:
    with running(served(lambda body: "[[1]]")) as endpoint:
        result = judged(endpoint, files, profile)
        once = judged(endpoint, files, profile, "--orders", "random")
    assert "omega +0.0 % [+0.0, +0.0]; 0 win, 30 tie (4 identical), 0 lose" in result.output
    assert "Both orders agree on 0.0 %" in result.output
    assert "order bias: it favours the answer shown first, in 100.0 % of the 26 pairs" in result.output
    assert "whether the order decided cannot be told" in once.output


def test_systems_of_a_run_are_judged_into_its_report(profile: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", {"upstream": 0.0, "aligned": 1.0, "student": 2.0}, questions=20)
    write_json(run / "report.json", {})
    with running(served(lambda body: "[[1]]")) as endpoint:
        result = judged(endpoint, (f"{run}:student", f"{run}:upstream"), profile)
        again = judged(endpoint, (f"{run}:student", f"{run}:upstream"), profile, "--axis", "harmless")
    assert (result.exit_code, again.exit_code) == (0, 0), result.output + again.output
    (path,) = [path for path in (run / "judged").iterdir() if not path.name.endswith("verdicts.jsonl")]
    assert path.name == "student-against-upstream-by-m.jsonl"
    rows = read_json(run / "report.json")["judged"]
    assert [(row["axis"], row["tie"], row["omega"]) for row in rows] == [("helpful", 20, 0.0), ("harmless", 20, 0.0)]
    assert rows[0]["agreement"]["scores"]["pairs"] == 20
    assert "favours the answer shown first, in 100.0 % of the 20 pairs" in (run / "report.html").read_text()
    assert "The judge and the scores (helpful) agree on" in result.output


def test_a_second_axis_leaves_what_was_said_on_the_first(profile: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", {"upstream": 0.0, "student": 2.0}, questions=20)
    sides = (f"{run}:student", f"{run}:upstream")
    with running(served(lambda body: "Hm." if "student says 1" in answers_shown(body) else "[[1]]")) as endpoint:
        judged(endpoint, sides, profile)
        endpoint.reply = lambda body: "[[2]]"
        judged(endpoint, sides, profile, "--axis", "harmless")
    (path,) = (run / "judged").glob("*-by-m.jsonl")
    assert [row["axis"] for row in read_jsonl(path)] == ["helpful", "harmless"]
    assert [row["axis"] for row in read_jsonl(Path(f"{path}.verdicts.jsonl"))] == ["helpful"] * 20 + ["harmless"] * 20
    assert [row["axis"] for row in read_jsonl(Path(f"{path}.unparsed.jsonl"))] == ["helpful"] * 2


def test_what_was_said_of_answers_that_are_gone_is_joined_with_nothing(profile: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", {"upstream": 0.0, "student": 2.0}, questions=20)
    sides = (f"{run}:student", f"{run}:upstream")
    with running(served(lambda body: "[[1]]")) as endpoint:
        judged(endpoint, sides, profile)
        (path,) = (run / "judged").glob("*-by-m.jsonl")
        assert [row["stages"] for row in read_jsonl(path)] == [["scores-s1"]]
        (run / "run.json").write_text(
            (run / "run.json").read_text().replace('"identity": "scores-s1"', '"identity": "anew"')
        )
        judged(endpoint, sides, profile, "--axis", "harmless")
    assert [(row["axis"], row["stages"]) for row in read_jsonl(path)] == [("harmless", ["anew"])]
    assert {row["axis"] for row in read_jsonl(Path(f"{path}.verdicts.jsonl"))} == {"harmless"}


def test_a_side_of_a_main_table_knows_the_stages_of_its_upstreams_cells(tmp_path: Path) -> None:
    side = open_side(f"{fake_main_table(tmp_path)}:aligned@GPT-4", None)
    assert side.stages == {"scores-GPT-4-beavertails-s1", "scores-GPT-4-truthfulqa-s1"}
    assert len(side.answers.answers) == 20


def test_a_system_that_a_run_does_not_have_is_told_with_those_it_has(profile: Path, tmp_path: Path) -> None:
    run = fake_run(tmp_path / "run", {"upstream": 0.0, "aligned": 1.0})
    with running(served(lambda body: "[[1]]")) as endpoint:
        other = judged(endpoint, (f"{run}:student", f"{run}:upstream"), profile)
        nowhere = judged(endpoint, (str(tmp_path / "no.jsonl"), f"{run}:upstream"), profile)
    assert (other.exit_code, nowhere.exit_code) == (2, 2)
    assert 'no system "student"' in other.output
    assert "name one of: upstream, aligned" in other.output
    assert "is neither a file nor a system of a run" in nowhere.output


def test_a_judge_that_babbles_gets_no_rate_and_its_replies_are_listed(
    files: tuple[Path, Path], profile: Path, tmp_path: Path
) -> None:
    target = tmp_path / "comparison.jsonl"
    with running(served(lambda body: "What a day!")) as endpoint:
        result = judged(endpoint, files, profile, "-o", target)
    assert result.exit_code == 1
    assert "26 of 30 pairs have no verdict (52 replies without a verdict, 0 failed requests)" in result.output
    assert "omega" not in result.output
    assert not target.exists()
    listed = read_jsonl(Path(f"{target}.unparsed.jsonl"))
    assert len(listed) == 52
    assert listed[0]["reply"] == "What a day!"


def test_few_unparsed_pairs_are_counted_and_left_out_of_omega(
    files: tuple[Path, Path], profile: Path, tmp_path: Path
) -> None:
    def mumbles_once(body: dict[str, Any]) -> str:
        asked, (first, _) = body["messages"][1]["content"], answers_shown(body)
        return "Hm." if "QUESTION 0?" in asked.upper() and len(first) == 30 else prefers_longer(body)

    target = tmp_path / "comparison.jsonl"
    with running(served(mumbles_once)) as endpoint:
        result = judged(endpoint, files, profile, "-o", target)
    assert result.exit_code == 0, result.output
    (row,) = read_jsonl(target)
    assert (row["win"], row["tie"], row["lose"], row["unparsed"]) == (19, 4, 6, 1)
    assert len(read_jsonl(Path(f"{target}.unparsed.jsonl"))) == 1


def test_what_failed_is_not_kept_and_the_same_command_asks_for_it_alone(
    files: tuple[Path, Path], profile: Path, tmp_path: Path
) -> None:
    target = tmp_path / "comparison.jsonl"
    with running(served(prefers_longer, {"500": 0.3})) as endpoint:
        first = judged(endpoint, files, profile, "-o", target)
        assert first.exit_code == 1
        assert "http_500" in first.output
        assert "omega" not in first.output
        failed, asked = endpoint.met["500"], len(endpoint.requests)
        assert 0 < failed < asked
        endpoint.faults = {}
        second = judged(endpoint, files, profile, "-o", target)
        assert second.exit_code == 0, second.output
        assert len(endpoint.requests) - asked == failed
    assert read_jsonl(target)[0]["win"] == 20
    assert not Path(f"{target}.unparsed.jsonl").exists()


def test_a_killed_judge_continues_and_ends_in_the_same_bytes(
    files: tuple[Path, Path], profile: Path, tmp_path: Path
) -> None:
    def slowly(body: dict[str, Any]) -> str:
        time.sleep(0.02)
        return prefers_longer(body)

    whole, target = tmp_path / "whole.jsonl", tmp_path / "comparison.jsonl"
    with running(served(slowly)) as endpoint:
        more = ["--judge", f"{endpoint.url}#m", "--profile", str(profile), "--cache", str(tmp_path / "own.sqlite")]
        arguments = command("w2s.cli", "judge", *files, *more, "-o", target)
        process = subprocess.Popen(arguments)
        deadline = time.monotonic() + 60
        while len(endpoint.requests) < 34 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.wait()
        before = len(endpoint.requests)
        assert 34 <= before < 52
        assert not target.exists()
        assert subprocess.run(arguments).returncode == 0
        assert len(endpoint.requests) - before <= 52 - 32  # two batches of 16 were kept
        assert judged(endpoint, files, profile, "-o", whole).exit_code == 0
    assert target.read_bytes() == whole.read_bytes()
    assert Path(f"{target}.verdicts.jsonl").read_bytes() == Path(f"{whole}.verdicts.jsonl").read_bytes()


def test_a_dead_server_is_not_asked_for_everything(files: tuple[Path, Path], profile: Path) -> None:
    with running(served(prefers_longer, {"500": 1.0})) as endpoint:
        result = judged(endpoint, files, profile)
        assert len(endpoint.requests) == 16
    assert result.exit_code == 1
    assert "no verdict" in result.output


def test_people_label_blind_and_their_agreement_is_printed(
    files: tuple[Path, Path], profile: Path, tmp_path: Path
) -> None:
    table = tmp_path / "pairs.csv"
    exported = CliRunner().invoke(main, ["judge", *map(str, files), "--export", str(table), "--seed", "3"])
    assert exported.exit_code == 0, exported.output
    assert not {"ours", "theirs"} & set(re.findall(r"\w+", table.read_text()))
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 26
    longer = ["1" if len(row["answer_1"]) > len(row["answer_2"]) else "2" for row in rows]
    assert set(longer) == {"1", "2"}
    ours_first = sum(len(row["answer_1"]) != 20 for row in rows)
    assert 5 < ours_first < 21
    labels = [*longer[:-3], "2" if longer[-3] == "1" else "1", "tie", ""]
    with table.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, "label": label} for row, label in zip(rows, labels, strict=True))
    with running(served(prefers_longer)) as endpoint:
        result = judged(endpoint, files, profile, "--import", table, "--seed", "3")
        wrong = judged(endpoint, files, profile, "--import", table, "--seed", "4")
    assert "on 25 labelled pairs" in result.output
    assert re.search(r"The judge and people agree on 92.0 % \[.*\] of 25 pairs, kappa 0\.\d\d \[", result.output)
    assert wrong.exit_code == 2
    assert "the --seed that the pairs were exported with" in wrong.output


def test_agreement_with_scores_goes_by_question_and_text(
    files: tuple[Path, Path], profile: Path, tmp_path: Path
) -> None:
    scores = tmp_path / "scores.jsonl"
    write_jsonl(scores, (
        {"id": str(n), "question": f"question {n}?", "text": "x" * size, "helpful": value, "harmless": 0}
        for n in range(10) for size, value in ((30, 2.0 if n < 9 else 0.0), (20, 1.0))
    ))  # fmt: skip
    with running(served(prefers_longer)) as endpoint:
        result = judged(endpoint, files, profile, "--scores", scores)
    assert "The judge and the scores (helpful) agree on 90.0 %" in result.output
    assert "of 10 pairs" in result.output


def test_outputs_of_alpaca_eval_are_read(tmp_path: Path, profile: Path) -> None:
    paths = (tmp_path / "one.json", tmp_path / "two.json")
    for path, size in zip(paths, (30, 20), strict=True):
        rows = [{"dataset": "d", "instruction": f"Do {n}", "output": "y" * size, "generator": f"model-{size}"}
                for n in range(8)]  # fmt: skip
        path.write_text(json.dumps(rows))
    with running(served(prefers_longer)) as endpoint:
        result = judged(endpoint, paths, profile, "--axis", "helpful", "--axis", "harmless")
    assert "helpful: model-30 against model-20: omega +100.0 %" in result.output
    assert "harmless: model-30 against model-20: omega +100.0 %" in result.output


def test_an_estimate_asks_nothing(files: tuple[Path, Path], profile: Path) -> None:
    with running(served(prefers_longer)) as endpoint:
        result = judged(endpoint, files, profile, "--estimate", "--limit", "5", *PRICE)
        assert not endpoint.requests
    assert re.search(r"(8|10) requests, 0 kept from before", result.output)
    assert ", costs " in result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--judge", "gpt-4"], "is no served model"),
        ([], "names no model"),
        (["--judge", "http://h/v1#m", "-o", "mine.txt"], "exists already and is no comparison"),
        (["--judge", "http://h/v1#m", "--field-b", "correction"], 'has no field "correction"'),
    ],
)
def test_what_cannot_be_is_told(
    arguments: list[str], told: str, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.txt").write_text("mine")
    result = CliRunner().invoke(main, ["judge", *map(str, files), *arguments])
    assert result.exit_code == 2
    assert told in result.output
    assert Path("mine.txt").read_text() == "mine"
