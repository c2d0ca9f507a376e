"""The report of a finished run: `python -m analysis.report runs/NAME`.

Writes report.json (every number), report.md, report.html (one file, nothing loaded from elsewhere) and figures/.
A report that already tells of exactly these stages is left as it is.
"""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aligner_core.errors import UserError
from aligner_core.files import digest, read_json, write_json, write_text

if TYPE_CHECKING:
    from analysis.run_data import RunData

VERSION = 2
TEMPLATES = Path(__file__).parent / "templates"


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m analysis.report RUN", file=sys.stderr)
        return 2
    try:
        write_report(Path(arguments[0]))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def write_report(folder: Path) -> None:
    """Write all parts; report.json comes last, since its identity says that the others are whole."""
    from analysis.run_data import load_run

    identity = report_identity(folder)
    if identity is not None and _stored_identity(folder) == identity:
        return
    run = load_run(folder)

    from analysis.figures import draw_all
    from analysis.results import examples, results

    numbers = {**results(run), "identity": identity}
    figures = draw_all(run, numbers)
    shown = {"numbers": numbers, "examples": examples(run), "recipe": run.recipe, "tables": tables(run)}
    linked = {title: path.relative_to(folder) for title, path in figures.items()}
    write_text(folder / "report.md", _render("report.md.j2", figures=linked, **shown))
    embedded = {title: base64.b64encode(path.read_bytes()).decode() for title, path in figures.items()}
    write_text(folder / "report.html", _render("report.html.j2", figures=embedded, **shown))
    write_json(folder / "report.json", numbers)


def report_identity(folder: Path) -> str | None:
    """Changes with the stages, the statistics' settings, and this code's version."""
    if not (folder / "run.json").is_file():
        return None
    stages = [stage["identity"] for stage in read_json(folder / "run.json")["stages"]]
    recipe = read_json(folder / "recipe.json")
    return digest([VERSION, stages, recipe["evaluation"], recipe["name"], recipe["description"]])


def tables(run: RunData) -> dict[str, Any]:
    """What the stages noted about themselves, for people."""
    manifests = run.manifests
    return {
        "data": manifests["data"]["facts"],
        "scorer": manifests["scorer"]["facts"],
        "labels": {name: item["facts"] for name, item in manifests.items() if name.startswith("weak-labels")},
        "trainings": {name: item["facts"] for name, item in manifests.items() if "loss_last" in item["facts"]},
        "seconds": {name: item["seconds"] for name, item in manifests.items()},
        "versions": manifests["data"]["versions"],
        "git": manifests["data"]["git"],
    }


def _stored_identity(folder: Path) -> str | None:
    try:
        identity: str | None = read_json(folder / "report.json").get("identity")
    except (OSError, ValueError):
        return None
    return identity


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=template.endswith(".html.j2"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["interval"] = lambda item: f"{item['value']:.2f} [{item['low']:.2f}, {item['high']:.2f}]"
    return environment.get_template(template).render(**values)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
