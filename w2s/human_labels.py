"""Pairs of answers for people to judge, blinded and shuffled, and what they said of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from aligner_core.answers import Answered
from aligner_core.errors import Problem, UserError
from aligner_core.files import digest
from w2s.spreadsheets import read_table, write_table

COLUMNS = ("pair", "question", "answer_1", "answer_2", "label")
LABELS = {"1": 1, "2": -1, "tie": 0}
Pair = tuple[Answered, Answered]


def export_pairs(path: Path, pairs: Sequence[Pair], seed: int) -> int:
    """Write a table whose column `label` people fill in with 1, 2 or tie.

    Which system is which, and the order of the rows, follow from the seed; the table does not tell. Pairs of the same
    text are left out.

    Returns:
        how many pairs were written.
    """
    shown = [pair for pair in pairs if pair[0].text != pair[1].text]
    random.Random(seed).shuffle(shown)
    rows = []
    for pair in shown:
        first, second = reversed(pair) if _swapped(pair, seed) else pair
        rows.append([_blind_id(pair, seed), pair[0].asked, first.text, second.text, ""])
    write_table(path, COLUMNS, rows)
    return len(shown)


def import_labels(path: Path, pairs: Sequence[Pair], seed: int) -> dict[int, int]:
    """What people said: index of a pair -> +1, 0 or -1, seen from A. Rows without a label are left out.

    Raises:
        UserError: with every label that is none, and every pair that is not of these files and this seed.
    """
    known = {_blind_id(pair, seed): index for index, pair in enumerate(pairs)}
    labels: dict[int, int] = {}
    problems: list[Problem] = []
    for number, row in read_table(path, ("pair", "label")):
        label = row["label"].strip().lower()
        index = known.get(row["pair"].strip())
        if index is None:
            fix = "name the two files and the --seed that the pairs were exported with"
            problems.append(Problem(f"{path}: row {number}", f'has the unknown pair "{row["pair"]}"', fix))
        elif label and label not in LABELS:
            problems.append(Problem(f"{path}: row {number}", f'has the label "{row["label"]}"', "write 1, 2 or tie"))
        elif label:
            labels[index] = -LABELS[label] if _swapped(pairs[index], seed) else LABELS[label]
    if not labels and not problems:
        problems.append(Problem(str(path), "has no label", "write 1, 2 or tie in the column label"))
    if problems:
        raise UserError(problems)
    return labels


def _blind_id(pair: Pair, seed: int) -> str:
    return digest(["pair", seed, pair[0].asked, pair[0].text, pair[1].text])[:12]


def _swapped(pair: Pair, seed: int) -> bool:
    return int(digest(["order", seed, pair[0].asked, pair[0].text, pair[1].text])[:8], 16) % 2 == 1
