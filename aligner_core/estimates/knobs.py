"""The least change to a profile that makes a stage fit, in the order in which a person would try."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from aligner_core.profile import Profile

KEYS = ("micro_batch", "gradient_checkpointing", "zero.stage", "zero.offload", "generation.engine",
        "generation.tensor_parallel", "generation.batch", "nodes", "processes")  # fmt: skip
Saving = dict[str, Any]


def knob(
    profile: Profile, fits_on: Callable[[Profile], bool], first: Sequence[Saving] = (), otherwise: str | None = None
) -> str:
    """What to write into the profile.

    Args:
        first: savings that only this stage knows, tried before the others, alone and together with them.
        otherwise: what to say where nothing helps.
    """
    for trial in _cheaper(profile, first):
        if fits_on(trial):
            return f"set {_changes(profile, trial)} in the profile"
    return otherwise or "choose a smaller model for this role"


def _cheaper(profile: Profile, first: Sequence[Saving]) -> Iterator[Profile]:
    """Each saving alone, then all of them, then all of them on more nodes."""
    sharded = profile.zero.model_copy(update={"stage": 3})
    on_gpu = profile.device.kind == "cuda"
    savings = [*first, *([{"micro_batch": 1}] if profile.micro_batch else []), {"gradient_checkpointing": True}]
    savings.append({"zero": sharded} if profile.processes > 1 else {})
    savings.append({"zero": sharded.model_copy(update={"offload": True})} if on_gpu else {})
    together = profile
    for saving in savings:
        yield profile.model_copy(update=saving)
        together = together.model_copy(update=saving)
        yield together
    for nodes in (2, 4, 8, 16, 32, 64) if on_gpu else ():
        if nodes > profile.nodes:
            more = {"nodes": nodes, "processes": nodes * profile.device.count}
            zero = together.zero.model_copy(update={"offload": profile.zero.offload})
            yield together.model_copy(update={**more, "zero": zero})
            yield together.model_copy(update=more)


def _changes(profile: Profile, trial: Profile) -> str:
    """What to write into the profile to make it the other."""
    values = [(key, attrgetter(key)(profile), attrgetter(key)(trial)) for key in KEYS]
    return ", ".join(f"{key}: {json.dumps(after)}" for key, before, after in values if before != after)
