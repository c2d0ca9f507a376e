"""`w2s score` on files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from aligner_core.files import read_jsonl, write_jsonl
from tests.aligner_core.test_score_models import beaver, classifier
from tests.command_line import command, w2s

ROWS = [
    {"id": "a", "question": "Why?", "answer": "So.", "correction": "For a reason.", "corrector": "ours"},
    {
        "id": "b",
        "question": "How?",
        "answer": "No.",
        "correction": "I'm sorry, but I can't help.",
        "corrector": "ours",
    },
]


@pytest.mark.slow
def test_two_models_and_the_refusals_make_one_file_of_scores(tmp_path: Path) -> None:
    reward, cost, source, target = (tmp_path / name for name in ("reward", "cost", "qac.jsonl", "scores.jsonl"))
    classifier(reward)
    beaver(cost, 0.5)
    write_jsonl(source, ROWS)
    models = ["--scorer", reward, "--as", "helpful", "--scorer", cost, "--as", "cost"]
    arguments = ["score", source, "-o", target, *models, "--refusals", "--profile", "smoke"]
    result = w2s(*arguments)
    assert result.returncode == 0, result.stderr
    rows = read_jsonl(target)
    assert [list(row)[:5] for row in rows] == [["id", "system", "helpful", "harmless", "scorer"]] * 2
    assert [(row["id"], row["system"], row["text"], row["refusal"]) for row in rows] == [
        ("a", "ours", "For a reason.", False),
        ("b", "ours", "I'm sorry, but I can't help.", True),
    ]
    assert "ours: 2 answers, helpful " in result.stderr
    assert "50.0 % [9.5, 90.5] refuse" in result.stderr
    assert "score kept" in w2s(*arguments).stderr
    scored = [w2s("score", source, "--field", field, "--scorer", reward, "--as", "helpful", "--profile", "smoke")
              for field in ("answer", "correction")]  # fmt: skip
    answers, corrections = ([json.loads(line) for line in one.stdout.splitlines()] for one in scored)
    assert [row["helpful"] for row in corrections] == [row["helpful"] for row in rows]
    assert all(one["helpful"] != two["helpful"] for one, two in zip(answers, corrections, strict=True))


@pytest.mark.slow
def test_a_killed_scoring_continues_and_ends_in_the_same_bytes(tmp_path: Path) -> None:
    model, source = tmp_path / "reward", tmp_path / "qa.jsonl"
    classifier(model)
    write_jsonl(source, ({"question": f"Question {n}?", "answer": f"Answer {n * n}. " * 8} for n in range(2000)))
    whole, target = tmp_path / "whole.jsonl", tmp_path / "scores.jsonl"
    arguments = ["score", source, "--scorer", model, "--as", "helpful", "--profile", "smoke", "-o"]
    assert w2s(*arguments, whole).returncode == 0
    process = subprocess.Popen(command("w2s.cli", *arguments, target), start_new_session=True)
    deadline = time.monotonic() + 60
    while not (shards := list(Path(f"{target}.run").rglob("rows-*.jsonl"))) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 0 < len(shards) < 8
    assert not target.exists()
    mark = 1234.5  # in a kept shard, to see that it is used
    rows = read_jsonl(shards[0])
    write_jsonl(shards[0], [{**rows[0], "helpful": mark}, *rows[1:]])
    assert w2s(*arguments, target).returncode == 0
    pairs = list(zip(target.read_text().splitlines(), whole.read_text().splitlines(), strict=True))
    assert [json.loads(one)["helpful"] for one, two in pairs if one != two] == [mark]


def test_refusals_need_no_scorer() -> None:
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    result = w2s("score", "--refusals", "--field", "answer", "--system", "mine", "--profile", "smoke", text=text)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["system"], row["refusal"]) for row in rows] == [("mine", False), ("mine", False)]
    assert "helpful" not in rows[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "names no model"),
        (["--scorer", "http://h/v1#m"], "is served"),
        (["--scorer", "nowhere"], "unknown model"),
        (["--scorer", "a/b", "--scorer", "c/d"], "one --as per --scorer"),
        (["--scorer", "a/b", "--as", "cost", "--scorer", "c/d", "--as", "cost"], "two scorers tell cost"),
        (["--refusals", "--as", "cost"], "stands without a scorer"),
    ],
)
def test_what_cannot_be_is_told(arguments: list[str], told: str) -> None:
    result = w2s("score", "embedded:corrections", *arguments)
    assert result.returncode == 2
    assert told in result.stderr
