"""`w2s data annotate`: corrections of answers, by a strong model or by people, so that they become Q-A-C records."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from aligner_core.command import profile_option
from aligner_core.configuration import load_profile
from aligner_core.data_sources import data_source
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, write_jsonl
from aligner_core.generation import FAILED
from aligner_core.model_ids import unknown_model_reason
from aligner_core.profile import Profile
from aligner_core.recipe import Generation, Role
from aligner_core.records import Answer
from aligner_core.stage_process import FACTS
from aligner_core.stages import Stage
from aligner_core.tasks.generate import CORRECTIONS
from w2s.annotation_sheet import annotated, export_sheet, import_sheet
from w2s.annotation_task import DROPPED, STEP, AnnotateAnswers
from w2s.data_commands import columns_option, renames
from w2s.data_steps import deliver, output_problems, source_records
from w2s.file_run import rows_in, run_each, run_folder, write_list
from w2s.pipeline import model_source

Price = tuple[float, float]


@click.command()
@click.argument("answers")
@click.option("--annotator", metavar="MODEL",
              help="A strong model: hub id, folder, embedded:NAME or http://HOST/v1#NAME.")  # fmt: skip
@click.option("-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False),
              help="The Q-A-C records (.jsonl). What falls goes to NAME.dropped.jsonl beside it; FILE.run keeps what "
              "a kill would lose.")  # fmt: skip
@click.option("--max-new-tokens", type=click.IntRange(1), default=2048, show_default=True,
              help="Longest critique and longest edit in tokens.")  # fmt: skip
@click.option("--longest", type=click.FloatRange(1), default=2.0, show_default=True,
              help="Drop edits of more than 100 words that have so many times the words of the answer.")  # fmt: skip
@click.option("--price", nargs=2, type=float, metavar="IN OUT", help="Of a million tokens, to tell what it cost.")
@click.option("--export", "exported", type=click.Path(path_type=Path, dir_okay=False), metavar="CSV",
              help="Write a sheet for people to fill in: of stage 1, or with --import of stage 2.")  # fmt: skip
@click.option("--import", "imported", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="CSV",
              help="A sheet that was filled in.")  # fmt: skip
@profile_option
@columns_option
def annotate(
    answers: str, annotator: str | None, target: Path | None, max_new_tokens: int, longest: float,
    price: Price | None, exported: Path | None, imported: Path | None, profile: str, columns: tuple[str, ...],
) -> None:  # fmt: skip
    """Correct the ANSWERS of a file, embedded:NAME or hub:ID under written rules.

    By a model (--annotator, --output): it criticises each answer by a list of rules and edits what breaks one; what is
    good already is its own correction. The same command continues an interrupted run.

    By people: --export SHEET1; they fill in safe_answer; --import SHEET1 --export SHEET2; they fill in correction;
    --import SHEET2 --output FILE.
    """
    problems = _option_problems(annotator, target, exported, imported)
    if target:
        problems += output_problems(target, answers)
    if problems:
        raise UserError(problems)
    path, records = source_records(answers, Answer, renames(columns), "ANSWERS")
    if annotator and target:
        generation = Generation(max_new_tokens=max_new_tokens)
        _by_model(path, records, annotator, target, generation, longest, load_profile(profile), price)
        return
    sheet = import_sheet(imported, records) if imported else None
    if exported:
        if sheet and sheet.corrections is not None:
            raise UserError(Problem("--import", "is a sheet of stage 2", "give it an --output, and no --export"))
        count = export_sheet(exported, records, sheet.safe_answers if sheet else None)
        column = "correction" if sheet else "safe_answer"
        click.echo(f"{exported}: {count:,} of {len(records):,} answers; fill in the column {column}")
    if sheet and target:
        deliver(target, path, STEP, len(records), *annotated(records, sheet))


def _option_problems(
    annotator: str | None, target: Path | None, exported: Path | None, imported: Path | None
) -> list[Problem]:
    """Whether the options say one way to annotate."""
    if annotator and (exported or imported):
        return [Problem("--annotator", "is a model, and a sheet is for people", "name one of the two")]
    if annotator and not target:
        return [Problem("--output", "is missing", "name the file of Q-A-C records")]
    if annotator and (reason := unknown_model_reason(annotator)):
        return [Problem("--annotator", reason)]
    if exported and target:
        return [Problem("--output", "is made of a sheet of stage 2, which is to be filled in", "leave it out")]
    if not annotator and not exported and not (imported and target):
        fix = "write --annotator MODEL --output FILE, --export SHEET, or --import SHEET --output FILE"
        return [Problem("w2s data annotate", "names nobody who annotates", fix)]
    return []


def _by_model(
    path: Path, records: list[Answer], annotator: str, target: Path, generation: Generation, longest: float,
    profile: Profile, price: Price | None,
) -> None:  # fmt: skip
    with run_folder(str(target)) as run:
        write_jsonl(run / "answers.jsonl", (record.row() for record in records))
        task = AnnotateAnswers(
            annotator=annotator, generation=generation, longest=longest, precision=profile.precision,
            engine=profile.generation.engine,
        )  # fmt: skip
        inputs = {"answers": data_source(str(run / "answers.jsonl"), "ANSWERS"),
                  "model": model_source(Role(model=annotator))}  # fmt: skip
        outcome = run_each(run, [Stage(STEP, task, inputs)], profile)
    folder = outcome.folders[0]
    problems: list[Problem] = []
    write_list(target, ".failed.jsonl", rows_in(folder / FAILED))
    if (folder / CORRECTIONS).is_file():
        kept, dropped = rows_in(folder / CORRECTIONS), rows_in(folder / DROPPED)
        facts = folder / FACTS
        click.echo(summary(kept, read_json(facts) if facts.is_file() else {}, price))
        problems = deliver(target, path, STEP, len(records), kept, dropped)
    outcome.raise_failures(problems)


def summary(kept: list[dict[str, Any]], facts: Mapping[str, Any], price: Price | None) -> str:
    """One line on what the annotator did, and what it took."""
    from aligner_core.judging.comparison import tokens_line

    good = sum(not row["broken_rules"] for row in kept)
    tokens = tokens_line(facts.get("prompt_tokens", 0), facts.get("generated_tokens", 0), price)
    return f"{len(kept):,} corrections, {good:,} of answers that were good already; {tokens}"
