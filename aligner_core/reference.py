"""The table of all recipe and profile keys, and the profiles' schema, from the code that checks them.

`python -m aligner_core.reference docs|profile`; `make docs` calls it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from aligner_core.configuration import model_of
from aligner_core.profile import Profile
from aligner_core.recipe import (
    AlignerCorrector,
    BestOfCorrector,
    DataSource,
    GateCorrector,
    PromptedCorrector,
    Recipe,
    RefuseCorrector,
    Role,
    Shape,
    StackCorrector,
    Upstream,
)

HEAD = """# Recipe and profile keys

Written by `make docs` from the code that checks them; do not edit. Any key can be overridden on the command line:
`w2s run RECIPE --set student.training.epochs=2`.
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
    ("Profile: where it runs", Profile),
)
OWN_SECTION = (Role, Shape, DataSource, AlignerCorrector, Upstream)


def markdown() -> str:
    """All tables, as Markdown."""
    parts = [HEAD]
    for title, kind in SECTIONS:
        parts += [f"## {title}\n", "| key | default | meaning |", "|---|---|---|"]
        parts += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _rows(kind, "", None)]
        parts.append("")
    return "\n".join(parts).rstrip()


def _rows(kind: type[BaseModel], prefix: str, values: BaseModel | None) -> Iterator[tuple[str, str, str]]:
    """A row per leaf; `values` are the defaults that the section around it gives."""
    for name, field in kind.model_fields.items():
        default = getattr(values, name) if values is not None else field.default
        inner = model_of(field.annotation)
        if inner is None and field.description is None:  # a corrector's kind: the heading of its section says it
            continue
        if inner is None or inner in OWN_SECTION or default is None:
            yield prefix + name, _shown(default), field.description or ""
        else:
            yield from _rows(inner, f"{prefix}{name}.", default if isinstance(default, BaseModel) else None)


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
