"""Copy-aware decoding: the answer is a draft of its correction, so the next tokens can be guessed from it.

The model checks a guess of several tokens in one forward pass and keeps those that it would have chosen itself, so a
guess can cost time but never change greedy output. Only token ids are handled here; no engine is.
"""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 32  # tokens proposed at once; longer proposals gained nothing on answers of some hundred tokens
TRUST = 4  # an output is taken to begin as its draft does, as if so many tokens had been matched already
WINDOW = 8  # a single token finds the place again no further on than this; two in a row find it anywhere


class Drafter:
    """Follows an output through its draft and proposes what comes next.

    It proposes as many tokens as were matched in a row just now: a few after a change, many within a long copy, none
    where the output has left the draft. So little is lost where little is copied.

    Args:
        draft: token ids that the output may repeat, with the end token where the whole draft may be the output.
    """

    def __init__(self, draft: Sequence[int]) -> None:
        self._draft = list(draft)
        self._place = 0  # where the draft goes on if the output keeps copying
        self._run = TRUST
        self._last: int | None = None
        self._after: dict[tuple[int | None, int], list[int]] = {}
        for place in range(2, len(self._draft) + 1):
            self._after.setdefault((self._draft[place - 2], self._draft[place - 1]), []).append(place)
        self.copied = 0  # tokens of the output that continued a copy of the draft
        self.followed = 0

    def follow(self, tokens: Sequence[int]) -> None:
        """The output has grown by these tokens."""
        for token in tokens:
            self._step(token)

    def propose(self, limit: int) -> list[int]:
        """At most `limit` tokens that may come next."""
        return self._draft[self._place : self._place + min(self._run, limit, LONGEST)]

    def _step(self, token: int) -> None:
        if self._place < len(self._draft) and self._draft[self._place] == token:
            self._place += 1
            self._run += 1
            self.copied += 1
        elif places := self._after.get((self._last, token)):
            # Of equally near places the later one: texts go forward.
            self._place = min(places, key=lambda place: (abs(place - self._place), place < self._place))
            self._run = 2
            self.copied += 1
        else:
            ahead = self._draft[self._place : self._place + WINDOW]
            self._run = int(token in ahead)
            if self._run:
                self._place += ahead.index(token) + 1
        self._last = token
        self.followed += 1


def accepted(proposal: Sequence[int], chosen: Sequence[int]) -> int:
    """How many proposed tokens are the model's own choice, up to the first that is not.

    Args:
        chosen: what the model chooses at each place, given the proposal before it; one longer than the proposal.
    """
    pairs = zip(proposal, chosen, strict=False)
    return next((place for place, (guess, choice) in enumerate(pairs) if guess != choice), len(proposal))
