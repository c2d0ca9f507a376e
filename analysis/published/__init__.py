"""The numbers that the paper published, one CSV file per table, each row with its source.

    from analysis import published
    published.load("weak_to_strong")

Units: omega and win rates in percent; `helpful` and `harmless` are omegas in tables of comparisons, and scores in
`redistribution`, `checkpoints` and `multi_round`; fractions are shares of the training set; lengths are in words.
Scores and judges are the paper's own: set beside a run, they tell directions and sizes, and are never a yardstick.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from aligner_core.errors import Problem, UserError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All tables, by name."""
    return sorted(path.stem for path in FOLDER.glob("*.csv"))


def load(name: str) -> pd.DataFrame:
    """One table; its last column, `source`, says where each row was published.

    Raises:
        UserError: if there is no such table.
    """
    if name not in names():
        raise UserError(Problem(name, "is no published table", f"name one of: {', '.join(names())}"))
    return pd.read_csv(FOLDER / f"{name}.csv")
