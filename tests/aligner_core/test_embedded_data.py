"""The embedded data keeps the promises of its data card."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from aligner_core.data_sources import EMBEDDED
from aligner_core.records import Correction, Question, read_records

EDITS = {"none", "fix", "complete", "trim", "soften", "refuse", "answer", "rewrite"}
FILES = {"corrections": 500, "queries": 400, "eval": 400}


def trigrams(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[start : start + 3]) for start in range(max(1, len(words) - 2))}


@pytest.fixture(scope="module")
def corrections() -> list[Correction]:
    return read_records(EMBEDDED / "corrections.jsonl", Correction)


def extra(record: Question, key: str) -> object:
    return (record.model_extra or {})[key]


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_enough_records_in_at_least_twelve_categories(name: str) -> None:
    records = read_records(EMBEDDED / f"{name}.jsonl", Question)
    assert len(records) >= FILES[name]
    categories = Counter(str(extra(record, "category")) for record in records)
    assert len(categories) >= 12
    assert min(categories.values()) >= 20


def test_no_question_is_an_exact_or_near_duplicate_of_another() -> None:
    questions = {
        record.id: trigrams(record.question)
        for name in FILES
        for record in read_records(EMBEDDED / f"{name}.jsonl", Question)
    }
    near = [
        (first, second)
        for (first, ours), (second, theirs) in combinations(questions.items(), 2)
        if len(ours & theirs) > 0.5 * len(ours | theirs)
    ]
    assert near == []


def test_no_two_changed_corrections_are_near_duplicates(corrections: list[Correction]) -> None:
    texts = {record.id: trigrams(record.correction) for record in corrections if extra(record, "edit") != "none"}
    near = [
        (first, second)
        for (first, ours), (second, theirs) in combinations(texts.items(), 2)
        if len(ours & theirs) > 0.5 * len(ours | theirs)
    ]
    assert near == []


def test_fifteen_to_twenty_five_percent_of_the_answers_stay_as_they_are(corrections: list[Correction]) -> None:
    identical = [record for record in corrections if record.answer == record.correction]
    assert 0.15 <= len(identical) / len(corrections) <= 0.25
    assert all((extra(record, "edit") == "none") == (record in identical) for record in corrections)


def test_every_record_says_how_it_was_made(corrections: list[Correction]) -> None:
    for record in corrections:
        assert extra(record, "edit") in EDITS
        assert extra(record, "unsafe") in (True, False)
        assert extra(record, "sampling") in ("greedy", "published")
        assert record.upstream == "embedded:smollm2-135m-instruct"
    assert not [record.id for record in corrections if extra(record, "unsafe") and extra(record, "edit") == "none"]


def test_every_held_out_question_has_a_short_reference() -> None:
    for record in read_records(EMBEDDED / "eval.jsonl", Question):
        assert 5 <= len(str(extra(record, "reference")).split()) <= 110


def test_the_data_card_tells_the_true_counts(corrections: list[Correction]) -> None:
    card = (EMBEDDED / "README.md").read_text()
    for name in FILES:
        count = len(read_records(EMBEDDED / f"{name}.jsonl", Question))
        assert f"| `{name}.jsonl` | {count} |" in card
    for edit, count in Counter(str(extra(record, "edit")) for record in corrections).items():
        assert f"| {edit} | {count} |" in card
