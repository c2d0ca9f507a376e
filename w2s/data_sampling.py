"""`w2s data sample`: answers of several upstreams to the same questions, the first step to Q-A-C records."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from aligner_core.command import profile_option
from aligner_core.configuration import load_profile
from aligner_core.data_sources import data_source
from aligner_core.errors import Problem, UserError
from aligner_core.files import write_jsonl
from aligner_core.generation import FAILED
from aligner_core.model_ids import unknown_model_reason
from aligner_core.profile import Profile
from aligner_core.recipe import Generation, Role
from aligner_core.records import MAX_CHARACTERS, Question
from aligner_core.stages import Stage
from aligner_core.tasks.generate import ANSWERS, AnswerQuestions
from w2s.data_commands import columns_option, renames
from w2s.data_steps import deliver, output_problems, source_records, with_reason
from w2s.file_run import rows_in, run_each, run_folder, write_list
from w2s.pipeline import model_source

STEP = "sample"
# What somebody else's answer to a question says; further fields of a record are the question's.
OF_ANSWERS = ("answer", "upstream", "correction", "corrector", "finished", "generated_tokens", "sampling")


@click.command()
@click.argument("questions")
@click.option("--upstream", "upstreams", multiple=True, required=True, metavar="MODEL",
              help="Hub id, folder, embedded:NAME or http://HOST/v1#NAME. May be repeated: each answers every "
              "question.")  # fmt: skip
@click.option("-o", "--output", "target", required=True, type=click.Path(path_type=Path, dir_okay=False),
              help="The answers (.jsonl). What falls goes to NAME.dropped.jsonl beside it; FILE.run keeps what a kill "
              "would lose.")  # fmt: skip
@click.option("--generation", "preset", type=click.Choice(["published", "greedy"]), default="published",
              show_default=True, help="published samples as the paper did: T 0.5, top-k 10, top-p 0.95, repetition "
              "penalty 1.1.")  # fmt: skip
@click.option("--max-new-tokens", type=click.IntRange(1), default=2048, show_default=True,
              help="Longest answer in tokens.")  # fmt: skip
@click.option("--keep-unfinished", is_flag=True, help="Keep answers that were cut by the length limit, too.")
@click.option("--seed", default=0, show_default=True, help="Seed of sampling.")
@profile_option
@columns_option
def sample(
    questions: str, upstreams: tuple[str, ...], target: Path, preset: str, max_new_tokens: int,
    keep_unfinished: bool, seed: int, profile: str, columns: tuple[str, ...],
) -> None:  # fmt: skip
    """Let models answer the QUESTIONS of a file, embedded:NAME, hub:ID or set:NAME.

    Only answers that reach their end are kept. The same command continues an interrupted run, and asks again for
    answers that failed.
    """
    place = load_profile(profile)
    problems = [*upstream_problems(upstreams), *output_problems(target, questions)]
    if problems:
        raise UserError(problems)
    generation = Generation.model_validate({"preset": preset, "max_new_tokens": max_new_tokens})
    path, asked = source_records(questions, Question, renames(columns), "QUESTIONS")
    with run_folder(str(target)) as run:
        write_jsonl(run / "questions.jsonl", (question_row(record) for record in asked))
        stages = [answer_stage(name, run / "questions.jsonl", place, generation, seed) for name in upstreams]
        outcome = run_each(run, stages, place)
    settings = sampling_row(generation, seed)
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    failed: list[dict[str, Any]] = []
    for number, (name, folder) in enumerate(zip(upstreams, outcome.folders, strict=True), 1):
        for row in rows_in(folder / ANSWERS):
            # One question has several answers, and an id is used once.
            row = {**row, "id": f"{number}/{row['id']}", "sampling": settings}
            reason = drop_reason(row, keep_unfinished)
            (dropped if reason else kept).append(with_reason(row, STEP, reason) if reason else row)
        failed += [{**row, "id": f"{number}/{row['id']}", "upstream": name} for row in rows_in(folder / FAILED)]
    write_list(target, ".failed.jsonl", failed)
    if kept or dropped:
        problems = deliver(target, path, STEP, len(asked) * len(upstreams), kept, dropped)
    outcome.raise_failures(problems)


def upstream_problems(upstreams: tuple[str, ...]) -> list[Problem]:
    """All that is wrong with the names of the upstreams."""
    found = [Problem(f"--upstream {name}", reason) for name in upstreams if (reason := unknown_model_reason(name))]
    twice = sorted({name for name in upstreams if upstreams.count(name) > 1})
    return found + [Problem(f"--upstream {name}", "is named twice", "name each model once") for name in twice]


def question_row(record: Question) -> dict[str, Any]:
    """The record without anybody's answer."""
    return {key: value for key, value in record.row().items() if key not in OF_ANSWERS}


def answer_stage(upstream: str, questions: Path, profile: Profile, generation: Generation, seed: int) -> Stage:
    """One upstream's answers; the name tells it apart in the log."""
    task = AnswerQuestions(
        upstream=upstream, generation=generation, precision=profile.precision, engine=profile.generation.engine,
        seed=seed,
    )  # fmt: skip
    inputs = {"questions": data_source(str(questions), "QUESTIONS"), "model": model_source(Role(model=upstream))}
    return Stage(re.sub(r"[^A-Za-z0-9.-]+", "-", upstream)[-40:], task, inputs)


def sampling_row(generation: Generation, seed: int) -> dict[str, Any]:
    """What each answer's row says of how it was decoded."""
    from aligner_core.engines.protocol import sampling_of

    return {"preset": generation.preset, **asdict(sampling_of(generation)), "seed": seed}


def drop_reason(row: Mapping[str, Any], keep_unfinished: bool) -> str | None:
    """Why an answer is no use for training; None if it is kept."""
    if not row["answer"].strip():
        return "empty"
    if len(row["answer"]) > MAX_CHARACTERS:
        return "over-long"
    return None if row["finished"] or keep_unfinished else "unfinished"
