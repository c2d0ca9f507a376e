"""What the command lines `w2s` and `ida` share: plan, run and status of a recipe, and how errors are shown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from pydantic import ValidationError

from aligner_core.configuration import load
from aligner_core.display import Display, open_display, showing
from aligner_core.emit import Kind, Start, emit
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json
from aligner_core.integrity import MANIFEST, no_manifest
from aligner_core.plan import PlannedStage, make_plan, misfits, render
from aligner_core.profile import Profile
from aligner_core.progress import State, read_state
from aligner_core.recipe import Recipe
from aligner_core.runner import POLL_SECONDS, StageError, run_growing
from aligner_core.stages import Stage, is_finished, stage_folder

Build = Callable[[Recipe, Profile], list[Stage]]


class ErrorGroup(click.Group):
    """Shows user errors as messages with exit code 2, and a failed stage with its log and exit code 1."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except UserError as error:
            count = len(error.problems)
            click.echo(f"{count} problem{'s' if count > 1 else ''}:", err=True)
            for problem in error.problems:
                click.echo(f"  {problem}", err=True)
            sys.exit(2)
        except StageError as error:
            click.echo(str(error), err=True)
            sys.exit(1)


@dataclass(frozen=True)
class Experiment:
    """A recipe on a profile, built and checked."""

    recipe: Recipe
    profile: Profile
    stages: list[Stage]
    plan: list[PlannedStage]
    run: Path


def prepare(
    build: Build, kind: type[Recipe], recipe: str, profile: str, overrides: Sequence[str], runs: Path
) -> Experiment:
    """Load, build and check that everything fits.

    Raises:
        UserError: with the problems of recipe, profile, data, models and fit, all at once.
    """
    checked_recipe, checked_profile, problems = load(kind, recipe, profile, overrides)
    folder = runs / checked_recipe.name
    try:
        stages = build(checked_recipe, checked_profile)
    except UserError as error:
        raise UserError(problems + error.problems) from error
    plan = make_plan(folder, stages, checked_profile)
    problems += misfits(plan, checked_profile)
    if problems:
        raise UserError(problems)
    return Experiment(checked_recipe, checked_profile, stages, plan, folder)


Grow = Callable[[Experiment], Iterable[Sequence[Stage]]]


def _at_once(experiment: Experiment) -> list[list[Stage]]:
    return [experiment.stages]


profile_option = click.option(
    "--profile", default="cpu", show_default=True, help="Where to run: a shipped name or a file."
)


def option_problems(error: ValidationError, fix: str, *outer: str) -> list[Problem]:
    """What is wrong with options that were checked together.

    Args:
        outer: the option that all of them stand in; else the first key of each location is the option.
    """
    problems = []
    for detail in error.errors(include_input=False):
        option, *keys = map(str, (*outer, *detail["loc"]))
        where = ".".join(["--" + option.replace("_", "-"), *keys])
        problems.append(Problem(where, detail["msg"].removeprefix("Value error, "), fix))
    return problems


def experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """RECIPE, --profile, --set and --runs."""
    for decorate in (
        click.option("--runs", type=click.Path(path_type=Path), default=Path("runs"), show_default=True,
                     help="Folder of all runs."),
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
                     help="Override any recipe key, e.g. student.training.epochs=2. May be repeated."),
        profile_option,
        click.argument("recipe"),
    ):  # fmt: skip
        command = decorate(command)
    return command


