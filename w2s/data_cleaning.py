"""`w2s data dedup` and `w2s data leakage`: what is said twice, and what gives an evaluation away."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from aligner_core.data_sources import data_source, read_source, size_of, source_file
from aligner_core.display import open_display, showing
from aligner_core.errors import UserError
from aligner_core.progress import State
from aligner_core.recipe import Leakage
from aligner_core.records import Question, shortened
from aligner_core.sifting import Sieve, sift
from w2s.data_commands import columns_option, renames
from w2s.data_steps import output_problems

GATE = Leakage()
SHARE = click.FloatRange(0, 1, min_open=True)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """SOURCE, -o and --columns."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table."),
        columns_option,
        click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False),
                     help="Where the kept records go (.jsonl); what falls goes to NAME.dropped.jsonl beside it."),
        click.argument("source"),
    ):  # fmt: skip
        command = decorate(command)
    return command


@click.command()
@output_options
@click.option(
    "--threshold",
    type=SHARE,
    default=0.8,
    show_default=True,
    help="Least Jaccard similarity of word 3-grams that makes a near-duplicate.",
)
@click.option("--by", type=click.Choice(["question", "record"]), default="question", show_default=True,
              help="Compare questions (with earlier turns), or whole records.")  # fmt: skip
def dedup(source: str, output: Path, columns: tuple[str, ...], as_json: bool, threshold: float, by: Any) -> None:
    """Leave out records that repeat an earlier one, exactly or nearly.

    The first of its kind is kept. Every dropped record is written with its reason and partner. The same command
    continues after an interruption and ends with the same files.
    """
    from aligner_core.near_duplicates import DuplicateSieve

    _sift("dedup", source, output, columns, as_json, DuplicateSieve(threshold, by))


@click.command()
@output_options
@click.option("--against", multiple=True, required=True, metavar="EVAL", help="Evaluation questions. May be repeated.")
@click.option(
    "--jaccard",
    type=SHARE,
    default=GATE.jaccard,
    show_default=True,
    help="Least Jaccard similarity of word 3-grams that makes two questions near-duplicates.",
)
@click.option("--overlap", type=SHARE, default=GATE.overlap, show_default=True,
              help="Least share of an evaluation question's word 8-grams that must not stand in another.")  # fmt: skip
def leakage(
    source: str,
    output: Path,
    columns: tuple[str, ...],
    as_json: bool,
    against: tuple[str, ...],
    jaccard: float,
    overlap: float,
) -> None:
    """Leave out training records that give an evaluation question away: the same, nearly the same, or quoted.

    Every dropped record is written with its reason and partner. The same command continues after an interruption.
    """
    from aligner_core.leakage import LeakageSieve
    from aligner_core.mixing import mix

    readings = [read_source(data_source(name, "--against").location, Question, renames(columns)) for name in against]
    problems = [problem for reading in readings for problem in shortened(reading.problems, reading.source)]
    if problems:
        raise UserError(problems)
    evaluation = mix([reading.records for reading in readings], [None] * len(readings))
    _sift("leakage", source, output, columns, as_json, LeakageSieve(evaluation, jaccard, overlap))


def _sift(step: str, source: str, output: Path, columns: tuple[str, ...], as_json: bool, sieve: Sieve) -> None:
    """Run a sieve over a source, with progress, and tell what became of the records."""
    from aligner_core.data_flow import write_flow
    from w2s.data_tables import outcome_text

    if problems := output_problems(output, source):
        raise UserError(problems)
    found = data_source(source, "SOURCE")
    path, names = source_file(found.location), renames(columns)
    run = partial(sift, path, found.identity, names, sieve, output)
    size = size_of(str(path), names)
    counts = run(lambda done: None) if as_json else _with_progress(step, size.records if size else 0, run)
    counts = {"step": step, **counts}
    steps = write_flow(output, path, counts)
    if as_json:
        click.echo(json.dumps(counts))
        return
    click.echo(outcome_text(steps, output))


def _with_progress(step: str, total: int, run: Callable[[Callable[[int], None]], dict[str, Any]]) -> dict[str, Any]:
    """A bar in a terminal, plain lines in a log."""
    display = open_display()
    with showing(display, step):
        return run(lambda done: display.show(State("comparing", done, total, "records")))
