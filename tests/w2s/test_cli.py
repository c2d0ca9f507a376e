"""The command line answers at once, and says what is wrong in one go."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aligner_core import reference
from aligner_core.configuration import SHIPPED, load, shipped_recipes
from aligner_core.files import read_json, write_text
from aligner_core.profile import Profile
from aligner_core.recipe import Recipe
from aligner_core.stages import stage_folder
from tests.command_line import command, ida, w2s
from w2s.pipeline import build

HEAVY = ("torch", "transformers", "vllm", "datasets", "pandas", "deepspeed")


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "recipes/quickstart.yaml"], ["schema"]])
def test_light_commands_import_nothing_heavy_and_answer_within_a_second(arguments: list[str]) -> None:
    code = (
        "import sys; from w2s.cli import main\n"
        f"try: main({arguments!r})\n"
        f"except SystemExit: pass\nprint([name for name in {HEAVY!r} if name in sys.modules])"
    )
    durations = []
    for _ in range(3):
        started = time.perf_counter()
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        durations.append(time.perf_counter() - started)
        assert result.stdout.splitlines()[-1] == "[]"
    assert min(durations) < 1.0


def test_every_shipped_recipe_plans_on_the_smoke_profile() -> None:
    for recipe in shipped_recipes():
        program = ida if recipe.stem.startswith("ida") else w2s
        result = program("plan", recipe, "--profile", "smoke")
        assert result.returncode == 0, result.stderr
        assert "left to do" in result.stdout


def test_a_plan_names_stages_memory_tokens_operations_disk_and_time() -> None:
    result = w2s("plan", "quickstart")
    for word in ("procs", "GiB/device", "tokens", "FLOPs", "disk GiB", "time", "aligner-s42", "commands"):
        assert word in result.stdout


def test_70b_on_eight_a800_is_refused_with_the_knob_to_turn() -> None:
    result = w2s("plan", "llama70b_w2s", "--profile", "a800x8")
    assert result.returncode == 2
    assert "stage student" in result.stderr
    assert "set zero.offload: true" in result.stderr


def test_70b_on_eight_nodes_of_eight_h100_fits() -> None:
    assert w2s("plan", "llama70b_w2s", "--profile", "h100x8x8").returncode == 0


SIX_ERRORS = """
name: broken
roles:
  upstream: embedded:no-such-model
  aligner: meta-llama/Llama-2-70b-hf
data:
  corrections: embedded:corrections
  evaluation: embedded:eval
  wek_share: 0.5
aligner:
  training: {epochs: many}
student:
  training: {learning_rate: -1}
