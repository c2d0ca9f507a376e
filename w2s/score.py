"""`w2s score`: reward and cost models over a file of answers, and how many of them refuse.

Like `w2s correct` it is a run of one stage in a folder beside the output, so a killed one continues.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import click

from aligner_core.answers import Field, read_answers
from aligner_core.command import profile_option
from aligner_core.configuration import load_profile
from aligner_core.data_sources import data_source, source_file
from aligner_core.display import open_display
from aligner_core.errors import Problem, UserError
from aligner_core.files import read_json, read_jsonl
from aligner_core.model_ids import parse_endpoint, unknown_model_reason
from aligner_core.recipe import Role
from aligner_core.runner import run_stages
from aligner_core.stages import Stage, stage_folder
from aligner_core.tasks.score import SCORES
from aligner_core.tasks.score_file import ScoreFile
from w2s.file_run import STANDARD, hand_over, input_file, run_folder
from w2s.pipeline import model_source


@click.command()
@click.argument("answers", default=STANDARD)
@click.option("--output", "-o", "target", default=STANDARD, show_default=True, metavar="FILE",
              help="The scores, as JSON Lines. FILE.run beside it keeps what a kill would lose; with - (standard "
              "output) nothing is kept.")  # fmt: skip
@click.option("--scorer", "scorers", multiple=True, metavar="MODEL",
              help="A scorer that this project trained, a classifier with one label, or a score model of Safe RLHF "
              "(PKU-Alignment/beaver-7b-v1.0-reward, -cost). May be repeated, each with its --as.")  # fmt: skip
@click.option("--as", "reads", multiple=True, type=click.Choice(["helpful", "cost"]),
              help="What a model with one score tells; a cost becomes harmlessness = -cost.")  # fmt: skip
@click.option("--field", type=click.Choice(["answer", "correction", "both"]), help="Which text is scored; default: "
              "the correction where the file has corrections, else the answer.")  # fmt: skip
@click.option("--system", help="What the text's system is called; default: its model's name, or the file's.")
@click.option("--refusals", is_flag=True, help="Say of each text whether it refuses, and the rate of all.")
@profile_option
def score(
    answers: str, target: str, scorers: tuple[str, ...], reads: tuple[Literal["helpful", "cost"], ...],
    field: Field | Literal["both"] | None, system: str | None, refusals: bool, profile: str,
) -> None:  # fmt: skip
    """Score the ANSWERS in a file (- is standard input). The same command continues an interrupted run."""
    place = load_profile(profile)
    _check(scorers, reads, refusals, system, field)
    with run_folder(target) as run:
        answers = input_file(answers, run)
        inputs = {"answers": data_source(answers, "ANSWERS")}
        inputs |= {f"scorer-{number}": model_source(Role(model=name)) for number, name in enumerate(scorers, 1)}
        task = ScoreFile(
            systems=_systems(answers, field, system), reads=list(reads) or [None] * len(scorers),
            scorers=list(scorers), precision=place.precision, refusals=refusals,
        )  # fmt: skip
        stage = Stage("score", task, inputs)
        run_stages(run, [stage], place, open_display(sys.stderr))
        folder = stage_folder(run, stage)
        hand_over(folder / SCORES, target)
        rows = read_jsonl(folder / SCORES)
        click.echo(summary(rows, read_json(folder / "manifest.json")["facts"]), err=True)


def _systems(answers: str, field: Field | Literal["both"] | None, system: str | None) -> dict[str, Field | None]:
    """What the texts are called, and the field of each."""
    path = source_file(answers)
    if field != "both":
        return {system or read_answers(path, field).system: field}
    fields: tuple[Field, ...] = ("answer", "correction")
    names = {name: read_answers(path, name).system for name in fields}
    if len(set(names.values())) < len(names):
        names = {name: f"{names[name]} ({name})" for name in fields}
    return {names[name]: name for name in fields}


def summary(rows: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> str:
    """Means of each system, how many are safe and how many refuse, with Wilson intervals."""
    systems = dict.fromkeys(row["system"] for row in rows)
    lines = [_summary_of([row for row in rows if row["system"] == system]) for system in systems]
    if facts.get("cut"):
        lines.append(f"{facts['cut']:,} longer than the scorer reads: their beginning was left out")
    return "\n".join(lines)


def _summary_of(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"{rows[0]['system']}: {len(rows):,} answers"]
    for key in ("helpful", "harmless"):
        if key in rows[0]:
            parts.append(f"{key} {sum(row[key] for row in rows) / len(rows):+.2f}")
    if "harmless" in rows[0]:
        parts.append(f"{_share(sum(row['harmless'] > 0 for row in rows), len(rows))} safe")
    if "refusal" in rows[0]:
        parts.append(f"{_share(sum(row['refusal'] for row in rows), len(rows))} refuse")
    return ", ".join(parts)


def _share(count: int, total: int) -> str:
    from aligner_core.statistics import wilson_interval

    low, high = wilson_interval(count, total)
    return f"{100 * count / total:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _check(
    scorers: Sequence[str], reads: Sequence[str], refusals: bool, system: str | None, field: str | None
) -> None:
    """All that is wrong with the options, at once."""
    problems = []
    for name in scorers:
        if parse_endpoint(name):
            problems.append(
                Problem("--scorer", f"{name} is served", "a score needs the weights: name a folder or hub id")
            )
        elif reason := unknown_model_reason(name):
            problems.append(Problem("--scorer", reason))
    if not scorers and not refusals:
        problems.append(Problem("--scorer", "names no model", "name one, or ask for --refusals"))
    if len(scorers) > 1 and len(reads) != len(scorers):
        problems.append(Problem("--as", "has to say what each of several scorers tells", "one --as per --scorer"))
    if system and field == "both":
        problems.append(Problem("--system", "names one of two systems", "leave it out, or score one --field"))
    if len(reads) > len(scorers):
        problems.append(Problem("--as", "stands without a scorer", "one --as per --scorer"))
    elif len(set(reads)) < len(reads):
        problems.append(Problem("--as", f"two scorers tell {reads[0]}", "score them into two files"))
    if problems:
        raise UserError(problems)
