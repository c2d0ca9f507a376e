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
from aligner_core.files import digest, file_digest, read_json, write_json, write_text
from aligner_core.stage_context import tokens_of
from analysis.judged import files

if TYPE_CHECKING:
    from analysis.run_data import RunData

VERSION = 6
TEMPLATES = Path(__file__).parent / "templates"
TRUST = {
    "helpful_accuracy": "finds the correction of a safe answer more helpful than the answer",
    "unsafe_recall": "finds an unsafe answer unsafe",
    "safe_recall": "finds a correction safe",
}


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

    from analysis.comparisons import redistributions, steps
    from analysis.figures.of_run import figures_of_run
    from analysis.figures.style import save
    from analysis.results import examples, results
    from analysis.rounds import monitors, stopped, warnings
    from analysis.systems import is_ida, is_main_table

    numbers = {**results(run), "identity": identity}
    if is_ida(run.systems):
        numbers["rounds"] = monitors(run)
        numbers["words"] += [*warnings(numbers["rounds"]), *stopped(run)]
    (folder / "figures").mkdir(exist_ok=True)
    figures = [(drawn, save(drawn.figure, folder / "figures" / drawn.stem)) for drawn in figures_of_run(run, numbers)]
    shown = {
        "numbers": numbers,
        "recipe": run.recipe,
        "examples": examples(run),
        "moved": redistributions(run.systems)[0],
        "figures": [
            {"title": drawn.title, "wide": drawn.wide, "file": path.relative_to(folder), "data": _base64(path)}
            for drawn, path in figures
        ],
        "tables": tables(run),
        "trust": TRUST,
        "beside": beside_published(numbers),
        "steps": steps(run.systems) if is_ida(run.systems) else [],
    }
    page = "ida" if is_ida(run.systems) else "main_table" if is_main_table(run.systems) else "weak_to_strong"
    write_text(folder / "report.md", _render("report.md.j2", **shown))
    write_text(folder / "report.html", _render(f"{page}.html.j2", **shown))
    write_json(folder / "report.json", numbers)


def report_identity(folder: Path) -> str | None:
    """Changes with the stages, what judges said, the statistics' settings, and this code's version."""
    if not (folder / "run.json").is_file():
        return None
    stages = [stage["identity"] for stage in read_json(folder / "run.json")["stages"]]
    recipe = read_json(folder / "recipe.json")
    rounds = read_json(folder / "rounds.json") if (folder / "rounds.json").is_file() else None
    judged = [file_digest(path) for path in files(folder)]
    return digest([VERSION, stages, judged, recipe["evaluation"], recipe["name"], recipe["description"], rounds])


def tables(run: RunData) -> dict[str, Any]:
    """What the stages noted about themselves, for people."""
    manifests = run.manifests
    names = {manifest["identity"]: name for name, manifest in manifests.items()}
    return {
        "data": manifests["data"]["facts"],
        "scorer": manifests["scorer"]["facts"],
        "labels": {name: item["facts"] for name, item in manifests.items() if "labels" in item["facts"]},
        "score_models": {name: item["facts"] for name, item in manifests.items() if item["facts"].get("accuracy")},
        "trainings": {name: item["facts"] for name, item in manifests.items() if "loss_last" in item["facts"]},
        "stages": [
            {
                "name": name,
                "identity": item["identity"][:10],
                "seconds": item["seconds"],
                "tokens": tokens_of(item["facts"]),
                "inputs": [names[source] for source in _stages_of(item["inputs"]) if source in names],
            }
            for name, item in manifests.items()
        ],
        "versions": manifests["data"]["versions"],
        "git": sorted({str(item["git"] or "unknown") for item in manifests.values()}),
    }


def beside_published(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """Per pair of systems with published numbers: our comparisons on both axes, and the published rows."""
    pairs = dict.fromkeys((row["a"], row["b"]) for row in numbers["published"])

    def of(rows: list[dict[str, Any]], pair: tuple[str, str]) -> list[dict[str, Any]]:
        return [row for row in rows if (row["a"], row["b"]) == pair]

    return [
        {
            "a": pair[0],
            "b": pair[1],
            "ours": of(numbers["comparisons"], pair),
            "published": of(numbers["published"], pair),
        }
        for pair in pairs
    ]


def _stages_of(inputs: dict[str, str]) -> list[str]:
    """Identities of the stages among the inputs, each once; an input is `IDENTITY/PATH` or something from outside."""
    return list(dict.fromkeys(identity.partition("/")[0] for identity in inputs.values()))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def _stored_identity(folder: Path) -> str | None:
    try:
        identity: str | None = read_json(folder / "report.json").get("identity")
    except (OSError, ValueError):
        return None
    return identity


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from analysis.results import short_p

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=template.endswith(".html.j2"), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["interval"] = lambda item: f"{item['value']:.2f} [{item['low']:.2f}, {item['high']:.2f}]"
    environment.filters["duration"] = duration
    environment.filters["amounts"] = amounts
    environment.filters["both_scorers"] = both_scorers
    environment.filters["short_p"] = short_p
    environment.filters["agreement"] = agreement
    environment.filters["percent"] = lambda share: f"{100 * share:.0f} %"
    environment.filters["omega"] = lambda row: f"{row['omega']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]"
    return environment.get_template(template).render(**values)


def both_scorers(row: dict[str, Any]) -> str:
    """Omega by the held-out and by the training-time scorer, and how often they disagree."""
    disagreement = row["disagreement"]
    apart = "–" if disagreement is None else f"{100 * disagreement:.0f} %"
    return f"{row['held_out']['value']:+.1f} / {row['training']['value']:+.1f}, disagree {apart}"


def agreement(found: dict[str, Any] | None) -> str:
    """How often two sources of verdicts say the same, and beyond chance."""
    if not found or not found["pairs"]:
        return "–"
    kappa = f", kappa {found['kappa']['value']:.2f}" if found["kappa"]["value"] is not None else ""
    return f"{100 * found['share']['value']:.0f} % of {found['pairs']:,}{kappa}"


def amounts(found: dict[str, Any]) -> str:
    """Counts by name, those within others in brackets."""
    told = [
        f"{name.replace('_', ' ')} {f'({amounts(amount)})' if isinstance(amount, dict) else amount}"
        for name, amount in found.items()
        if amount != {}
    ]
    return ", ".join(told) or "none"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
