"""Which systems a report compares, what they are, and which published comparison each corresponds to."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

# first, second: omega is the first's.
WEAK_TO_STRONG = (
    ("aligned", "upstream"),
    ("student", "upstream"),
    ("student", "floor"),
    ("student", "aligned"),
    ("ceiling", "student"),
    ("ceiling", "floor"),
    ("student_more", "student"),
    ("student_more", "upstream"),
)
COMPARED = "by_"  # a further corrector's system: the upstream's answers corrected by it
MEANINGS = {
    "upstream": "the strong model as it came",
    "aligned": "its answers corrected by the Aligner",
    "floor": "the weak model trained on the ground truth of W",
    "student": "the strong model trained on weak labels",
    "student_more": "the student with weak labels for the further questions too",
    "ceiling": "the strong model trained on the ground truth of S",
}
# The letters under which the source compares them.
LETTERS = {"upstream": "A", "aligned": "B", "student": "C"}
ARM = "aligned_"  # begins the names of further Aligners' corrections
PUBLISHED_METHODS = {"sft": "SFT", "dpo": "DPO", "ppo": "RLHF"}


def is_ida(systems: Sequence[str]) -> bool:
    """Rounds of IDA name their systems by letters, A first."""
    return "A" in systems


def pairs(systems: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs to compare: by name for weak-to-strong; for IDA's letters, those of the source's table.

    For A, B, C, D, ...: each with the one before it (B-A, C-B, D-C), and each with the one two before (C-A, D-B).
    """
    if not is_ida(systems):
        arms = [pair for arm in systems if arm.startswith(ARM) for pair in ((arm, "upstream"), (arm, "aligned"))]
        compared = [(system, "upstream") for system in systems if system.startswith(COMPARED)]
        return [pair for pair in WEAK_TO_STRONG if set(pair) <= set(systems)] + arms + compared
    letters = sorted(systems)
    return [(second, first) for first, second in pairwise(letters)] + [
        (second, first) for first, second in zip(letters, letters[2:], strict=False)
    ]


def steps(systems: Sequence[str]) -> list[tuple[int, str, str, str]]:
    """What IDA's rounds do: (round, "amplify" or "distil", system before, system after), in order."""
    letters = sorted(systems)
    found = []
    for index in range(0, len(letters), 2):
        number = index // 2 + 1
        found += [(number, "amplify", letters[index], after) for after in letters[index + 1 : index + 2]]
        found += [(number, "distil", letters[index], after) for after in letters[index + 2 : index + 3]]
    return found


def meaning(system: str) -> str:
    """What a system's name stands for, in words."""
    if system in MEANINGS:
        return MEANINGS[system]
    if system.startswith(ARM):
        return f"the upstream's answers corrected by the Aligner of the arm {system.removeprefix(ARM)}"
    if system.startswith(COMPARED):
        return f"the upstream's answers corrected by {system.removeprefix(COMPARED)}"
    number, corrected = divmod(ord(system) - ord("A"), 2)
    model = "the upstream" if number == 0 else f"the model after round {number}"
    return f"{model}, its answers corrected by the Aligner" if corrected else model


def redistributions(systems: Sequence[str]) -> list[tuple[str, str]]:
    """Before and after, for the figures of how scores move; the first is what the examples show."""
    if is_ida(systems):
        return list(dict.fromkeys([("A", "B"), ("A", sorted(systems)[-2])]))
    return [pair for pair in (("upstream", "aligned"), ("upstream", "student")) if set(pair) <= set(systems)]
