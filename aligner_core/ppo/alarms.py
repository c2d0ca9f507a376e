"""Signs that a policy is running away: too far from its reference, certain of itself, too long or short, or worse."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aligner_core.errors import Problem
from aligner_core.recipe.students import Ppo

WHERE = "student.ppo"


def alarms(row: Mapping[str, float], first: Mapping[str, float], section: Ppo) -> list[Problem]:
    """What is wrong with an iteration's rollouts; empty where all is well.

    Args:
        row: metrics of the iteration: iteration, kl, entropy, length, score.
        first: those of the first iteration, and `score_spread`.
    """
    found: list[Problem] = []

    def sound(key: str, what: str, fix: str) -> None:
        found.append(Problem(f"{WHERE}.{key}", f"iteration {row['iteration']:.0f}: {what}", fix))

    broken = [name for name in ("kl", "entropy", "score") if not math.isfinite(row[name])]
    if broken:
        sound("learning_rate", f"{', '.join(broken)} is not a number any more", "lower it")
    if section.max_kl is not None and row["kl"] > section.max_kl:
        what = f"rollouts diverge from the reference by {row['kl']:.2f} nats, over max_kl {section.max_kl:g}"
        sound("max_kl", what, "raise student.ppo.kl, lower learning_rate, or raise max_kl")
    if row["entropy"] < section.min_entropy:
        what = f"entropy per token is {row['entropy']:.3f} nats, under min_entropy {section.min_entropy:g}"
        sound("min_entropy", what, "raise student.ppo.kl, lower learning_rate, or lower min_entropy")
    limit = section.max_length_ratio
    ratio = row["length"] / first["length"]
    if limit is not None and not 1 / limit <= ratio <= limit:
        what = f"rollouts have {row['length']:.1f} tokens on average, and had {first['length']:.1f} at first"
        sound("max_length_ratio", what, "raise student.ppo.kl or unfinished_penalty, or raise max_length_ratio")
    if section.max_score_drop is not None:
        drop = (first["score"] - row["score"]) / max(first["score_spread"], 1e-8)
        if drop > section.max_score_drop:
            what = f"the mean score fell from {first['score']:.3f} to {row['score']:.3f}, {drop:.2f} of its spreads"
            sound("max_score_drop", what, "lower student.ppo.learning_rate or ptx, or raise max_score_drop")
    return found
