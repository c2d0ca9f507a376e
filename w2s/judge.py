"""`w2s judge`: two files of answers, compared pair by pair by a served model.

Every reply is kept by what was asked, so the same command continues a killed one and asks again only what failed.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from aligner_core.answers import Field, pair_up, read_answers
from aligner_core.configuration import load_profile
from aligner_core.data_files import read_rows
from aligner_core.display import open_display
from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.errors import Problem, UserError
from aligner_core.files import cache_folder, digest, write_jsonl
from aligner_core.judging.replies import Replies, ask
from aligner_core.judging.rubrics import RUBRICS
from aligner_core.model_ids import parse_endpoint, unknown_model_reason
from aligner_core.progress import State
from aligner_core.records import question_key
from w2s.file_run import write_list
from w2s.human_labels import export_pairs, import_labels


@click.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--output", "-o", "target", type=click.Path(path_type=Path), metavar="FILE",
              help="The comparison, as JSON Lines. Beside it: FILE.verdicts.jsonl, every pair's verdicts, and "
              "FILE.unparsed.jsonl, replies without a verdict and requests that failed.")  # fmt: skip
@click.option("--judge", "model", metavar="MODEL", help="http://HOST/v1#NAME; keys: endpoints in the profile.")
@click.option("--axis", "axes", multiple=True, type=click.Choice(list(RUBRICS)), default=["helpful"],
              show_default=True, help="What is compared. May be repeated.")  # fmt: skip
@click.option("--field-a", type=click.Choice(["answer", "correction"]), help="A's text; default: its corrections "
              "if it has any, else its answers.")  # fmt: skip
@click.option("--field-b", type=click.Choice(["answer", "correction"]), help="B's text; default as for A.")
@click.option("--orders", type=click.Choice(["both", "random"]), default="both", show_default=True,
              help="random asks once per pair, in an order drawn by --seed: half the cost.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="Judge a random part of so many pairs, drawn by --seed.")
@click.option("--max-new-tokens", default=512, show_default=True, help="Longest reply; one that is cut is no verdict.")
@click.option("--max-failed", type=click.FloatRange(0, 1), default=0.05, show_default=True,
              help="Share of pairs without a verdict above which no rate is printed and the code is 1.")  # fmt: skip
@click.option("--price", nargs=2, type=float, metavar="IN OUT", help="Of a million tokens, for the estimate.")
@click.option("--estimate", is_flag=True, help="Say what it would ask and cost, and stop.")
@click.option("--scores", "score_files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Scores of these texts: prints their agreement with the judge. May be repeated.")  # fmt: skip
@click.option("--export", "exported", type=click.Path(path_type=Path), metavar="CSV",
              help="Write the pairs for people to judge, blinded and shuffled by --seed.")  # fmt: skip
@click.option("--import", "imported", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="CSV",
              help="Such a table with labels: prints people's omega, and their agreement with the judge.")  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path), help="File of kept replies. [default: replies.sqlite in "
              "W2S_CACHE or ~/.cache/w2s]")  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of --orders random, --limit and --export.")
@click.option("--profile", default="cpu", show_default=True, help="How endpoints are asked: a shipped name or a file.")
def judge(
    a: Path, b: Path, target: Path | None, model: str | None, axes: tuple[str, ...], field_a: Field | None,
    field_b: Field | None, orders: str, limit: int | None, max_new_tokens: int, max_failed: float,
    price: tuple[float, float] | None, estimate: bool, score_files: tuple[Path, ...], exported: Path | None,
    imported: Path | None, cache: Path | None, seed: int, profile: str,
) -> None:  # fmt: skip
    """Compare the answers in A with those in B, question by question, by a served model.

    A and B are Q-A or Q-A-C files, or outputs of AlpacaEval. The same command continues an interrupted one.
    """
    from aligner_core.judging.comparison import (
        agreements,
        compare,
        estimate_line,
        in_words,
        read_replies,
        reasons,
        requests_of,
        usage_line,
        verdict_row,
    )

    first, second = read_answers(a, field_a), read_answers(b, field_b)
    names = _names(first.system, second.system, a, b, field_a, field_b)
    pairs = pair_up(first, second)
    click.echo(
        f"{len(pairs):,} questions in both ({len(first.answers):,} in A, {len(second.answers):,} in B)", err=True
    )
    if limit is not None:
        pairs = sorted(pairs, key=lambda pair: digest([seed, pair[0].asked, pair[0].text]))[:limit]
    if exported:
        click.echo(f"{exported}: {export_pairs(exported, pairs, seed):,} pairs; fill in the column label", err=True)
    if model is None:
        if not exported:
            raise UserError(Problem("--judge", "names no model", "write --judge http://HOST/v1#NAME, or --export CSV"))
        return
    _check(model, target)
    labels = import_labels(imported, pairs, seed) if imported else {}
    scores = _read_scores(score_files)
    sampling = Sampling(max_new_tokens)
    requests = {axis: requests_of(axis, pairs, orders, model, sampling, seed) for axis in dict.fromkeys(axes)}
    replies = Replies(cache or cache_folder() / "replies.sqlite")
    try:
        every = [request for chosen in requests.values() for request in chosen]
        kept = {request.key: reply for request in every if (reply := replies.find(request.key))}
        missing = [(request.key, request.prompt) for request in every if request.key not in kept]
        click.echo(estimate_line(len(every), missing, max_new_tokens, price), err=True)
        if estimate:
            return
        asked = _ask(model, profile, replies, missing, sampling)
    finally:
        replies.close()
    if asked:
        click.echo(usage_line(list(asked.values()), price), err=True)
    rows, verdicts, unparsed, failures = [], [], [], []
    for axis, chosen in requests.items():
        judged, without = read_replies(pairs, chosen, kept | asked)
        unparsed += [{"axis": axis, **row} for row in without]
        verdicts += [verdict_row(axis, pair, item) for pair, item in zip(pairs, judged, strict=True)]
        lost = sum(item.outcome is None for item in judged)
        if lost > max_failed * len(pairs):
            failures.append(f"{axis}: {lost:,} of {len(pairs):,} pairs have no verdict ({reasons(without)})")
            continue
        rows.append({**compare(names, axis, judged), "judge": model, "orders": orders})
        for line in in_words(rows[-1], judged):
            click.echo(line)
        for line in agreements(axis, pairs, judged, labels, scores):
            click.echo(line)
    write_list(target, ".unparsed.jsonl", unparsed)
    if failures:
        told = "\n".join(failures)
        fix = "No rate is printed. The same command asks again what failed; --max-failed sets the budget."
        raise click.ClickException(f"more than {100 * max_failed:g} % failed\n{told}\n{fix}")
    if target:
        write_list(target, ".verdicts.jsonl", verdicts)
        write_jsonl(target, rows)


def _ask(
    model: str, profile: str, replies: Replies, missing: Sequence[tuple[str, Prompt]], sampling: Sampling
) -> dict[str, Completion]:
    if not missing:
        return {}
    from aligner_core.engines.openai_engine import OpenAIEngine

    place = load_profile(profile).endpoints
    display = open_display(sys.stderr)
    display.begin("judging", 0, 0)
    started = time.monotonic()
    total = len(dict(missing))

    def show(done: int) -> None:
        display.show(State("asking", done, total, "requests"))

    try:
        made = ask(OpenAIEngine(model, place), replies, missing, sampling, 4 * place.concurrency, show)
    except BaseException:
        display.failed()
        raise
    display.finished(time.monotonic() - started)
    return made


def _read_scores(files: Sequence[Path]) -> dict[tuple[str, str], dict[str, Any]]:
    """Scores by question and text, as `w2s score` and the scores of a run have them.

    Raises:
        UserError: if a file holds no such rows.
    """
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for path in files:
        for number, row in read_rows(path):
            if not isinstance(row, dict) or not {"question", "text"} <= row.keys():
                fix = "name an output of w2s score, or the scores.jsonl of a run"
                raise UserError(Problem(f"{path}:{number}", "is no score of a text", fix))
            key = question_key("\n".join([*(turn["content"] for turn in row.get("history") or ()), row["question"]]))
            found[key, row["text"]] = row
    return found


def _check(model: str, target: Path | None) -> None:
    if parse_endpoint(model) is None or unknown_model_reason(model):
        raise UserError(Problem("--judge", f'"{model}" is no served model', "write http://HOST/v1#NAME"))
    if target and target.exists() and not _is_comparison(target):
        raise UserError(Problem(str(target), "exists already and is no comparison", "name another file"))


def _is_comparison(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8") as stream:
            row = json.loads(stream.readline())
    except (OSError, ValueError):
        return False
    return isinstance(row, dict) and {"a", "b", "axis", "omega"} <= row.keys()


def _names(one: str, two: str, a: Path, b: Path, field_a: str | None, field_b: str | None) -> tuple[str, str]:
    """What the systems are called: by their models, by the files where those are the same, else by the fields."""
    if one != two:
        return one, two
    if a.stem != b.stem:
        return a.stem, b.stem
    return f"{one} ({field_a or 'A'})", f"{two} ({field_b or 'B'})"
