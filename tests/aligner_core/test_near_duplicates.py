"""Near-duplicates and quotations: what should be found is found, and nothing else."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligner_core.leakage import EvaluationQuestions, Leak, QuotedTexts
from aligner_core.near_duplicates import DuplicateIndex, fingerprint, jaccard, rows_per_band, shingles, words
from aligner_core.records import Question

SPOKEN = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=15)
VOCABULARY = [f"word{number}" for number in range(5000)]


@given(SPOKEN, SPOKEN)
def test_jaccard_is_a_symmetric_share_that_is_one_for_the_same(first: list[str], second: list[str]) -> None:
    ours, theirs = shingles(first), shingles(second)
    assert 0 <= jaccard(ours, theirs) == jaccard(theirs, ours) <= 1
    assert jaccard(ours, ours) == 1


def test_shingles_are_runs_of_three_words_and_a_short_text_is_one() -> None:
    assert shingles(["a", "b", "c", "d"]) == {"a b c", "b c d"}
    assert shingles(["a", "b"]) == {"a b"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("What is  RAIN?", ["what", "is", "rain"]),
        ("What is 3 + 4?", ["what", "is", "3", "+", "4"]),
        ("Don't say “no”…", ["don", "t", "say", "no"]),
        ("お茶は安全?", list("お茶は安全")),
        ("?!", ["?!"]),
    ],
)
def test_words_leave_out_case_and_sentence_marks_alone(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@settings(max_examples=50)
@given(st.text(min_size=1).filter(lambda text: bool(text.strip())))
def test_any_text_is_found_again_exactly(text: str) -> None:
    index = DuplicateIndex(0.8)
    index.add("first", fingerprint(text))
    index.add("second", fingerprint(text))
    match = index.match(fingerprint(f"  {text} "))
    assert match is not None
    assert match.partner == "first"


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.95, 1.0])
def test_a_pair_at_the_threshold_shares_a_band_almost_surely(threshold: float) -> None:
    rows = rows_per_band(threshold)
    assert 1 - (1 - threshold**rows) ** (128 // rows) >= 0.999


def variants(amount: int, changes: int, seed: int) -> list[tuple[str, str, float]]:
    """Texts of forty words, each with a copy in which some words were replaced, and the pair's true similarity."""
    source = random.Random(seed)
    pairs = []
    for _ in range(amount):
        spoken = source.choices(VOCABULARY, k=40)
        changed = list(spoken)
        for place in source.sample(range(40), changes):
            changed[place] = source.choice(VOCABULARY)
        pairs.append((" ".join(spoken), " ".join(changed), jaccard(shingles(spoken), shingles(changed))))
    return pairs


@pytest.mark.parametrize("changes", [1, 2, 4])
def test_what_reaches_the_threshold_is_found_and_nothing_below_it(changes: int) -> None:
    pairs = variants(300, changes, seed=changes)
    index = DuplicateIndex(0.7)
    for place, (text, _, _) in enumerate(pairs):
        index.add(str(place), fingerprint(text))
    found = [index.match(fingerprint(changed)) for _, changed, _ in pairs]
    for place, (match, (_, _, similarity)) in enumerate(zip(found, pairs, strict=True)):
        if match:
            assert (match.partner, match.similarity) == (str(place), pytest.approx(similarity))
    reached = [match is not None for match, (_, _, similarity) in zip(found, pairs, strict=True) if similarity >= 0.7]
    assert sum(reached) >= 0.99 * len(reached)
    assert sum(match is not None for match in found) == sum(reached)


def test_the_most_similar_of_several_is_the_partner() -> None:
    index = DuplicateIndex(0.3)
    index.add("far", fingerprint("one two three four five six seven eight x y z"))
    index.add("near", fingerprint("one two three four five six seven eight nine ten x"))
    match = index.match(fingerprint("one two three four five six seven eight nine ten"))
    assert match is not None
    assert match.partner == "near"


@given(st.lists(st.lists(st.sampled_from("abcd"), min_size=8, max_size=14), min_size=1, max_size=6),
       st.lists(st.sampled_from("abcd"), max_size=40), st.floats(0.1, 1.0))  # fmt: skip
def test_every_quotation_is_found_as_by_comparing_with_all(
    texts: list[list[str]], there: list[str], overlap: float
) -> None:
    quoted = QuotedTexts(overlap)
    for place, spoken in enumerate(texts):
        quoted.add(str(place), spoken)
    quoted.finish()
    runs = shingles(there, 8)
    shares = [len(shingles(spoken, 8) & runs) / len(shingles(spoken, 8)) for spoken in texts]
    most = max(shares)
    expected = (str(shares.index(most)), most) if most >= overlap else None
    assert quoted.match(there) == expected


ASKED = "How long should I boil an egg if I want the yolk to be just barely runny?"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (ASKED.upper(), Leak("exact", "e", 1.0)),
        (ASKED + "!!", Leak("near-duplicate", "e", 1.0)),
        (
            "Here is what my aunt asked me on the phone last night when she rang from home: " + ASKED,
            Leak("overlap", "e", 1.0),
        ),
        ("How long should I boil an egg if I want a firm yolk that my children will eat?", None),
        ("Why do eggs burst when I boil them?", None),
    ],
)
def test_a_question_that_gives_an_evaluated_one_away_is_named(asked: str, expected: Leak | None) -> None:
    held_out = EvaluationQuestions([Question(id="e", question=ASKED)], jaccard=0.5, overlap=0.8)
    assert held_out.leak(asked) == expected
