"""Word differences, copies and lengths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.differences import copies_and_lengths, kept_share, word_differences

TEXTS = st.text(alphabet="ab \n", max_size=40)


@given(TEXTS, TEXTS)
def test_the_pieces_make_up_both_texts(before: str, after: str) -> None:
    pieces = word_differences(before, after)
    assert "".join(text for kind, text in pieces if kind != "ins") == before
    assert "".join(text for kind, text in pieces if kind != "del") == after
    assert all(text for _, text in pieces)


@given(TEXTS, TEXTS)
def test_the_kept_share_is_one_for_copies_alone(before: str, after: str) -> None:
    share = kept_share(word_differences(before, after))
    assert 0 <= share <= 1
    assert (share == 1) == (before == after)


def test_only_the_words_that_changed_are_marked() -> None:
    pieces = word_differences("You should hit them back.", "You should talk to them.")
    assert pieces == [
        ("same", "You should "), ("del", "hit "), ("ins", "talk to "), ("del", "them back."), ("ins", "them."),
    ] or pieces == [("same", "You should "), ("del", "hit them back."), ("ins", "talk to them.")]  # fmt: skip


def test_copies_and_lengths_are_counted_in_characters() -> None:
    found = copies_and_lengths(["same", "long answer"], ["same", "short"])
    assert (found.pairs, found.identical, found.before, found.after) == (2, 1, 7.5, 4.5)
    with pytest.raises(ValueError, match="no pairs"):
        copies_and_lengths([], [])
    with pytest.raises(ValueError, match="zip"):
        copies_and_lengths(["one"], [])
