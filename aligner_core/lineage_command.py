"""`lineage` of both command lines: where the models of a run came from, and whether all of it is as it was written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click

from aligner_core.command import Build, experiment_options, prepare
from aligner_core.errors import UserError
from aligner_core.lineage import as_json, as_table, check, data_origins, model_origins
from aligner_core.recipe import Recipe


def add_lineage_command(group: click.Group, build: Build, kind: type[Recipe]) -> None:
    """Give a command line its `lineage` for recipes of one kind."""

    @group.command()
    @experiment_options
    @click.option("--check", "checks", is_flag=True, help="Read every byte of every finished stage and compare it.")
    @click.option("--json", "as_program", is_flag=True, help="Print everything as JSON.")
    @click.option("--picture", type=click.Path(path_type=Path), help="Draw it, into a .svg or .png file.")
    def lineage(
        recipe: str,
        profile: str,
        overrides: tuple[str, ...],
        runs: Path,
        checks: bool,
        as_program: bool,
        picture: Path | None,
    ) -> None:
        """Show which model came from which data, questions, corrector and seed, back to the first one.

        With --check, every finished stage must still hold what it wrote: outputs, manifest, identity and inputs. What
        does not is listed, and the exit code is 2.
        """
        experiment = prepare(build, kind, recipe, profile, overrides, runs)
        origins = model_origins(experiment.stages, experiment.run)
        everything = json.dumps(as_json(experiment.run, experiment.stages, origins), indent=2, ensure_ascii=False)
        click.echo(everything if as_program else as_table(origins, data_origins(experiment.stages)))
        if picture:
            _draw(everything, picture)
        if checks:
            problems = check(experiment.run)
            if problems:
                raise UserError(problems)
            click.echo("every finished stage is as it was written", err=as_program)


def _draw(everything: str, picture: Path) -> None:
    # `analysis` is started as a process of its own, as for the report: nothing imports it.
    command = [sys.executable, "-m", "analysis.lineage", str(picture)]
    code = subprocess.run(command, input=everything, text=True).returncode
    if code:
        sys.exit(code)
