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
    question: int
    text: int


def planned_sizes(recipe: Recipe) -> Sizes:
    data, limits = recipe.data, recipe.data.limits
    corrections = _mixed_size(data, "corrections", data.expected.corrections)
    evaluation = _mixed_size(data, "evaluation", data.expected.evaluation).records
    queries = _mixed_size(data, "queries", 0).records if data.queries else 0
    instructions = _mixed_size(data, "instructions", data.expected.instructions).records if data.instructions else 0
    weak = round(corrections.records * data.weak_share)
    return Sizes(
        weak=min(weak, limits.corrections or weak),
        strong=min(corrections.records - weak, limits.weak_labels or corrections.records),
        queries=min(queries, limits.queries or queries),
        evaluation=min(evaluation, limits.evaluation or evaluation),
        instructions=min(instructions, limits.instructions or instructions),
        question=corrections.question_tokens,
        text=min(corrections.text_tokens, recipe.generation.max_new_tokens),
    )


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