"""


def test_six_errors_of_a_recipe_come_in_one_go_with_key_paths_and_exit_2(tmp_path: Path) -> None:
    recipe = tmp_path / "broken.yaml"
    recipe.write_text(SIX_ERRORS)
    result = w2s("plan", recipe, "--profile", "h200x1")
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    for expected in (
        "data.wek_share: unknown key",  # unknown key
        'did you mean "weak_share"?',
        "aligner.training.epochs: ",  # wrong type
        "roles.scorer: is required and missing",  # missing role
        "student.training.learning_rate: ",  # impossible value
        'roles.upstream.model: no embedded model "no-such-model"',  # unknown model
        "profile h200x1: stage aligner-s42: needs",  # profile that does not fit
    ):
        assert expected in result.stderr, result.stderr


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"question": "q", "answer": "a", "correction"\n', "data.jsonl:1: is not JSON"),
        pytest.param(
            b'{"question": "q", "answer": "a"}\n',
            'data.jsonl:1: field "correction" is missing',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            b'{"question": "q", "answer": "a", "correction": " "}\n',
            'data.jsonl:1: field "correction": is empty',
            marks=pytest.mark.slow,
        ),
        pytest.param(
            b'{"question": "\xff", "answer": "a", "correction": "c"}\n',
            "data.jsonl:1: is not UTF-8",
            marks=pytest.mark.slow,
        ),
        (
            b'{"id": "1", "question": "q", "answer": "a", "correction": "c"}\n' * 2,
            'data.jsonl:2: id "1" was already used in line 1',
        ),
        (
            b'{"question": "q", "answer": "' + b"x" * 100_000 + b'", "correction": "c"}\n',
            'data.jsonl:1: field "answer" has 100,000 characters',
        ),
    ],
)
def test_malformed_data_names_file_and_line_and_loses_nothing(tmp_path: Path, content: bytes, expected: str) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(content)
    result = w2s("run", "quickstart", "--runs", tmp_path / "runs", "--set", f"data.corrections={data}")
    assert result.returncode == 2
    assert expected in result.stderr, result.stderr
    assert "Traceback" not in result.stderr
    assert data.read_bytes() == content
    assert not list((tmp_path / "runs" / "quickstart" / "stages").glob("data-*[!l]/manifest.json"))


def test_recipes_are_listed_and_copied_but_never_overwritten(tmp_path: Path) -> None:
    assert "quickstart" in w2s("recipes", "list").stdout
    target = tmp_path / "mine.yaml"
    assert w2s("recipes", "copy", "quickstart", target).returncode == 0
    copied = target.read_text()
    assert w2s("recipes", "copy", "baselines", target).returncode == 2
    assert target.read_text() == copied


def test_a_copy_carries_the_name_of_its_file_and_the_schema_where_it_lies(tmp_path: Path) -> None:
    shipped = (SHIPPED / "quickstart.yaml").read_text().splitlines()
    schema = f"# yaml-language-server: $schema={SHIPPED / 'schema' / 'recipe.json'}"
    for stem, line in (("mine", "name: mine"), ("2026", "name: '2026'")):
        target = tmp_path / f"{stem}.yaml"
        assert w2s("recipes", "copy", "quickstart", target).returncode == 0
        pairs = zip(target.read_text().splitlines(), shipped, strict=True)
        assert [now for now, before in pairs if now != before] == [schema, line]
        assert f"run     {Path('runs') / stem}" in w2s("plan", target, "--profile", "smoke").stdout
    refused = w2s("recipes", "copy", "quickstart", tmp_path / "my recipe.yaml")
    assert (refused.returncode, "cannot be the name of a recipe" in refused.stderr) == (2, True)
    assert not (tmp_path / "my recipe.yaml").exists()


def test_one_run_alone_is_compared_with_nothing() -> None:
    result = w2s("compare", "runs/one")
    assert result.returncode == 2
    assert "w2s compare: puts two runs or more side by side" in result.stderr


def test_a_manifest_that_cannot_be_read_is_named_by_status_with_what_to_do(tmp_path: Path) -> None:
    recipe, profile, _ = load(Recipe, "quickstart", "smoke")
    folder = stage_folder(tmp_path / "quickstart", build(recipe, profile)[0])
    write_text(folder / "manifest.json", '{"seconds": ')
    result = w2s("status", "quickstart", "--profile", "smoke", "--runs", tmp_path)
    assert result.returncode == 2
    assert f"{folder / 'manifest.json'}: is no manifest\n    fix: remove {folder}" in result.stderr
    assert "Traceback" not in result.stderr


def test_the_schema_that_recipes_name_is_the_one_the_code_checks() -> None:
    for recipe in shipped_recipes():
        assert recipe.read_text().startswith("# yaml-language-server: $schema=schema/")
    for profile in (SHIPPED / "profiles").glob("*.yaml"):
        assert profile.read_text().startswith("# yaml-language-server: $schema=../schema/profile.json\n")
    assert json.loads(w2s("schema").stdout) == json.loads((SHIPPED / "schema" / "recipe.json").read_text())
    assert json.loads(ida("schema").stdout) == json.loads((SHIPPED / "schema" / "ida.json").read_text())
    assert Profile.model_json_schema() == json.loads((SHIPPED / "schema" / "profile.json").read_text())
    assert reference.markdown() + "\n" == (SHIPPED.parent / "docs" / "recipe.md").read_text()


def test_an_unknown_recipe_or_profile_lists_what_there_is() -> None:
    assert "shipped are: " in w2s("plan", "no-such-recipe").stderr
    result = w2s("plan", "quickstart", "--profile", "no-such-profile")
    assert result.returncode == 2
    assert "h100x8x8" in result.stderr


def test_a_process_that_already_runs_a_folder_keeps_others_out(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = subprocess.Popen(command("w2s.cli", "run", "quickstart", "--profile", "smoke", "--runs", runs))
    while not (runs / "quickstart" / "run.json").is_file():
        time.sleep(0.05)
    second = w2s("run", "quickstart", "--profile", "smoke", "--runs", runs, "--set", "seeds=[7]")
    first.kill()
    first.wait()
    assert second.returncode == 2
    assert "is being run by another process" in second.stderr
    assert read_json(runs / "quickstart" / "recipe.json")["seeds"] == [42]
