"""Notebooks of all figures, and running them: each works on a finished run and on the published numbers.

They are committed without outputs. Open one in Jupyter, or render all to HTML: `python -m analysis.notebooks [RUN]`.
The run is a parameter: the variable W2S_RUN names its folder, and without it the examples are shown that come with the
project. A cell tagged "parameters" holds it, so that papermill can set it as well.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

FOLDER = Path(__file__).parent
RUN = "W2S_RUN"
SECONDS_PER_CELL = 120


def paths() -> list[Path]:
    """All notebooks in the order of their numbers."""
    return sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, run: Path | None = None) -> NotebookNode:
    """The notebook with its outputs, from a kernel of its own; the file stays as it is.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient
    from traitlets.config import Config

    notebook: NotebookNode = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    environment = {**os.environ, RUN: str(run.resolve()) if run else ""}
    no_port = Config({"KernelManager": {"transport": "ipc"}})
    client = NotebookClient(notebook, timeout=SECONDS_PER_CELL, kernel_name="python3", config=no_port)
    client.execute(env=environment)
    return notebook


def render(path: Path, folder: Path, run: Path | None = None) -> Path:
    """Execute a notebook and write it as one HTML file, which loads nothing from elsewhere; returns that file."""
    from nbconvert import HTMLExporter

    from aligner_core.files import write_text

    nowhere = dict.fromkeys(("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"), "")
    exporter = HTMLExporter(**nowhere)  # type: ignore[no-untyped-call]
    page, _ = exporter.from_notebook_node(executed(path, run), resources={"metadata": {"name": path.stem}})
    target = folder / f"{path.stem}.html"
    write_text(target, re.sub(r'<script src="">\s*</script>', "", page))
    return target
