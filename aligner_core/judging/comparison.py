"""From two systems' texts to a comparison by a judge: what is asked, what it cost, and what the replies say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from aligner_core.answers import Answered
from aligner_core.data_sources import CHARACTERS_PER_TOKEN
from aligner_core.engines.protocol import Completion, Prompt, Sampling
from aligner_core.files import digest
from aligner_core.judging.replies import request_key
from aligner_core.judging.rubrics import judge_prompt, read_verdict
from aligner_core.judging.verdicts import Agreement, Judged, agreement, interval_row, omega_interval, order_bias
from aligner_core.records import question_key
from aligner_core.statistics import Interval

Pair = tuple[Answered, Answered]
SCORE_OF_AXIS = {"harmless": "harmless"}  # all other axes are kinds of help


@dataclass(frozen=True)
class Request:
    """One question to the judge: a pair's index and which text stands first."""

    pair: int
    order: str
    key: str
    prompt: Prompt


def read_replies(
    pairs: Sequence[Pair], requests: Sequence[Request], replies: Mapping[str, Completion]
) -> tuple[list[Judged], list[dict[str, Any]]]:
    """The verdicts on every pair, and the requests that gave none, with the reply or the error."""
    orders: list[dict[str, int | None]] = [{} for _ in pairs]
    without = []
    for request in requests:
        reply = replies[request.key]
        verdict = read_verdict(reply.text) if reply.finished else None
        if verdict is None:
            said = {"error": reply.error} if reply.error else {"reply": reply.text, "finished": reply.finished}
            without.append({"id": pairs[request.pair][0].id, "order": request.order, **said})
        elif request.order == "b_first":
            verdict = -verdict
        orders[request.pair][request.order] = verdict
    return [Judged(found, one.text == two.text) for found, (one, two) in zip(orders, pairs, strict=True)], without


def compare(names: tuple[str, str], axis: str, judged: Sequence[Judged]) -> dict[str, Any]:
    """One row of the kind `comparison`, and what there is to say on the judge."""
    outcomes = [outcome for item in judged if (outcome := item.outcome) is not None]
    omega, bias = omega_interval(outcomes), order_bias(judged)
    row = {
        "a": names[0], "b": names[1], "axis": axis,
        "win": outcomes.count(1), "tie": outcomes.count(0), "lose": outcomes.count(-1),
        "unparsed": len(judged) - len(outcomes), "omega": omega.value, "low": omega.low, "high": omega.high,
        "identical": sum(item.identical for item in judged),
    }  # fmt: skip
    if bias:
        row |= {"order_agreement": bias.agreement.value, "order_biased": bias.is_biased,
                "to_first": bias.to_first.value if bias.leaning else None}  # fmt: skip
    return row


def in_words(row: Mapping[str, Any], judged: Sequence[Judged]) -> list[str]:
    """What a comparison says, and what is to be known of its judge."""
    interval = f"[{row['low']:+.1f}, {row['high']:+.1f}]"
    lines = [
        f"{row['axis']}: {row['a']} against {row['b']}: omega {row['omega']:+.1f} % {interval}; {row['win']:,} win, "
        f"{row['tie']:,} tie ({row['identical']:,} identical), {row['lose']:,} lose, {row['unparsed']:,} left out"
    ]
    bias = order_bias(judged)
    if bias:
        lines.append(bias.in_words())
    elif row["orders"] == "random":
        lines.append("Each pair was judged in one order: whether the order decided cannot be told.")
    return lines


def estimate_line(
    total: int, missing: Sequence[tuple[str, Prompt]], max_new_tokens: int, price: tuple[float, float] | None
) -> str:
    """What is still to be asked, by a rule of thumb for tokens; the reply's length is its limit."""
    distinct = dict(missing)
    characters = sum(len(turn.content) for prompt in distinct.values() for turn in prompt.messages)
    read, written = int(characters / CHARACTERS_PER_TOKEN), len(distinct) * max_new_tokens
    return (
        f"{total:,} requests, {total - len(missing):,} kept from before; {len(distinct):,} to ask: about {read:,} "
        f"tokens to read, at most {written:,} to write{_cost(read, written, price)}"
    )


def usage_line(replies: Sequence[Completion], price: tuple[float, float] | None) -> str:
    """What was used, as the server counted it."""
    read, written = sum(reply.prompt_tokens for reply in replies), sum(reply.tokens for reply in replies)
    failed = sum(reply.error is not None for reply in replies)
    return f"asked {len(replies):,}, {failed:,} failed; {tokens_line(read, written, price)}"


