"""How many records each part of the data will have, and how long they are: for planning, before anything is read."""

from __future__ import annotations

from dataclasses import dataclass

from aligner_core.data_sources import Size, size_of
from aligner_core.mixing import mixed_counts
from aligner_core.recipe import Data, Part, Recipe


@dataclass(frozen=True)
class Sizes:
    """How many records each part will have, and how long they are, for planning."""

    weak: int
    strong: int
    queries: int
    evaluation: int
    instructions: int
    preferences: int
    safety: int
    question: int
    text: int


def planned_sizes(recipe: Recipe) -> Sizes:
    data, limits = recipe.data, recipe.data.limits
    corrections = _mixed_size(data, "corrections", data.expected.corrections)
    weak = round(corrections.records * data.weak_share)
    return Sizes(
        weak=min(weak, limits.corrections or weak),
        strong=min(corrections.records - weak, limits.weak_labels or corrections.records),
        queries=_records(data, "queries", 0, limits.queries),
        evaluation=_records(data, "evaluation", data.expected.evaluation, limits.evaluation),
        instructions=_records(data, "instructions", data.expected.instructions, limits.instructions),
        preferences=_records(data, "preferences", data.expected.corrections, limits.preferences),
        safety=_records(data, "safety", data.expected.corrections, limits.safety),
        question=corrections.question_tokens,
        text=min(corrections.text_tokens, recipe.generation.max_new_tokens),
    )


def _records(data: Data, part: Part, expected: int, limit: int | None) -> int:
    found = _mixed_size(data, part, expected).records if getattr(data, part) else 0
    return min(found, limit or found)


def _mixed_size(data: Data, part: Part, expected: int) -> Size:
    """Size of a part after mixing; `expected` records where a source cannot be read without a network."""
    sources = list(data.sources(part).values())
    unknown = Size(expected, data.expected.question_tokens, data.expected.answer_tokens)
    sizes = [size_of(item.source, item.columns) or unknown for item in sources]
    counts = mixed_counts([size.records for size in sizes], [item.weight for item in sources])
    total = max(1, sum(counts))
    question = sum(size.question_tokens * count for size, count in zip(sizes, counts, strict=True))
    text = sum(size.text_tokens * count for size, count in zip(sizes, counts, strict=True))
    return Size(sum(counts), round(question / total), round(text / total))
