"""What a run's systems are, by their names: the one place that knows how the builders name them.

Weak-to-strong: upstream, aligned, aligned_ARM, by_CORRECTOR, floor, ceiling, student[_more][_dpo|_ppo]. Main table:
the first four followed by @ and the upstream's name. IDA: letters, every second one the letter before it corrected.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Part = Literal["upstream", "corrected", "floor", "student", "ceiling", "other"]
Method = Literal["sft", "dpo", "ppo"]
ALIGNED, UPSTREAM = "aligned", "upstream"
ARM, COMPARED, OF = "aligned_", "by_", "@"
STUDENT = re.compile(r"student(?P<more>_more)?(?:_(?P<method>dpo|ppo))?")
METHODS: dict[Method, str] = {"sft": "SFT", "dpo": "DPO", "ppo": "RLHF"}  # as the paper calls them
LEARNT = {
    "weak_labels": "weak labels",
    "corrections": "the ground truth of W, as the Aligner is",
    "preferences": "preferences of others",
}


@dataclass(frozen=True)
class System:
    """One system of a run.

    Attributes:
        part: what it is in the experiment; a round's model is a student, and a name that is not known is "other".
        meaning: the same in words.
        of: the upstream whose cell of a main table it is in; "" elsewhere.
        method: how a student was trained.
        letter: under which the paper compares it, if it does.
    """

    name: str
    part: Part
    meaning: str
    of: str = ""
    method: Method | None = None
    letter: str = ""

    @property
    def base(self) -> str:
        """Its name without that of the upstream."""
        return self.name.partition(OF)[0]

    @property
    def reference(self) -> str:
        """The upstream that it is measured against."""
        return UPSTREAM + OF + self.of if self.of else UPSTREAM


def system_of(name: str, learns_from: str = "weak_labels") -> System:
    """What a name stands for.

    Args:
        learns_from: the recipe's student.learns_from.
    """
    base, _, of = name.partition(OF)
    if found := STUDENT.fullmatch(base):
        method: Method = found["method"] or "sft"  # type: ignore[assignment]
        more = ", those for the further questions too" if found["more"] else ""
        meaning = f"the strong model trained on {LEARNT[learns_from]}{more}, by {method.upper()}"
        return System(name, "student", meaning, of, method, "" if more else "C")
    if len(base) == 1 and base.isupper():
        return _of_round(base)
    whose = f"{of}'s answers" if of else "the upstream's answers"
    if base.startswith(ARM):
        meaning = f"{whose} corrected by the Aligner of the arm {base.removeprefix(ARM)}"
        return System(name, "corrected", meaning, of)
    if base.startswith(COMPARED):
        return System(name, "corrected", f"{whose} corrected by {base.removeprefix(COMPARED)}", of)
    known: dict[str, tuple[Part, str, str]] = {
        UPSTREAM: ("upstream", of or "the strong model as it came", "A"),
        ALIGNED: ("corrected", f"{whose} corrected by the Aligner", "B"),
        "floor": ("floor", "the weak model trained on the ground truth of W", ""),
        "ceiling": ("ceiling", "the strong model trained on the ground truth of S", ""),
    }
    part, meaning, letter = known.get(base, ("other", base, ""))
    return System(name, part, meaning, of, letter="" if of else letter)


def _of_round(letter: str) -> System:
    number, corrected = divmod(ord(letter) - ord("A"), 2)
    model = "the upstream" if number == 0 else f"the model after round {number}"
    if corrected:
        return System(letter, "corrected", f"{model}, its answers corrected by the Aligner", letter=letter)
    return System(letter, "student" if number else "upstream", model, letter=letter)


def systems_of(names: Sequence[str], recipe: dict[str, Any]) -> dict[str, System]:
    """All systems of a run by name, in its order."""
    learns_from = (recipe.get("student") or {}).get("learns_from", "weak_labels")
    return {name: system_of(name, learns_from) for name in names}


def is_ida(names: Sequence[str]) -> bool:
    """Rounds of IDA name their systems by letters, A first."""
    return "A" in names


def is_main_table(names: Sequence[str]) -> bool:
    return any(OF in name for name in names)


def letters(names: Sequence[str]) -> list[str]:
    """The systems of IDA's rounds, in their order."""
    return sorted(name for name in names if len(name) == 1)


def students(names: Sequence[str]) -> list[str]:
    """The names that are a student's, in the run's order."""
    return [name for name in names if system_of(name).part == "student"]
