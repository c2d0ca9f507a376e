"""The command line `w2s`. Imports nothing heavy: help, plans and checks answer at once."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import click
import yaml

from aligner_core.command import ErrorGroup, add_experiment_commands
from aligner_core.configuration import find_recipe, read_yaml, shipped_recipes
from aligner_core.errors import Problem, UserError
from aligner_core.files import write_text
from aligner_core.lineage_command import add_lineage_command
from aligner_core.recipe import Recipe
from w2s.correct import correct
from w2s.data_annotation import annotate
from w2s.data_cleaning import dedup, leakage
from w2s.data_commands import data
from w2s.data_sampling import sample
from w2s.judge import judge
from w2s.pipeline import build
from w2s.score import score
from w2s.serve import serve


@click.group(cls=ErrorGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Weak-to-strong alignment by correction: plan, run and compare experiments."""


add_experiment_commands(main, build, Recipe)
add_lineage_command(main, build, Recipe)
main.add_command(correct)
main.add_command(serve)
main.add_command(data)
main.add_command(judge)
main.add_command(score)
data.add_command(dedup)
data.add_command(leakage)
data.add_command(sample)
data.add_command(annotate)


@main.command()
@click.argument("runs", nargs=-1, type=click.Path(path_type=Path), metavar="RUN RUN ...")
def compare(runs: tuple[Path, ...]) -> None:
    """Put finished runs side by side: their recipes, their scores, and differences paired by question."""
    if len(runs) < 2:
        raise UserError(Problem("w2s compare", "puts two runs or more side by side", "name their folders under runs/"))
    # `analysis` is started as a process of its own, as for the report: nothing imports it.
    sys.exit(subprocess.run([sys.executable, "-m", "analysis.compare", *map(str, runs)]).returncode)


@main.group()
def recipes() -> None:
    """The recipes that come with the project."""


@recipes.command("list")
def list_recipes() -> None:
    """List the shipped recipes."""
    for path in shipped_recipes():
        click.echo(f"{path.stem:<22}{read_yaml(path).get('description', '')}")


@recipes.command("copy")
@click.argument("name")
@click.argument("target", type=click.Path(path_type=Path))
def copy_recipe(name: str, target: Path) -> None:
    """Copy a shipped recipe to TARGET, to make it your own: its name, and so its run's folder, is the file's."""
    source = find_recipe(name)
    if target.is_dir():
        target = target / source.name
    if target.exists():
        raise UserError(Problem(str(target), "exists already", "name another file"))
    if not re.fullmatch(Recipe.model_json_schema()["properties"]["name"]["pattern"], target.stem):
        fix = "name a file of letters, digits, dots, - and _, that begins with a letter or digit"
        raise UserError(Problem(str(target), f'"{target.stem}" cannot be the name of a recipe', fix))
    write_text(target, _renamed(source, target.stem))
    click.echo(f"{target}: edit it, then: w2s plan {target}")


def _renamed(recipe: Path, name: str) -> str:
    """The recipe's text under another name, its schema named so that an editor finds it from anywhere."""
    text, line = recipe.read_text(encoding="utf-8"), yaml.safe_dump({"name": name}).strip()
    text = re.sub(r"(?<=\$schema=)\S+", lambda found: str((recipe.parent / found[0]).resolve()), text, count=1)
    return re.sub(r"^name:[ \t]*\S+", lambda _: line, text, count=1, flags=re.MULTILINE)