def add_experiment_commands(group: click.Group, build: Build, kind: type[Recipe], grow: Grow = _at_once) -> None:
    """Give a command line its `plan`, `run`, `status` and `schema` for recipes of one kind.

    Args:
        grow: in which parts the stages are run, where later ones depend on what earlier ones gave.
    """

    @group.command()
    @click.option(
        "--emit",
        "launcher",
        type=click.Choice(["slurm", "hostfile"]),
        help="Write the files that start the run on the profile's nodes, and say where.",
    )
    @experiment_options
    def plan(recipe: str, profile: str, overrides: tuple[str, ...], runs: Path, launcher: Kind | None) -> None:
        """Show what a run would do and need, without loading a model."""
        experiment = prepare(build, kind, recipe, profile, overrides, runs)
        click.echo(render(experiment.plan, experiment.profile, _notes(experiment)))
        if launcher:
            program = build.__module__.partition(".")[0]
            seconds = sum(planned.estimate.seconds for planned in experiment.plan if not planned.done)
            start = Start(program, recipe, overrides, runs, experiment.recipe.name, seconds)
            files = emit(launcher, start, experiment.profile, experiment.run / "launch" / launcher)
            click.echo("\n".join(["", "written:", *(f"  {path}" for path in files)]))

    @group.command()
    @experiment_options
    def run(recipe: str, profile: str, overrides: tuple[str, ...], runs: Path) -> None:
        """Run a recipe to its report. The same command continues an interrupted run and keeps what is finished."""
        started = time.monotonic()
        experiment = prepare(build, kind, recipe, profile, overrides, runs)
        display = open_display()
        run_growing(experiment.run, grow(experiment), experiment.profile, display, _origin(experiment))
        write_report(experiment.run, display)
        click.echo(f"report: {experiment.run / 'report.html'}  ({time.monotonic() - started:.0f} s)")

    @group.command()
    def schema() -> None:
        """Print the JSON Schema of these recipes, for editors and other tools."""
        click.echo(json.dumps(kind.model_json_schema(), indent=2))

    @group.command()
    @experiment_options
    def status(recipe: str, profile: str, overrides: tuple[str, ...], runs: Path) -> None:
        """Show which stages are done, under way, or still to do."""
        experiment = prepare(build, kind, recipe, profile, overrides, runs)
        width = max(28, *(len(stage.name) + 1 for stage in experiment.stages))
        lines = [f"{stage.name:<{width}}{_state(experiment.run, stage)}" for stage in experiment.stages]
        click.echo("\n".join(lines))


def _notes(experiment: Experiment) -> list[str]:
    recipe, profile = experiment.recipe, experiment.profile
    return [
        f"recipe  {recipe.name}: {recipe.description}",
        f"profile {profile.name}: {profile.nodes} x {profile.device.count} {profile.device.name}, "
        f"{profile.precision}, "
        f"{profile.processes} training process{'es' if profile.processes > 1 else ''}, ZeRO-{profile.zero.stage}, "
        f"generation by {profile.generation.engine}",
        f"run     {experiment.run}",
    ]


def _state(run: Path, stage: Stage) -> str:
    folder = stage_folder(run, stage)
    if is_finished(run, stage):
        try:
            return f"done     {read_json(folder / MANIFEST)['seconds']:,.0f} s"
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(no_manifest(folder)) from error
    partial = folder.with_name(folder.name + ".partial")
    if not partial.is_dir():
        return "to do"
    state = read_state(partial)
    amount = f" {state.done:,.0f}/{state.total:,.0f} {state.unit}" if state.total else ""
    return f"begun    {state.doing}{amount}"


def _origin(experiment: Experiment) -> dict[str, object]:
    """The recipe and profile as they were resolved, by file; JSON marks them as written by us."""
    recipe, profile = (part.model_dump(mode="json") for part in (experiment.recipe, experiment.profile))
    return {"recipe.json": recipe, "profile.json": profile}


def write_report(run: Path, display: Display) -> None:
    """Write the report, unless it already tells of exactly these stages.

    `analysis` is started as a process of its own: nothing imports it, and it reads finished runs only.
    """
    command = [sys.executable, "-m", "analysis.report", str(run)]
    with showing(display, "report"):
        process = subprocess.Popen(command)
        while process.poll() is None:
            display.show(State("tables and figures"))
            time.sleep(POLL_SECONDS)
        if process.returncode:
            raise StageError(f"the report ended with code {process.returncode}; run it alone: {' '.join(command)}")
