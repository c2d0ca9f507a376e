"""Tables and histograms for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BAR_WIDTH = 40


def text_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns under a head: the first to the left, the others, which hold numbers, to the right."""
    cells = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [
        "  ".join(cell.rjust(width) if column else cell.ljust(width)
                  for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in cells
    ]  # fmt: skip
    return "\n".join([lines[0], "-" * (sum(widths) + 2 * (len(widths) - 1)), *lines[1:]])


def histogram(values: Sequence[float], bins: int = 12) -> list[tuple[int, int, int]]:
    """(from, up to and with, count) of whole numbers in bins of equal width, from the smallest to the largest."""
    low, high = int(min(values)), int(max(values))
    width = max(1, -(-(high - low + 1) // bins))
    counts = np.bincount((np.asarray(values, dtype=int) - low) // width)
    return [(low + index * width, low + (index + 1) * width - 1, int(count)) for index, count in enumerate(counts)]


def text_histogram(bins: Sequence[tuple[int, int, int]]) -> str:
    """One line per bin of `histogram`, its bar in proportion to the fullest."""
    most = max(count for _, _, count in bins)
    right = len(f"{bins[-1][1]:,}")
    return "\n".join(
        f"{low:>{right},} - {high:>{right},}  {count:>8,}  {'#' * round(BAR_WIDTH * count / most)}".rstrip()
        for low, high, count in bins
    )
