"""Correctors in one line, for a command line or a recipe: `aligner:PATH`, `cai:MODEL`, `stack:[cai, aligner:PATH]`.

What needs more settings is written as a YAML mapping: `{kind: best_of, of: "aligner:PATH", scorer: PATH, n: 8}`.
"""

from __future__ import annotations

from typing import Any

import yaml

SCORED = ("refuse", "gate", "best_of")


def parse_corrector(text: str) -> Any:
    """The mapping that a line stands for, to be checked by the recipe's types; inner lines are left as they are.

    Raises:
        ValueError: if brackets do not pair up, or what looks like a mapping is none.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(f"is not a YAML mapping: {error}") from None
    kind, _, rest = text.partition(":")
    if rest.startswith("["):
        inner = _split(rest)
        return {"kind": kind, "of": inner if kind == "stack" else inner[0]}
    if not rest:
        return {"kind": kind}
    return {"kind": kind, "scorer" if kind in SCORED else "model": rest}


def _split(text: str) -> list[str]:
    """The parts of `[a, b:[c, d]]` at its own commas."""
    parts, depth, start = [], 0, 1
    for place, character in enumerate(text):
        depth += (character in "[{") - (character in "]}")
        if (character == "," and depth == 1) or (depth == 0 and place == len(text) - 1):
            parts.append(text[start:place].strip())
            start = place + 1
        elif depth == 0:
            break
    if depth or start != len(text):
        raise ValueError(f'brackets do not pair up in "{text}"')
    return parts
