"""Whole runs with tiny models: every shipped recipe to its end, and what is run again when something changes."""

from __future__ import annotations

import re
import shutil
from itertools import combinations
from pathlib import Path

import pytest

from aligner_core.configuration import shipped_recipes
from aligner_core.files import read_json, read_jsonl
from tests.command_line import w2s

W2S_RECIPES = [path.stem for path in shipped_recipes() if not path.stem.startswith("ida")]


def begun(output: str) -> list[str]:
    """Names of the stages that a run began, from its plain log."""
    return re.findall(r"^\d+/\d+ (\S+) begins$", output, re.MULTILINE)


# Like others but for sizes or numbers of arms and correctors: quick tests plan them, slow ones run them.
LIKE_OTHERS = {
    "aligner_2b",
    "aligner_7b",
    "aligner_13b",
    "aligner_70b",
    "empathy_aligner",
    "data_scale",
    "warmup_ablation",
    "baselines",
    "main_table",
    "alpaca7b_w2s",
    "alpaca13b_w2s",
    "qwen_w2s",
    "aligner_vs_finetuning",
    "quality_135m",
}


@pytest.mark.parametrize(
    "recipe",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in LIKE_OTHERS else [])
        for name in W2S_RECIPES
        if name != "quickstart"
    ],
)
def test_every_shipped_recipe_runs_to_its_report(recipe: str, tmp_path: Path) -> None:
    result = w2s("run", recipe, "--profile", "smoke", "--runs", tmp_path, "--set", "seeds=[1]")
    assert result.returncode == 0, result.stderr + result.stdout
    assert (tmp_path / recipe / "report.html").is_file()


def test_a_run_leaves_report_figures_manifests_logs_and_metrics(smoke_run: Path) -> None:
    for name in ("report.md", "report.html", "report.json", "recipe.json", "profile.json"):
        assert (smoke_run / name).is_file()
    for figure in ("redistribution", "comparisons", "models"):
        for form in ("png", "svg"):
            assert (smoke_run / "figures" / f"{figure}.{form}").is_file()
    for stage in read_json(smoke_run / "run.json")["stages"]:
        folder = smoke_run / stage["folder"]
        manifest = read_json(folder / "manifest.json")
        assert manifest["identity"] == stage["identity"]
        assert {"versions", "git", "settings", "inputs", "seconds", "facts"} <= set(manifest)
        assert (folder / "log.txt").is_file()
    steps = read_jsonl(next((smoke_run / "stages").glob("student-s42-*")) / "metrics.jsonl")
    assert [row["step"] for row in steps] == [1, 2]
    assert not list((smoke_run / "stages").glob("*.partial"))


def test_the_corrections_manifest_tells_how_they_were_decoded(smoke_run: Path) -> None:
    folder = next((smoke_run / "stages").glob("corrections-s42-*"))
    (decoding,) = read_json(folder / "manifest.json")["facts"]["decoding"]
    rows = read_jsonl(folder / "corrections.jsonl")
    assert decoding["tokens"] >= sum(row["generated_tokens"] for row in rows)
    assert decoding["tokens_per_second"] > 0
    assert 0 <= decoding["copy_rate"] <= 1
    assert decoding["tokens_per_step"] >= 1


def test_records_between_stages_carry_the_declared_keys_in_order(smoke_run: Path) -> None:
    rows = read_jsonl(next((smoke_run / "stages").glob("corrections-s42-*")) / "corrections.jsonl")
    keys = [key for key in rows[0] if key in ("id", "question", "answer", "upstream", "correction", "corrector")]
    assert keys == ["id", "question", "answer", "upstream", "correction", "corrector"]
    scores = read_jsonl(next((smoke_run / "stages").glob("scores-s42-*")) / "scores.jsonl")
    assert {row["system"] for row in scores} == {"upstream", "aligned", "floor", "student", "ceiling"}
    assert all(isinstance(row["helpful"], float) and isinstance(row["harmless"], float) for row in scores)


def test_student_and_aligner_questions_are_disjoint_and_none_is_evaluated(smoke_run: Path) -> None:
    data = next((smoke_run / "stages").glob("data-*"))
    parts = [
        {row["question"] for row in read_jsonl(data / f"{name}.jsonl")} for name in ("weak", "strong", "evaluation")
    ]
    assert all(not first & second for first, second in combinations(parts, 2))


def test_a_second_run_begins_nothing_and_keeps_the_report(smoke_run: Path) -> None:
    before = (smoke_run / "report.json").stat().st_mtime_ns
    result = w2s("run", "quickstart", "--profile", "smoke", "--runs", smoke_run.parent)
    assert result.returncode == 0
    assert begun(result.stdout) == []
    assert (smoke_run / "report.json").stat().st_mtime_ns == before


def test_a_student_setting_reruns_only_what_depends_on_it(smoke_run: Path, tmp_path: Path) -> None:
    shutil.copytree(smoke_run, tmp_path / "quickstart")
    change = "student.training.learning_rate=2e-4"
    result = w2s("run", "quickstart", "--profile", "smoke", "--runs", tmp_path, "--set", change)
    assert result.returncode == 0, result.stderr
    expected = {"student-s42", "student-eval-s42", "ceiling-s42", "ceiling-eval-s42", "scores-s42"}
    assert set(begun(result.stdout)) == expected


def test_processes_micro_batch_zero_and_logging_rerun_nothing(smoke_run: Path, tmp_path: Path) -> None:
    profile = tmp_path / "smoke2.yaml"
    text = (Path("recipes/profiles/smoke.yaml")).read_text().replace("micro_batch: 4", "micro_batch: 2\nwandb: true")
    profile.write_text(text + "processes: 2\nzero: {stage: 2}\n")
    result = w2s("plan", "quickstart", "--profile", profile, "--runs", smoke_run.parent)
    assert "left to do: 0 of 16 stages" in result.stdout, result.stdout + result.stderr


def test_status_tells_what_is_done(smoke_run: Path) -> None:
    result = w2s("status", "quickstart", "--profile", "smoke", "--runs", smoke_run.parent)
    lines = result.stdout.splitlines()
    assert len(lines) == 16
    assert all(line.split()[1] == "done" for line in lines)
