"""`w2s correct`, and recipes with another corrector than the trained Aligner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from aligner_core.errors import UserError
from aligner_core.files import read_json, read_jsonl, write_jsonl
from tests.aligner_core.endpoint import FAULTS, Endpoint, running
from tests.command_line import w2s
from tests.w2s.test_smoke import begun
from w2s.correct import read_corrector, summary

KEY = "sk-never-to-be-seen-0123456789"


def test_standard_input_becomes_standard_output_and_nothing_else_is_there() -> None:
    rows = [
        {"question": "Why?", "answer": "So.", "note": 1},
        {"id": "b", "question": "Wo?", "answer": "Dä\u2028.", "finished": False},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    result = w2s("correct", "--corrector", "identity", "--profile", "smoke", text=text)
    assert result.returncode == 0, result.stderr
    written = [json.loads(line) for line in result.stdout.rstrip("\n").split("\n")]
    assert [row["correction"] for row in written] == ["So.", "Dä\u2028."]
    assert [row["corrector"] for row in written] == ["identity", "identity"]
    assert written[0]["note"] == 1
    assert [row["finished"] for row in written] == [True, False], "a copy of a cut answer is cut"
    assert "2 corrections, 100.0 % copies, edit ratio 0.00" in result.stderr


def test_rows_that_a_hostile_endpoint_failed_are_listed_and_alone_asked_again_without_a_key_anywhere(
    tmp_path: Path,
) -> None:
    source, target, profile = tmp_path / "qa.jsonl", tmp_path / "qac.jsonl", tmp_path / "profile.yaml"
    write_jsonl(source, ({"id": str(n), "question": f"question {n}", "answer": f"answer {n}"} for n in range(60)))
    with running(Endpoint(dict.fromkeys(FAULTS, 0.1))) as endpoint:
        host = endpoint.url.removeprefix("http://").removesuffix("/v1")
        profile.write_text(
            Path("recipes/profiles/smoke.yaml").read_text()
            + f"endpoints: {{retries: 0, timeout_seconds: 0.5, key_variables: {{'{host}': TEST_KEY}}}}\n"
        )
        arguments = ["correct", "--corrector", f"self_critique:{endpoint.url}#m", "--input", source,
                     "--output", target, "--profile", profile]  # fmt: skip
        first = w2s(*arguments, environment={"TEST_KEY": KEY})
        assert first.returncode == 2, first.stderr
        done, failed = read_jsonl(target), read_jsonl(Path(f"{target}.failed.jsonl"))
        assert {row["id"] for row in done + failed} == {str(number) for number in range(60)}
        assert len(done) + len(failed) == 60
        assert f"{len(failed)} of 60 rows failed" in first.stderr
        assert f"{len(failed)} failed" in first.stderr
        asked = len(endpoint.requests)
        endpoint.faults = {}
        second = w2s(*arguments, environment={"TEST_KEY": KEY})
        assert second.returncode == 0, second.stderr
        assert len(endpoint.requests) - asked <= 2 * len(failed)
        third = w2s(*arguments, environment={"TEST_KEY": KEY})
        assert "correct kept" in third.stderr
    assert endpoint.keys == {f"Bearer {KEY}"}
    assert [row["id"] for row in read_jsonl(target)] == [str(number) for number in range(60)]
    assert not Path(f"{target}.failed.jsonl").exists()
    written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 5
    assert not any(KEY.encode() in content for content in written)
    assert KEY not in first.stdout + first.stderr + second.stdout + second.stderr


def test_a_file_that_is_there_is_not_written_over(tmp_path: Path) -> None:
    target = tmp_path / "mine.jsonl"
    target.write_text("mine")
    result = w2s("correct", "--corrector", "identity", "--input", "embedded:corrections", "--output", target)
    assert result.returncode == 2
    assert "exists already" in result.stderr
    assert target.read_text() == "mine"


def test_every_model_that_is_missing_is_told_at_once() -> None:
    result = w2s("correct", "--corrector", "stack:[cai, gate:[aligner]]", "--input", "no.jsonl")
    assert result.returncode == 2
    missing = ("0: names no model", "1.of: names no model", "1.scorer: names no scorer", "1.calibration: names no cal")
    for expected in ("no data", *(f"corrector.{need}" for need in missing)):
        assert expected in result.stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "does not match any of the expected tags"),
        ("stack:[identity", "brackets do not pair up"),
        ("cai:nowhere", "unknown model"),
        ("{kind: gate, of: identity, by: likelihood}", "put an aligner behind the gate"),
        ("{kind: best_of, n: 1}", "greater than or equal to 2"),
    ],
)
def test_a_corrector_that_cannot_be_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_corrector(text)


def test_the_summary_of_nothing_is_no_division_by_zero() -> None:
    assert summary([], 3, {}) == "0 corrections, 0 unfinished, 3 failed, 0 tokens"


def test_a_wrong_corrector_in_a_recipe_is_told_with_its_keys() -> None:
    value = "corrector={kind: stack, of: [identity, {kind: gate, trehshold: 1, catch: 2}]}"
    result = w2s("plan", "quickstart", "--set", value)
    assert result.returncode == 2
    assert "corrector.stack.of.1.gate.trehshold: unknown key" in result.stderr
    assert 'did you mean "threshold"?' in result.stderr
    assert "corrector.stack.of.1.gate.catch: Input should be less than or equal to 1 (got 2)" in result.stderr
    assert "expected tags: 'aligner', 'cai'" in w2s("plan", "quickstart", "--set", "corrector=nonsense").stderr


STACK = """corrector={kind: stack, of: [{kind: best_of, n: 2}, {kind: gate, by: likelihood}, {kind: gate, of: cai},
refuse]}"""


@pytest.mark.slow
def test_a_recipe_can_stack_correctors_whose_scorer_sees_w_alone(smoke_run: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke_run, tmp_path / "quickstart")
    compared = "compared={three: 'stack:[aligner, aligner, aligner]', cai: cai}"
    result = w2s("run", "quickstart", "--profile", "smoke", "--runs", tmp_path, "--set", STACK, "--set", compared)
    assert result.returncode == 0, result.stderr + result.stdout
    expected = {"selector", "aligned-eval-s42", "corrections-s42", "weak-labels-s42", "student-s42",
                "student-eval-s42", "scores-s42", "by-three-eval-s42", "by-cai-eval-s42"}  # fmt: skip
    assert set(begun(result.stdout)) == expected
    stages = tmp_path / "quickstart" / "stages"
    selector = read_json(next(stages.glob("selector-*")) / "manifest.json")
    scorer = read_json(next(stages.glob("scorer-*")) / "manifest.json")
    assert set(selector["inputs"]) == {"model", "records_w"}
    assert selector["settings"]["seed"] != scorer["settings"]["seed"]
    report = read_json(tmp_path / "quickstart" / "report.json")
    assert {("by_three", "upstream"), ("by_cai", "upstream")} <= {
        (row["a"], row["b"]) for row in report["comparisons"]
    }
    newest = max(stages.glob("corrections-s42-*"), key=lambda path: path.stat().st_mtime)
    facts = read_json(newest / "manifest.json")["facts"]
    assert {"copy_rate", "edit_ratio", "length_ratio", "generated_tokens", "tokens_per_second"} <= set(facts)
    assert [gate["by"] for gate in facts["gates"]] == ["likelihood", "cost"]


def test_a_served_corrector_is_planned_without_memory_and_a_served_upstream_is_refused() -> None:
    model = "http://host:8000/v1#model"
    result = w2s("plan", "llama70b_w2s", "--profile", "h100x8x8", "--set", f"corrector=cai:{model}")
    assert result.returncode == 0, result.stderr
    line = next(line for line in result.stdout.splitlines() if line.startswith("corrections-s42"))
    assert float(line.split()[4]) <= 1.0
    refused = w2s("plan", "quickstart", "--set", f"roles.upstream={model}")
    assert refused.returncode == 2
    assert "roles.upstream: is behind an endpoint" in refused.stderr
