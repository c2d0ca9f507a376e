"""The tables of docs/scale.md, from the plans themselves: what fits where, and which knob to turn where it does not.

`python -m w2s.scale_tables docs/scale.md` writes them into the file; `make docs` calls it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from aligner_core.configuration import load, load_profile
from aligner_core.estimates import Estimate, estimate
from aligner_core.estimates.place import USABLE
from aligner_core.files import write_text
from aligner_core.plan import make_plan
from aligner_core.profile import Profile
from aligner_core.recipe import Recipe, Role, Shape
from aligner_core.shapes import shape_of
from aligner_core.work import PolicyWork, PreferenceWork, TrainingWork, Work
from w2s.pipeline import build

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
PROFILES = ("h200x1", "a800x8", "h100x8", "h100x8x8")
RECIPES = ("aligner_2b", "aligner_7b", "aligner_13b", "aligner_70b", "llama70b_w2s")
STUDENTS = {"7B": "meta-llama/Llama-2-7b-hf", "13B": "meta-llama/Llama-2-13b-hf", "70B": "meta-llama/Llama-2-70b-hf"}
SCORES = "meta-llama/Llama-2-7b-hf"
# What a student of 10,000 questions does, with the defaults of the recipe keys.
QUESTION, TEXT, LONGEST, RECORDS, BATCH, LORA = 100, 200, 2048, 10_000, 128, 16


def tables() -> str:
    """Both tables and the knobs, as Markdown."""
    students = {f"{size}, {method}": work for size in STUDENTS for method, work in _works(size).items()}
    planned = {name: {profile: _planned(name, profile) for profile in PROFILES} for name in RECIPES}
    found = {
        name: {place: ("", estimate(work, load_profile(place))) for place in PROFILES}
        for name, work in students.items()
    }
    limit = f"the plan uses at most {100 * USABLE:.0f} % of a device's memory"
    return "\n\n".join([
        f"A student of 10,000 questions, GiB on each device (**bold**: does not fit; {limit}):",
        _table("student", found),
        "Every stage of a recipe, GiB on each device of the one that needs the most:",
        _table("recipe", planned),
        "What to turn where it does not fit:",
        "\n".join(["| what | profile | set in the profile |", "|---|---|---|", *_knobs({**found, **planned})]),
    ])  # fmt: skip


def _works(size: str) -> Mapping[str, Work]:
    shape, scores = (shape_of(Role(model=model), "role") for model in (STUDENTS[size], SCORES))
    tokens = QUESTION + TEXT
    return {
        "SFT": TrainingWork(shape, RECORDS, tokens, TEXT, 3, BATCH, LONGEST),
        "SFT by adapters": TrainingWork(shape, RECORDS, tokens, TEXT, 3, BATCH, LONGEST, lora_rank=LORA),
        "DPO": PreferenceWork(shape, RECORDS, tokens, TEXT, 3, BATCH, LONGEST),
        "PPO": _ppo(shape, scores, None),
        "PPO by adapters": _ppo(shape, scores, LORA),
    }


def _ppo(policy: Shape, scores: Shape, lora_rank: int | None) -> PolicyWork:
    """Reward, cost and value model have 7B."""
    return PolicyWork(
        policy, scores, (scores, scores), 2 * RECORDS // BATCH, BATCH, QUESTION, TEXT, QUESTION + 1024, BATCH,
        label_tokens=QUESTION + TEXT, lora_rank=lora_rank,
    )  # fmt: skip


def _planned(recipe: str, profile: str) -> tuple[str, Estimate]:
    """The stage that does not fit, else the one that needs the most memory."""
    checked, place, _ = load(Recipe, recipe, profile)
    plan = make_plan(Path("runs") / "planned", build(checked, place), place)
    hardest = max(plan, key=lambda item: (item.estimate.too_large is not None, item.estimate.memory_gib))
    return hardest.stage.name, hardest.estimate


def _table(head: str, found: Mapping[str, Mapping[str, tuple[str, Estimate]]]) -> str:
    places = {name: load_profile(name) for name in PROFILES}
    titles = [f"{name} ({_devices(place)})" for name, place in places.items()]
    lines = [f"| {head} | {' | '.join(titles)} |", "|---" * (1 + len(places)) + "|"]
    for name, row in found.items():
        lines.append(f"| {name} | {' | '.join(_cell(*row[place]) for place in places)} |")
    return "\n".join(lines)


def _devices(profile: Profile) -> str:
    count = profile.nodes * profile.device.count
    return f"{count} x {profile.device.memory_gib:.0f} GiB"


def _cell(stage: str, need: Estimate) -> str:
    amount = f"{need.memory_gib:.0f}"
    return (f"**{amount}**" if need.too_large else amount) + (f" ({stage})" if stage else "")


def _knobs(found: Mapping[str, Mapping[str, tuple[str, Estimate]]]) -> Iterator[str]:
    for name, row in found.items():
        for place, (_, need) in row.items():
            if need.too_large:
                words = need.too_large.removeprefix("set ").removesuffix(" in the profile")
                yield f"| {name} | {place} | {words if 'smaller' in words else f'`{words}`'} |"


def with_tables(text: str) -> str:
    """The document with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    document = Path(sys.argv[1])
    write_text(document, with_tables(document.read_text(encoding="utf-8")))
