"""The table of all recipe and profile keys, and the profiles' schema, from the code that checks them.

`python -m aligner_core.reference docs|profile`; `make docs` calls it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined

from aligner_core.configuration import model_of
from aligner_core.profile import Profile, Rehearsal
from aligner_core.recipe import (
    AlignerCorrector,
    BestOfCorrector,
    DataSource,
    GateCorrector,
    HeldOut,
    Lora,
    PromptedCorrector,
    Recipe,
    RefuseCorrector,
    Role,
    Shape,
    StackCorrector,
    Training,
    Upstream,
)

HEAD = """# Recipe and profile keys

Written by `make docs` from the code that checks them; do not edit. Any key can be overridden on the command line:
`w2s run RECIPE --set student.training.epochs=2`. `lora`, `held_out` and `rehearsal` are off by default; their keys
have tables of their own below. The keys of IDA's `rounds` are in [ida.md](ida.md).
"""
SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("Recipe: what the experiment is", Recipe),
    ("A corrector of kind aligner", AlignerCorrector),
    ("A corrector of kind cai, self_refine or self_critique", PromptedCorrector),
    ("A corrector of kind refuse", RefuseCorrector),
    ("A corrector of kind stack", StackCorrector),
    ("A corrector of kind best_of", BestOfCorrector),
    ("A corrector of kind gate", GateCorrector),
    ("A role, where it is more than a model's id", Role),
    ("An upstream of the main table, where it is more than a model's id", Upstream),
    ("A data source, where it is more than a name", DataSource),
    ("The shape of a model that plan does not know", Shape),
    ("Adapters: lora", Lora),
    ("Records kept out: held_out", HeldOut),
    ("Profile: where it runs", Profile),
    ("A profile's rehearsal", Rehearsal),
)
OWN_SECTION = (Role, Shape, DataSource, AlignerCorrector, Upstream)
SWITCHED_ON: dict[str, Any] = {"lora": Lora(), "held_out": HeldOut(), "keep_steps": [1]}  # a section may refuse them
Accepts = Callable[[str, Any], bool]


def markdown() -> str:
    """All tables, as Markdown."""
    parts = [HEAD]
    for title, kind in SECTIONS:
        parts += [f"## {title}\n", "| key | default | meaning |", "|---|---|---|"]
        parts += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _rows(kind, "", None)]
        parts.append("")
    return "\n".join(parts).rstrip()


def _rows(
    kind: type[BaseModel], prefix: str, values: BaseModel | None, accepts: Accepts = lambda key, value: True
) -> Iterator[tuple[str, str, str]]:
    """A row per leaf; of the section around it, `values` are the defaults and `accepts` says what it lets pass."""
    for name, field in kind.model_fields.items():
        default = getattr(values, name) if values is not None else field.default
        inner = model_of(field.annotation)
        if inner is None and field.description is None:  # a corrector's kind: the heading of its section says it
            continue
        if name in SWITCHED_ON and not accepts(name, SWITCHED_ON[name]):
            continue
        if inner is None or inner in OWN_SECTION or default is None:
            choices = [choice for choice in _choices(field.annotation) if accepts(name, choice)]
            yield prefix + name, _shown(default), _meaning(field.description or "", choices)
        else:
            within = {"accepts": partial(_accepts, kind, name)} if inner is Training else {}
            yield from _rows(inner, f"{prefix}{name}.", default if isinstance(default, BaseModel) else None, **within)


def _accepts(kind: type[BaseModel], section: str, key: str, value: Any) -> bool:
    """Whether a section whose keys all have defaults lets pass this value in a section of its own."""
    try:
        kind.model_validate({section: {key: value}})
    except ValidationError:
        return False
    return True


def _choices(annotation: Any) -> list[Any]:
    """The values of a Literal, also of one inside a list."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for option in get_args(annotation) for choice in _choices(option)]


def _meaning(description: str, choices: Sequence[Any]) -> str:
    """The description, with the values that may be chosen where it does not name them all, as YAML wants them."""
    if all(re.search(rf"\b{re.escape(str(choice))}\b", description) for choice in choices):
        return description
    written = [choice if yaml.safe_load(str(choice)) == choice else json.dumps(choice) for choice in choices]
    return f"{description} ({', '.join(f'`{choice}`' for choice in written)})"


def _shown(default: Any) -> str:
    if default is PydanticUndefined:
        return "**required**"
    if isinstance(default, Role):
        return f"`{default.model}`"
    if isinstance(default, AlignerCorrector):
        return f"`{default.kind}`"
    return f"`{json.dumps(default)}`"


if __name__ == "__main__":
    print(markdown() if sys.argv[1:] == ["docs"] else json.dumps(Profile.model_json_schema(), indent=2))
