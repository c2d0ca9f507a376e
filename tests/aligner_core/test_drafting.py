"""Drafting proposes pieces of the draft, finds its place again after a change, is quiet where nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from aligner_core.engines.drafting import LONGEST, Drafter, accepted

TOKENS = st.lists(st.integers(0, 6), max_size=60)
LIMIT = st.integers(0, 40)


def copied(draft: Sequence[int], output: Sequence[int]) -> int:
    drafter = Drafter(draft)
    drafter.follow(output)
    return drafter.copied


def decode(draft: Sequence[int], output: Sequence[int], limit: int) -> tuple[list[int], int, int]:
    """Greedy decoding by a model that wants to say `output`: (what came out, steps, proposed tokens)."""
    drafter, said, steps, proposed = Drafter(draft), list[int](), 0, 0
    while len(said) < len(output):
        proposal = drafter.propose(min(limit, len(output) - len(said) - 1))
        kept = accepted(proposal, output[len(said) : len(said) + len(proposal) + 1])
        new = list(output[len(said) : len(said) + kept + 1])
        assert list(proposal[:kept]) == new[:kept]
        drafter.follow(new)
        said += new
        steps, proposed = steps + 1, proposed + len(proposal)
    return said, steps, proposed


@given(TOKENS, TOKENS, LIMIT)
def test_a_proposal_is_a_piece_of_the_draft_within_the_limit(draft: list[int], output: list[int], limit: int) -> None:
    drafter = Drafter(draft)
    drafter.follow(output)
    proposal = drafter.propose(limit)
    assert len(proposal) <= min(limit, LONGEST)
    assert not proposal or any(draft[at : at + len(proposal)] == proposal for at in range(len(draft)))


@given(TOKENS, TOKENS, LIMIT)
def test_any_draft_gives_the_same_output_in_no_more_steps_than_tokens(
    draft: list[int], output: list[int], limit: int
) -> None:
    said, steps, _ = decode(draft, output, limit)
    assert said == output
    assert steps <= len(output)


@given(TOKENS, TOKENS, st.data())
def test_it_does_not_matter_in_what_portions_an_output_comes(
    draft: list[int], output: list[int], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(0, len(output)))
    whole, parts = Drafter(draft), Drafter(draft)
    whole.follow(output)
    parts.follow(output[:cut])
    parts.follow(output[cut:])
    assert whole.propose(LONGEST) == parts.propose(LONGEST)
    assert (whole.copied, whole.followed) == (parts.copied, parts.followed)


@given(st.lists(st.integers(), min_size=1, max_size=200, unique=True))
def test_a_plain_copy_takes_few_steps_and_no_proposal_is_wrong(draft: list[int]) -> None:
    said, steps, proposed = decode(draft, draft, LONGEST)
    assert said == draft
    assert steps <= 3 + len(draft) // LONGEST
    assert proposed == len(draft) - steps
    assert copied(draft, draft) == len(draft)


@given(
    st.lists(st.integers(0, 10**6), min_size=30, max_size=80, unique=True),
    st.integers(0, 20),
    st.integers(0, 20),
    st.lists(st.integers(-9, -1), max_size=5),
)
def test_the_place_is_found_again_two_tokens_after_any_change(
    draft: list[int], start: int, removed: int, inserted: list[int]
) -> None:
    rest = draft[start + min(removed, len(draft) - start - 3) :]
    drafter = Drafter(draft)
    drafter.follow([*draft[:start], *inserted, *rest[:2]])
    assert drafter.propose(1) == rest[2:3]


@given(st.lists(st.integers(-50, -1), min_size=1, max_size=100), st.lists(st.integers(0, 50), max_size=60))
def test_where_nothing_is_copied_only_the_beginning_is_tried(output: list[int], draft: list[int]) -> None:
    _, steps, proposed = decode(draft, output, LONGEST)
    assert steps == len(output)
    assert proposed <= 4
    assert copied(draft, output) == 0


@given(TOKENS, TOKENS)
def test_accepted_counts_the_common_beginning(proposal: list[int], chosen: list[int]) -> None:
    chosen = [*chosen, *[9] * (len(proposal) + 1 - len(chosen))]
    count = accepted(proposal, chosen)
    assert proposal[:count] == chosen[:count]
    assert count == len(proposal) or proposal[count] != chosen[count]
