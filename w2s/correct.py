"""`w2s correct`: a corrector over a file of answers, without a recipe.

It is a run of one stage in a folder beside the output, so a killed one continues with the same command.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from aligner_core.command import option_problems, profile_option
from aligner_core.configuration import load_profile
from aligner_core.correctors.parts import Slot, bare, describe, slots
from aligner_core.data_sources import data_source
from aligner_core.edits import edit_facts
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, read_jsonl
from aligner_core.generation import FAILED
from aligner_core.profile import Profile
from aligner_core.recipe import Corrector, Generation, Role
from aligner_core.stages import Source, Stage
from aligner_core.tasks.generate import CORRECTIONS, CorrectAnswers
from w2s.file_run import STANDARD, hand_over, input_file, rows_in, run_each, run_folder, write_list
from w2s.pipeline import model_source


@click.command()
@click.option("--corrector", required=True, metavar="WHAT",
              help="aligner:PATH, cai:MODEL, self_refine:MODEL, self_critique:MODEL, refuse:SCORER, identity, "
              "stack:[WHAT, WHAT], or a YAML mapping with all settings of a kind (docs/correctors.md).")  # fmt: skip
@click.option("--input", "source", default=STANDARD, show_default=True, metavar="FILE",
              help="Rows with question and answer, as JSON Lines or a JSON list; - is standard input.")  # fmt: skip
@click.option("--output", "target", default=STANDARD, show_default=True, metavar="FILE",
              help="The rows with their corrections, as JSON Lines. FILE.run beside it keeps what a kill would "
              "lose; with - (standard output) nothing is kept.")  # fmt: skip
@profile_option
@click.option("--generation", "preset", type=click.Choice(["greedy", "published"]), default="greedy",
              show_default=True, help="published samples as the paper did (T 0.3, top-k 10, top-p 0.95, frequency "
              "penalty 1.2): its penalty punishes copying.")  # fmt: skip
@click.option("--max-new-tokens", default=2048, show_default=True, help="Longest correction in tokens.")
@click.option("--seed", default=0, show_default=True, help="Seed of sampling.")
def correct(
    corrector: str, source: str, target: str, profile: str, preset: str, max_new_tokens: int, seed: int
) -> None:
    """Correct the answers in a file. The same command continues an interrupted run."""
    place = load_profile(profile)
    settings = read_corrector(corrector)
    generation = Generation.model_validate({"preset": preset, "max_new_tokens": max_new_tokens})
    with run_folder(target) as run:
        stage = correction_stage(settings, input_file(source, run), place, generation, seed)
        outcome = run_each(run, [stage], place)
        _deliver(outcome.folders[0], target)
        outcome.raise_failures()


def read_corrector(text: str) -> Corrector:
    """The settings in a line.

    Raises:
        UserError: with every problem in it.
    """
    adapter: TypeAdapter[Corrector] = TypeAdapter(Corrector)
    try:
        return adapter.validate_python(text)
    except ValidationError as error:
        raise UserError(option_problems(error, "see docs/correctors.md", "corrector")) from None


def correction_stage(settings: Corrector, answers: str, profile: Profile, generation: Generation, seed: int) -> Stage:
    """The one stage of the run.

    Raises:
        UserError: with every model and file that is not named or not there.
    """
    inputs = slot_sources([Slot("answers", "records", answers), *slots(settings)])
    task = CorrectAnswers(
        corrector=bare(settings), name=describe(settings), generation=generation, precision=profile.precision,
        engine=profile.generation.engine, seed=seed,
    )  # fmt: skip
    return Stage("correct", task, inputs)


def slot_sources(needs: Iterable[Slot]) -> dict[str, Source]:
    """What each slot holds, by its name.

    Raises:
        UserError: with every model and file that is not named or not there.
    """
    found: dict[str, Source] = {}
    problems: list[Problem] = []
    for slot in needs:
        try:
            found[slot.name] = _source(slot)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)
    return found


def _source(slot: Slot) -> Source:
    if isinstance(slot.given, Role):
        return model_source(slot.given)
    if isinstance(slot.given, str):
        return data_source(slot.given, slot.name)
    key = {"records": "calibration", "scorer": "scorer"}.get(slot.what, "model")
    raise UserError(Problem(slot.name, f"names no {key}", f"outside a recipe, say which {key} it uses"))


def _deliver(folder: Path, target: str) -> None:
    """Hand over the corrections that there are, list the rows that failed, and tell how much was changed."""
    if not (folder / CORRECTIONS).is_file():
        return
    rows, failed = read_jsonl(folder / CORRECTIONS), rows_in(folder / FAILED)
    hand_over(folder / CORRECTIONS, target)
    if target != STANDARD:
        write_list(Path(target), ".failed.jsonl", failed)
    manifest = folder / "manifest.json"
    click.echo(summary(rows, len(failed), read_json(manifest)["facts"] if manifest.is_file() else {}), err=True)


def summary(rows: list[dict[str, Any]], failed: int, facts: Mapping[str, Any]) -> str:
    """One line on what the corrector did."""
    edits = edit_facts([row["answer"] for row in rows], [row["correction"] for row in rows])
    parts = [f"{len(rows):,} corrections"]
    if edits:
        parts += [f"{100 * edits['copy_rate']:.1f} % copies", f"edit ratio {edits['edit_ratio']:.2f}",
                  f"length ratio {edits['length_ratio']:.2f}"]  # fmt: skip
    parts += [f"{sum(not row['finished'] for row in rows):,} unfinished", f"{failed:,} failed"]
    parts.append(f"{sum(row['generated_tokens'] for row in rows):,} tokens")
    if "tokens_per_second" in facts:
        parts.append(f"{facts['tokens_per_second']:,.0f} tokens/s")
    return ", ".join(parts)