def tokens_line(read: int, written: int, price: tuple[float, float] | None) -> str:
    """Tokens, and what they cost; `price` is of a million read and a million written."""
    return f"{read:,} tokens read, {written:,} written{_cost(read, written, price)}"


def _cost(read: int, written: int, price: tuple[float, float] | None) -> str:
    return f", costs {(read * price[0] + written * price[1]) / 1e6:,.2f}" if price else ""


def requests_of(
    axis: str, pairs: Sequence[Pair], orders: str, model: str, sampling: Sampling, seed: int
) -> list[Request]:
    """Both texts of every pair that differ, in both orders or in one that is drawn."""
    made = []
    for index, (one, two) in enumerate(pairs):
        if one.text == two.text:
            continue
        shown = {"a_first": (one.text, two.text), "b_first": (two.text, one.text)}
        if orders == "random":
            drawn = sorted(shown)[int(digest([seed, one.asked, one.text, two.text])[:8], 16) % 2]
            shown = {drawn: shown[drawn]}
        for order, texts in shown.items():
            prompt = judge_prompt(axis, one.question, one.history, *texts)
            made.append(Request(index, order, request_key(model, prompt, sampling), prompt))
    return made


@dataclass(frozen=True)
class Agreements:
    """How far people and a scorer say what the judge says.

    Attributes:
        people, scores: None where there are none; without a pair in common, an Agreement of none.
        omega: people's own, on `labels` pairs.
        column: the score that was compared.
    """

    people: Agreement | None = None
    omega: Interval | None = None
    labels: int = 0
    scores: Agreement | None = None
    column: str = ""

    def in_words(self) -> list[str]:
        lines = []
        if self.people and self.omega:
            lines.append(f"People: {_percent(self.omega)} on {self.labels:,} labelled pairs.")
            lines.append(_agreement_line("The judge and people", self.people))
        if self.scores:
            lines.append(_agreement_line(f"The judge and the scores ({self.column})", self.scores))
        return lines

    def row(self) -> dict[str, Any]:
        """For the comparison's row; what is not a number is null."""
        found: dict[str, Any] = {}
        if self.people and self.omega:
            found["people"] = {**self.people.row(), "labels": self.labels, **{"omega": interval_row(self.omega)}}
        if self.scores:
            found["scores"] = {**self.scores.row(), "column": self.column}
        return found


def agreements(
    axis: str, pairs: Sequence[Pair], judged: Sequence[Judged], labels: Mapping[int, int],
    scores: Mapping[tuple[str, str], Mapping[str, Any]],
) -> Agreements:  # fmt: skip
    found = Agreements()
    if labels:
        found = replace(found, people=_common(labels, judged), omega=omega_interval(list(labels.values())),
                        labels=len(labels))  # fmt: skip
    if scores:
        column = SCORE_OF_AXIS.get(axis, "helpful")
        by_score: dict[int, int] = {}
        for index, (one, two) in enumerate(pairs):
            ours, theirs = (scores.get((question_key(item.asked), item.text), {}).get(column) for item in (one, two))
            if one.text != two.text and ours is not None and theirs is not None:
                by_score[index] = int(np.sign(ours - theirs))
        found = replace(found, scores=_common(by_score, judged), column=column)
    return found


def _common(others: Mapping[int, int], judged: Sequence[Judged]) -> Agreement:
    both = [(outcome, other) for index, other in others.items() if (outcome := judged[index].outcome) is not None]
    return agreement([outcome for outcome, _ in both], [other for _, other in both])


def _agreement_line(who: str, found: Agreement) -> str:
    return f"{who} agree on {found.in_words()}." if found.pairs else f"{who}: no pair in common."


def _percent(interval: Interval) -> str:
    return f"omega {interval.value:+.1f} % [{interval.low:+.1f}, {interval.high:+.1f}]"


def verdict_row(axis: str, pair: Pair, judged: Judged) -> dict[str, Any]:
    return {"id": pair[0].id, "axis": axis, **judged.orders, "identical": judged.identical, "outcome": judged.outcome}


def reasons(without: Sequence[Mapping[str, Any]]) -> str:
    errors = [str(row["error"]) for row in without if "error" in row]
    first = f"; the first: {errors[0]}" if errors else ""
    return f"{len(without) - len(errors):,} replies without a verdict, {len(errors):,} failed requests{first}"
