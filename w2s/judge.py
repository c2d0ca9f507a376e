"""`w2s judge`: two files of answers, compared pair by pair by a served model.

Every reply is kept by what was asked, so the same command continues a killed one and asks again only what failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from aligner_core.answers import Field, pair_up
from aligner_core.command import write_report
from aligner_core.configuration import load_profile
from aligner_core.data_files import read_rows
from aligner_core.display import open_display, showing
from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.errors import Problem, UserError
from aligner_core.files import cache_folder, digest, read_jsonl, write_jsonl
from aligner_core.judging.replies import Replies, ask
from aligner_core.judging.rubrics import RUBRICS
from aligner_core.model_ids import parse_endpoint, unknown_model_reason
from aligner_core.progress import State
from w2s.file_run import write_list
from w2s.human_labels import export_pairs, import_labels
from w2s.judged_sides import judged_file, open_side, score_key

if TYPE_CHECKING:
    from aligner_core.judging.comparison import Pair, Request

VERDICTS, UNPARSED = ".verdicts.jsonl", ".unparsed.jsonl"  # beside the comparison


@click.command()
@click.argument("a")
@click.argument("b")
@click.option("--output", "-o", "target", type=click.Path(path_type=Path), metavar="FILE",
              help="The comparison, as JSON Lines. Beside it: FILE.verdicts.jsonl, every pair's verdicts, and "
              "FILE.unparsed.jsonl, replies without a verdict and requests that failed. Of one run's systems: a file "
              "in RUN/judged, and the run's report tells of it.")  # fmt: skip
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
    a: str, b: str, target: Path | None, model: str | None, axes: tuple[str, ...], field_a: Field | None,
    field_b: Field | None, orders: str, limit: int | None, max_new_tokens: int, max_failed: float,
    price: tuple[float, float] | None, estimate: bool, score_files: tuple[Path, ...], exported: Path | None,
    imported: Path | None, cache: Path | None, seed: int, profile: str,
) -> None:  # fmt: skip
    """Compare the answers in A with those in B, question by question, by a served model.

    A and B are Q-A or Q-A-C files, outputs of AlpacaEval, or RUN:SYSTEM, a system of a run (RUN:student RUN:upstream).
    The same command continues an interrupted one.
    """
    from aligner_core.judging.comparison import requests_of

    left, right = open_side(a, field_a), open_side(b, field_b)
    first, second = left.answers, right.answers
    names = _names(first.system, second.system, Path(a), Path(b), field_a, field_b)
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
    run = left.run if left.run == right.run else None
    if run:
        target = target or judged_file(run, names, model)
    _check(model, target)
    labels = import_labels(imported, pairs, seed) if imported else {}
    scores = {**left.scores, **right.scores, **_read_scores(score_files)}
    sampling = Sampling(max_new_tokens)
    requests = {axis: requests_of(axis, pairs, orders, model, sampling, seed) for axis in dict.fromkeys(axes)}
    replies = _replies([request for chosen in requests.values() for request in chosen], model, sampling,
                       profile, cache, price, estimate)  # fmt: skip
    if replies is None:
        return
    stages = sorted(left.stages | right.stages)
    told = {"judge": model, "orders": orders, "stages": stages}
    found = _judged(names, pairs, requests, replies, labels, scores, told, max_failed)
    if target:
        _leave(target, found, _of_other_axes(target, axes, stages) if run else {})
    if found.failures:
        fix = "No rate is printed. The same command asks again what failed; --max-failed sets the budget."
        raise click.ClickException("\n".join([*found.failures, fix]))
    if run and (run / "report.json").is_file():
        write_report(run, open_display(sys.stderr))


def _replies(
    requests: Sequence[Request], model: str, sampling: Sampling, profile: str, cache: Path | None,
    price: tuple[float, float] | None, estimate: bool,
) -> dict[str, Completion] | None:  # fmt: skip
    """All replies by their request's key, kept from before or asked for now; None where an estimate is all."""
    from aligner_core.judging.comparison import estimate_line, usage_line

    with closing(Replies(cache or cache_folder() / "replies.sqlite")) as replies:
        kept = {request.key: reply for request in requests if (reply := replies.find(request.key))}
        missing = [(request.key, request.prompt) for request in requests if request.key not in kept]
        click.echo(estimate_line(len(requests), missing, sampling.max_new_tokens, price), err=True)
        if estimate:
            return None
        asked = _ask(model, profile, replies, missing, sampling)
    if asked:
        click.echo(usage_line(list(asked.values()), price), err=True)
    return kept | asked


