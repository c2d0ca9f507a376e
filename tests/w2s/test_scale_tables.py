"""The tables of docs/scale.md are the plans' own."""

from __future__ import annotations

from pathlib import Path

from tests.command_line import w2s
from w2s.scale_tables import PROFILES, tables, with_tables

DOCUMENT = Path(__file__).parents[2] / "docs" / "scale.md"


def test_the_documents_tables_say_what_the_plans_say() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_tables(text) == text, "run make docs"


def test_a_cell_is_the_number_that_the_command_prints() -> None:
    row = next(line for line in tables().splitlines() if line.startswith("| llama70b_w2s |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")][1:]
    refused = w2s("plan", "llama70b_w2s", "--profile", "a800x8")
    amount, stage = cells[PROFILES.index("a800x8")].removesuffix(")").split(" (")
    assert f"stage {stage}: needs {amount.strip('*')} GiB" in refused.stderr
    fits = w2s("plan", "llama70b_w2s", "--profile", "h100x8x8")
    amount = cells[PROFILES.index("h100x8x8")].split()[0]
    most = next(line for line in fits.stdout.splitlines() if line.startswith("most memory on one device"))
    assert round(float(most.split(": ")[1].split()[0])) == int(amount)
