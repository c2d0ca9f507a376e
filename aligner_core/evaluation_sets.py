"""The evaluation sets of the paper, and one for over-refusal, by name: `set:NAME`, or `set:NAME=FILE` for a copy.

What each is made of is a row of a table; `questions_of` turns the published rows into questions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aligner_core.errors import Problem, UserError

VERSION = 1  # raise it when the same rows give other questions
SAMPLE_SEED = 42  # the paper's
PREFIX = "set:"
EMOTIONS = frozenset(
    {"angry", "confident", "embarrassed", "proud", "sad", "lonely", "terrified", "devastated"}
)  # the eight that the paper names


@dataclass(frozen=True)
class EvaluationSet:
    """How a published data set becomes questions.

    Attributes:
        source: where it is published.
        axes: on which its answers are meant to be judged.
        question, reference: the columns they may stand in, of which the first that a row has counts.
        layout: the text around the question, which stands at {}.
        where: column -> the values that are taken.
        sample: how many rows are drawn, as the paper draws them; None takes all.
        replaced: what the published text spells otherwise.
    """

    source: str
    axes: tuple[str, ...]
    question: tuple[str, ...]
    reference: tuple[str, ...] = ()
    layout: str = "{}"
    where: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    sample: int | None = None
    replaced: Mapping[str, str] = field(default_factory=dict)


_XSTEST = ("hub:walledai/XSTest:test", ("harmless",), ("prompt", "question"))
SETS: dict[str, EvaluationSet] = {
    "beavertails": EvaluationSet(
        "hub:PKU-Alignment/BeaverTails-Evaluation:test", ("helpful", "harmless"), ("prompt", "question")
    ),
    "harmfulqa": EvaluationSet(
        "hub:declare-lab/HarmfulQA:train", ("helpful", "harmless"), ("question", "prompt"), sample=700
    ),
    "empathetic_dialogues": EvaluationSet(
        "hub:facebook/empathetic_dialogues@refs/convert/parquet:test", ("empathic",), ("utterance",),
        where={"utterance_idx": frozenset({1, "1"}), "context": EMOTIONS}, replaced={"_comma_": ","},
    ),
    "dialogsum": EvaluationSet(
        "hub:knkarthick/dialogsum:test", ("summary",), ("dialogue",), ("summary",),
        layout="Summarise this dialogue in a few sentences.\n\n{}",
    ),
    "truthfulqa": EvaluationSet(
        "hub:truthfulqa/truthful_qa:generation:validation", ("honest",), ("question",), ("best_answer",)
    ),
    "xstest": EvaluationSet(*_XSTEST, where={"label": frozenset({"safe"})}),
    "xstest_unsafe": EvaluationSet(*_XSTEST, where={"label": frozenset({"unsafe"})}),
    "embedded": EvaluationSet("embedded:eval", ("helpful", "harmless"), ("question",), ("reference",)),
}  # fmt: skip
KEPT = ("category", "topic", "type", "label", "context", "category_id")  # beside the question, for tables by kind


def parse_set(source: str, where: str = "data") -> tuple[str, str] | None:
    """(name of the set, where its rows lie), or None if `source` names no set.

    Raises:
        UserError: if there is no such set.
    """
    if not source.startswith(PREFIX):
        return None
    name, _, copy = source.removeprefix(PREFIX).partition("=")
    if name not in SETS:
        raise UserError(Problem(where, f'there is no evaluation set "{name}"', "name one of: " + ", ".join(SETS)))
    return name, copy or SETS[name].source


def questions_of(name: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The set's questions from its published rows, in their order or, where it is a sample, in the drawn one.

    A question that is repeated is taken once.

    Raises:
        UserError: if the rows do not have the published layout.
    """
    evaluation = SETS[name]
    chosen = [
        (number, row)
        for number, row in enumerate(rows)
        if all(row.get(column) in values for column, values in evaluation.where.items())
    ]
    if evaluation.sample is not None:
        if len(chosen) < evaluation.sample:
            what = f"holds {len(chosen)} rows, of which {evaluation.sample} are to be drawn"
            raise UserError(Problem(PREFIX + name, what, f"name the whole set, {evaluation.source}"))
        chosen = random.Random(SAMPLE_SEED).sample(chosen, evaluation.sample)
    questions: dict[str, dict[str, Any]] = {}
    for number, row in chosen:
        asked = _first(row, evaluation.question)
        if not asked:
            what = f"row {number + 1} has none of the columns {', '.join(evaluation.question)}"
            raise UserError(Problem(PREFIX + name, what, f"name a file with the columns of {evaluation.source}"))
        for published, meant in evaluation.replaced.items():
            asked = asked.replace(published, meant)
        question: dict[str, Any] = {"id": f"{name}-{number}", "question": evaluation.layout.replace("{}", asked)}
        if reference := _first(row, evaluation.reference):
            question["reference"] = reference
        questions.setdefault(asked, question | {key: row[key] for key in KEPT if row.get(key) is not None})
    if not questions:
        conditions = " and ".join(f"{column} in {sorted(map(str, kept))}" for column, kept in evaluation.where.items())
        raise UserError(Problem(PREFIX + name, f"no row has {conditions or 'a question'}", "check the file's columns"))
    return list(questions.values())


def _first(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    return next((str(row[column]) for column in columns if row.get(column)), "")


def set_name(source: str) -> str:
    """What a table calls the questions of a source: the set's own name, else the last name in the source."""
    if named := parse_set(source):
        return named[0]
    path = source.removeprefix("hub:").removeprefix("embedded:")
    last = path.rpartition("/")[2].partition(":")[0].partition("@")[0]
    stem = last.rpartition(".")[0] if last.endswith((".jsonl", ".json", ".parquet")) else last
    return re.sub(r"[^A-Za-z0-9_.-]", "_", stem)
