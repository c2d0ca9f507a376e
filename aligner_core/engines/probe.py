"""Whether drafting pays here: measured on the first rows, because it depends on machine, model, batch and texts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from aligner_core.engines.drafting import LONGEST, Drafter
from aligner_core.files import read_json, write_json

LIMITS = (0, LONGEST // 4, LONGEST)  # how many tokens may be proposed at once; 0 is plain decoding
TURN = 2  # steps; the limits take turns, so that all see the same rows, batch sizes and disturbances
ENOUGH = 12  # steps of each before a verdict
Setting = Literal["auto", "on", "off"]


@dataclass
class Tally:
    """Sums over decoding steps. `sequence_steps` counts a step once per sequence in it."""

    steps: int = 0
    sequence_steps: int = 0
    tokens: int = 0
    proposed: int = 0
    accepted: int = 0
    seconds: float = 0.0

    def add(self, sequences: int, tokens: int, proposed: int, accepted: int, seconds: float) -> None:
        self.steps += 1
        self.sequence_steps += sequences
        self.tokens += tokens
        self.proposed += proposed
        self.accepted += accepted
        self.seconds += seconds

    def merge(self, other: Tally) -> None:
        self.add(other.sequence_steps, other.tokens, other.proposed, other.accepted, other.seconds)
        self.steps += other.steps - 1

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def words(self) -> str:
        text = f"{self.speed:.0f} tokens/s"
        if not self.proposed:
            return text
        return (
            f"{text}, {self.accepted / self.proposed:.0%} of the proposed tokens accepted, "
            f"{self.tokens / self.sequence_steps:.1f} tokens per step"
        )


@dataclass(frozen=True)
class Verdict:
    """How many tokens may be proposed at once from now on, and why."""

    limit: int
    why: str


@dataclass
class Probe:
    """Tries the limits in turns and counts what each yields, over as many calls as it takes."""

    tallies: dict[int, Tally] = field(default_factory=lambda: {limit: Tally() for limit in LIMITS})
    _steps: int = 0

    def begin_call(self) -> None:
        """The turns begin anew, so that a call is decoded alike whatever was before it."""
        self._steps = 0

    def next_limit(self) -> int:
        """The limit of the step that comes now. Each round begins with another one: texts are copied most at first."""
        turn = self._steps // TURN
        limit = LIMITS[(turn + turn // len(LIMITS)) % len(LIMITS)]
        self._steps += 1
        return limit

    def verdict(self) -> Verdict | None:
        """The fastest limit, once each has been tried enough."""
        if min(tally.steps for tally in self.tallies.values()) < ENOUGH:
            return None
        best = max(LIMITS, key=lambda limit: self.tallies[limit].speed)
        tried = [f"plain {self.tallies[0].words()}"]
        tried += [f"up to {limit} tokens ahead {self.tallies[limit].words()}" for limit in LIMITS[1:]]
        sequences = self.tallies[0].sequence_steps / self.tallies[0].steps
        return Verdict(best, f"at {sequences:.0f} sequences: " + "; ".join(tried))


class DraftPolicy:
    """How far an engine drafts: by the profile's word, or by a probe over the first call.

    The verdict is kept in the file `memory`, with the call it was made in: a resumed stage decodes each row as the
    uninterrupted one does, which in bf16 is needed for equal bytes.
    """

    def __init__(self, setting: Setting, memory: Path | None = None) -> None:
        self._memory = memory
        self._probed_call: str | None = None
        self._verdict: Verdict | None = None
        if setting != "auto":
            self._verdict = Verdict(LONGEST if setting == "on" else 0, f"copy_aware: {setting}")
        elif memory is not None and memory.is_file():
            stored = read_json(memory)
            self._probed_call = stored.pop("call")
            self._verdict = Verdict(**stored)

    def limit(self, call: str) -> int | None:
        """What holds for a call, named by its prompts; None: it is one to probe in."""
        return None if self._verdict is None or call == self._probed_call else self._verdict.limit

    def learn(self, call: str, verdict: Verdict | None) -> None:
        """A call was probed."""
        if verdict is None or self._verdict is not None:
            return
        self._verdict, self._probed_call = verdict, call
        state = f"on, up to {verdict.limit} tokens ahead" if verdict.limit else "off"
        print(f"copy-aware decoding: {state}; {verdict.why}", flush=True)
        if self._memory is not None:
            write_json(self._memory, {**asdict(verdict), "call": call})

    def facts(self) -> dict[str, Any]:
        return {} if self._verdict is None else {"draft_limit": self._verdict.limit, "why": self._verdict.why}


@dataclass
class DecodingRecord:
    """What an engine tells the manifest of its work."""

    total: Tally = field(default_factory=Tally)
    copied: int = 0
    drafted: int = 0

    def saw(self, drafter: Drafter) -> None:
        """An output with a draft is complete."""
        self.copied += drafter.copied
        self.drafted += drafter.followed

    def facts(self, policy: DraftPolicy) -> dict[str, Any]:
        total = self.total
        facts: dict[str, Any] = {
            "tokens": total.tokens,
            "seconds": round(total.seconds, 1),
            "tokens_per_second": round(total.speed, 1),
        }
        if self.drafted:
            facts |= {
                "copy_rate": round(self.copied / self.drafted, 3),
                "acceptance": round(total.accepted / max(1, total.proposed), 3),
                "tokens_per_step": round(total.tokens / max(1, total.sequence_steps), 2),
                **policy.facts(),
            }
        return facts