@dataclass
class Found:
    """What the replies say: a comparison per axis, or the axis among the failures; verdicts; replies without one."""

    comparisons: list[dict[str, Any]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    unparsed: list[dict[str, Any]] = field(default_factory=list)


def _judged(
    names: tuple[str, str], pairs: Sequence[Pair], requests: Mapping[str, Sequence[Request]],
    replies: Mapping[str, Completion], labels: Mapping[int, int], scores: Mapping[tuple[str, str], Mapping[str, Any]],
    told: Mapping[str, Any], max_failed: float,
) -> Found:  # fmt: skip
    """Read the replies, axis by axis, and print what they say; `told` goes into every comparison."""
    from aligner_core.judging.comparison import agreements, compare, in_words, read_replies, reasons, verdict_row

    found = Found()
    for axis, chosen in requests.items():
        judged, without = read_replies(pairs, chosen, replies)
        found.unparsed += [{"axis": axis, **row} for row in without]
        found.verdicts += [verdict_row(axis, pair, item) for pair, item in zip(pairs, judged, strict=True)]
        lost = sum(item.outcome is None for item in judged)
        if lost > max_failed * len(pairs):
            what = f"{axis}: {lost:,} of {len(pairs):,} pairs have no verdict ({reasons(without)})"
            found.failures.append(f"{what}, which is more than {100 * max_failed:g} %")
            continue
        others = agreements(axis, pairs, judged, labels, scores)
        row = {**compare(names, axis, judged), **told, "agreement": others.row()}
        words = [*in_words(row, judged), *others.in_words()]
        found.comparisons.append({**row, "words": words})
        click.echo("\n  ".join(words))
    return found


def _of_other_axes(target: Path, axes: Sequence[str], stages: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """What the same judge said of the same answers on axes that are not judged now, by the ending of the file."""
    paths = {ending: Path(f"{target}{ending}") for ending in ("", VERDICTS, UNPARSED)}
    rows = {ending: read_jsonl(path) if path.is_file() else [] for ending, path in paths.items()}
    if any(row.get("stages") != stages for row in rows[""]):
        return {}
    return {ending: [row for row in found if row["axis"] not in axes] for ending, found in rows.items()}


def _leave(target: Path, found: Found, others: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write what was found after what there is of `others`; where an axis failed, unparsed replies alone."""
    write_list(target, UNPARSED, [*others.get(UNPARSED, []), *found.unparsed])
    if not found.failures:
        write_list(target, VERDICTS, [*others.get(VERDICTS, []), *found.verdicts])
        write_jsonl(target, [*others.get("", []), *found.comparisons])


def _ask(
    model: str, profile: str, replies: Replies, missing: Sequence[tuple[str, Prompt]], sampling: Sampling
) -> dict[str, Completion]:
    if not missing:
        return {}
    from aligner_core.engines.openai_engine import OpenAIEngine

    place = load_profile(profile).endpoints
    display = open_display(sys.stderr)
    total = len(dict(missing))

    def show(done: int) -> None:
        display.show(State("asking", done, total, "requests"))

    with showing(display, "judging"):
        return ask(OpenAIEngine(model, place), replies, missing, sampling, 4 * place.concurrency, show)


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
            found[score_key(row)] = row
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
