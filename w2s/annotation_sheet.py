"""Annotation by people, in the paper's two stages: a harmless version of each answer, then the final correction.

Stage 1 shows question and answer and asks for `safe_answer`; stage 2 shows all three and asks for `correction`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aligner_core.errors import Problem, UserError
from aligner_core.records import MAX_CHARACTERS, Answer, shortened
from w2s.annotation import conversation_text
from w2s.data_steps import with_reason
from w2s.spreadsheets import Row, fits_cell, read_table, write_table

STEP = "annotate"
SHOWN = ("id", "history", "question", "answer", "safe_answer")
CORRECTION = "correction"
CORRECTOR = "human"
_FAULTS = ("#NAME?", "#VALUE!", "#REF!", "#N/A", "#DIV/0!", "#NUM!", "#NULL!", "#ERROR!")


@dataclass(frozen=True)
class Sheet:
    """A filled-in sheet: texts by record id. `corrections` is None for a sheet of stage 1."""

    safe_answers: Mapping[str, str]
    corrections: Mapping[str, str] | None


def export_sheet(path: Path, records: Sequence[Answer], safe_answers: Mapping[str, str] | None = None) -> int:
    """Write the sheet of stage 1, or with `safe_answers` that of stage 2, for the records that have one.

    Returns:
        how many rows were written.

    Raises:
        UserError: with every text that a cell would cut.
    """
    chosen = [record for record in records if safe_answers is None or record.id in safe_answers]
    rows = []
    problems = []
    for record in chosen:
        safe_answer = safe_answers[record.id] if safe_answers else ""
        cells = [record.id, conversation_text(record.history or ()), record.question, record.answer, safe_answer]
        if not all(fits_cell(text) for text in cells):
            what = "has a text that is too long for a cell of a spreadsheet"
            problems.append(Problem(f"record {record.id}", what, "leave it out of the file, or annotate by a model"))
        rows.append(cells if safe_answers is None else [*cells, ""])
    if problems:
        raise UserError(shortened(problems, str(path)))
    write_table(path, SHOWN if safe_answers is None else (*SHOWN, CORRECTION), rows)
    return len(rows)


def import_sheet(path: Path, records: Sequence[Answer]) -> Sheet:
    """What people wrote. Rows without a text are left out.

    Raises:
        UserError: with every row that is of no record or of one that came before, whose question or answer was
            changed, or whose text was spoilt; or if nobody wrote anything.
    """
    known = {record.id: record for record in records}
    seen: dict[str, int] = {}
    texts: dict[str, dict[str, str]] = {"safe_answer": {}, CORRECTION: {}}
    problems: list[Problem] = []
    rows = read_table(path, SHOWN)
    final = any(CORRECTION in row for _, row in rows)
    for number, row in rows:
        name = row["id"].strip()
        faults = _row_faults(row, known.get(name), seen.get(name))
        problems += [Problem(f"{path}: row {number}", what, fix) for what, fix in faults]
        seen.setdefault(name, number)
        for column, found in texts.items():
            if row.get(column, "").strip():
                found[name] = row[column].strip().replace("\r\n", "\n")
    if not problems and not texts[CORRECTION if final else "safe_answer"]:
        column = CORRECTION if final else "safe_answer"
        problems.append(Problem(str(path), f"has no text in the column {column}", "fill it in"))
    if problems:
        raise UserError(shortened(problems, str(path)))
    return Sheet(texts["safe_answer"], texts[CORRECTION] if final else None)


def annotated(records: Sequence[Answer], sheet: Sheet) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Q-A-C rows, and the rows that nobody annotated.

    Raises:
        UserError: if the sheet is of stage 1.
    """
    if sheet.corrections is None:
        fix = "export stage 2 from it: --import SHEET --export SHEET2"
        raise UserError(Problem("--import", "is a sheet of stage 1, which holds no corrections", fix))
    kept: list[dict[str, Any]] = []
    dropped: list[dict[str, Any]] = []
    for record in records:
        row = {key: value for key, value in record.row().items() if key != "dropped"}
        text = sheet.corrections.get(record.id)
        if text is None:
            dropped.append(with_reason(row, STEP, "not annotated"))
            continue
        safe_answer = {"safe_answer": sheet.safe_answers[record.id]} if record.id in sheet.safe_answers else {}
        kept.append({**row, "correction": text, "corrector": CORRECTOR, **safe_answer})
    return kept, dropped


def _row_faults(row: Row, record: Answer | None, before: int | None) -> list[tuple[str, str]]:
    """What is wrong with a row, each with the way to mend it."""
    if record is None:
        return [(f'has the unknown id "{row["id"]}"', "name the file that the sheet was exported from")]
    faults = []
    if before is not None:
        faults.append((f'repeats the id "{row["id"]}" of row {before}', "leave one of the two"))
    for column in ("question", "answer"):
        if row[column].split() != getattr(record, column).split():
            fix = "restore it; was one column sorted without the others?"
            faults.append((f"has another {column} than the file", fix))
    for column in ("safe_answer", CORRECTION):
        text = row.get(column, "").strip()
        if text in _FAULTS:
            faults.append((f'has the error "{text}" in the column {column}', "write the text anew, as text"))
        if len(text) > MAX_CHARACTERS:
            faults.append((f"has over {MAX_CHARACTERS:,} characters in the column {column}", "shorten it"))
    return faults
