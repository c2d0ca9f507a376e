"""`w2s data`: look at data before a run spends hours on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligner_core.data_sources import data_source, read_source, source_file
from aligner_core.errors import Problem, UserError
from aligner_core.recipe import AlignerSection
from aligner_core.records import Answer, Correction, Pair, Question, Reading, Safety, kind_of, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

KINDS: dict[str, type[Question]] = {
    "question": Question,
    "qa": Answer,
    "qac": Correction,
    "pairs": Pair,
    "safety": Safety,
}
TEMPLATE = AlignerSection().template


@click.group()
def data() -> None:
    """Make, check, describe and clean data sets. SOURCE is a file, embedded:NAME or hub:ID."""


columns_option = click.option(
    "--columns",
    multiple=True,
    metavar="THEIRS=OURS",
    help="Rename a column, e.g. prompt=question. May be repeated.",
)


def source_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """SOURCE..., how to read it, and with which model's tokenizer."""
    for decorate in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."),
        click.option("--template", default=TEMPLATE, show_default=True, help="Correction template."),
        click.option("--model", help="Model whose tokenizer counts tokens: hub id, folder or embedded:NAME."),
        columns_option,
        click.option("--kind", type=click.Choice(sorted(KINDS)),
                     help="What the records are; by default what their fields say."),
        click.argument("sources", nargs=-1, required=True, metavar="SOURCE..."),
    ):  # fmt: skip
        command = decorate(command)
    return command


@data.command()
@source_options
@click.option("--max-length", type=click.IntRange(1), help="Count records of more tokens; needs --model.")
def check(
    sources: tuple[str, ...],
    kind: str | None,
    columns: tuple[str, ...],
    model: str | None,
    template: str,
    max_length: int | None,
    as_json: bool,
) -> None:
    """Look for faults: schema, blank or over-long fields, ids used twice.

    With --model, also lay out every record as the Aligner's training would: the prompt must decode to what was laid
    out, and exactly the correction and one EOS must be supervised. Exits with 2 if there is a fault.
    """
    if max_length and not model:
        raise UserError(Problem("--max-length", "counts tokens", "name a tokenizer with --model"))
    from w2s.data_tables import check_table

    tokenizer = load_tokenizer(model) if model else None
    reports = []
    problems: list[Problem] = []
    for source in sources:
        reading, found = _read(source, kind, columns)
        faults = reading.problems
        report: dict[str, Any] = {
            "source": source, "kind": found, "records": len(reading.records), "rejected": len(reading.rejected),
        }  # fmt: skip
        if tokenizer:
            faults = faults + _check_tokens(report, reading, tokenizer, template, max_length, source)
        report["problems"] = [str(problem) for problem in faults]
        reports.append(report)
        problems += shortened(faults, source)
    click.echo(json.dumps({"sources": reports}) if as_json else check_table(reports))
    if problems:
        raise UserError(problems)


def _check_tokens(
    report: dict[str, Any],
    reading: Reading[Question],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    max_length: int | None,
    source: str,
) -> list[Problem]:
    from aligner_core.data_check import check_tokens
    from aligner_core.data_statistics import distribution
    from aligner_core.templates import correction_template

    found = check_tokens(reading.records, tokenizer, correction_template(template), max_length, source)
    if found.tokens:
        report["tokens"] = distribution(found.tokens)
    report["over_long"] = found.over_long
    return found.problems


@data.command()
@source_options
@click.option("--dropped", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A step's NAME.dropped.jsonl, first step first, for the flow of one SOURCE that was put together "
              "or changed since. May be repeated.")  # fmt: skip
def stats(
    sources: tuple[str, ...],
    kind: str | None,
    columns: tuple[str, ...],
    model: str | None,
    template: str,
    dropped: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Describe data sets: counts, lengths, copy rate, edit ratios, and the same per category and upstream.

    What sample, annotate, dedup and leakage made is shown with the flow of records through them.

    With --model also lengths in tokens, and a histogram of whole training examples under --template.
    """
    from aligner_core.data_check import check_tokens
    from aligner_core.data_flow import flow_of_dropped, read_flow
    from aligner_core.data_statistics import data_statistics
    from aligner_core.templates import correction_template, literal_ids
    from aligner_core.text_tables import histogram
    from w2s.data_tables import stats_text

    if dropped and len(sources) > 1:
        raise UserError(Problem("--dropped", "goes with one SOURCE", "describe each data set by a command of its own"))
    tokenizer = load_tokenizer(model) if model else None
    reports = []
    for source in sources:
        reading, found = _read(source, kind, columns)
        if reading.problems:
            raise UserError(shortened(reading.problems, source))
        count = (lambda text: len(literal_ids(tokenizer, text))) if tokenizer else None
        report = {"source": source, "kind": found, **data_statistics(reading.records, count)}
        if dropped:
            report["flow"] = flow_of_dropped(len(reading.records), dropped)
        else:
            report["flow"] = read_flow(source_file(data_source(source, "SOURCE").location))
        if tokenizer:
            layout = correction_template(template)
            report["examples"] = histogram(check_tokens(reading.records, tokenizer, layout, None, source).tokens)
        reports.append(report)
    click.echo(json.dumps({"sources": reports}) if as_json else "\n\n".join(stats_text(r) for r in reports))


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """A model's tokenizer, framed as training frames it.

    Raises:
        UserError: if there is no such model, or it has no EOS.
    """
    from transformers import AutoTokenizer

    from aligner_core.embedded_models import local_folder
    from aligner_core.model_ids import unknown_model_reason
    from aligner_core.templates import prepare_tokenizer

    if reason := unknown_model_reason(model):
        raise UserError(Problem("--model", reason))
    try:
        tokenizer = prepare_tokenizer(AutoTokenizer.from_pretrained(local_folder(model)))
    except (OSError, ValueError) as error:
        raise UserError(Problem(f"--model {model}", f"cannot be loaded: {error}", "check the id")) from error
    if tokenizer.eos_token_id is None:
        raise UserError(Problem(f"--model {model}", "has no EOS token", "choose a model that ends its texts"))
    return tokenizer


def _read(source: str, kind: str | None, columns: tuple[str, ...]) -> tuple[Reading[Question], str]:
    """The records of a source and the name of their kind."""
    names = renames(columns)
    location = data_source(source, "SOURCE").location
    found = KINDS[kind] if kind else kind_of(source_file(location), names)
    return read_source(location, found, names), next(name for name, value in KINDS.items() if value is found)


def renames(columns: tuple[str, ...]) -> dict[str, str]:
    """`--columns` as a mapping."""
    pairs = [item.partition("=") for item in columns]
    problems = [
        Problem(f"--columns {''.join(pair)}", "is not THEIRS=OURS", "write --columns prompt=question")
        for pair in pairs if not all(pair)
    ]  # fmt: skip
    if problems:
        raise UserError(problems)
    return {theirs: ours for theirs, _, ours in pairs}
