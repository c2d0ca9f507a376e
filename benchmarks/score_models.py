"""A reward or cost model trained on preferences or safety labels of one's own, and tested on questions held out.

    python benchmarks/score_models.py reward PREFERENCES.jsonl --held-out 0.3
    python benchmarks/score_models.py cost LABELS.jsonl --test OTHER.jsonl --columns response=answer harmful=unsafe

The task of a run trains it. It is tested on the questions that the task holds out (--held-out says how many), or on
the records of --test. Rows that are no records are left out and counted. With --keep the model stays in that folder.

Prints what the model gets beside what guessing, the majority and the length get. In the last line's JSON
`ratio_accuracy_vs_best_baseline` is its accuracy over the best of theirs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aligner_core.configuration import load_profile
from aligner_core.embedded_models import local_folder
from aligner_core.files import read_json, write_jsonl
from aligner_core.metrics import MetricLog
from aligner_core.mixing import by_hash
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import ScoreModelSection, Training
from aligner_core.records import Pair, Safety, check_records
from aligner_core.score_models import SCORE_MODEL, open_score_model
from aligner_core.score_quality import label_quality, length_rule, pair_quality
from aligner_core.stage_context import ModelLocation, StageContext
from aligner_core.tasks.score_models import TrainCostModel, TrainRewardModel
from aligner_core.text_tables import text_table
from aligner_core.training.cost import labelled_texts


def main() -> None:
    options = _options()
    profile = load_profile(options.profile)
    columns = dict(name.split("=", 1) for name in options.columns)
    kind: type[Pair | Safety] = Pair if options.kind == "reward" else Safety
    reading = check_records(options.data, kind, columns)
    records = by_hash(reading.records)[: options.most]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        facts = trained(folder, options, records, profile)
        quality = read_json(folder / "model" / SCORE_MODEL)
        if options.test:
            quality |= tested(folder / "model", check_records(options.test, kind, columns).records, records, profile)
    print(text_table(["", "right", "low", "high", "of"], list(rows(quality))))
    names = ("steps", "loss_first", "loss_last", "cut", "train_seconds")
    told = {name: facts[name] for name in names} | {"seconds": round(time.monotonic() - started)}
    data = {"data": options.data.name, "records": len(records), "invalid": len(reading.rejected)}
    print(json.dumps({**data, **told, **quality, **ratios(quality)}))


def trained(folder: Path, options: argparse.Namespace, records: Sequence[Pair | Safety], profile: Profile) -> Any:
    """Run the task on the records; returns its facts and leaves `model/`."""
    training = Training(
        epochs=options.epochs, learning_rate=options.learning_rate, global_batch=options.batch, lr_warmup=0.1,
        weight_decay=0.1, max_length=options.max_length,
    )  # fmt: skip
    section = ScoreModelSection(trainable_layers=options.layers, held_out=options.held_out, training=training)
    task, name = (TrainRewardModel, "preferences") if options.kind == "reward" else (TrainCostModel, "safety")
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "records.jsonl", (record.row() for record in records))
    inputs = {"model": {"location": options.model}, name: {"location": str(folder / "records.jsonl")}}
    log = MetricLog(folder, options.kind)
    stage = StageContext(folder, inputs, profile, Progress(folder), log)
    task(section=section, precision=profile.precision, seed=section.seed).run(stage)
    log.close()
    return stage.facts


def tested(model: Path, test: Sequence[Any], records: Sequence[Any], profile: Profile) -> dict[str, Any]:
    """The same report as the task's, on further records."""
    opened = open_score_model(ModelLocation(local_folder(str(model))), None, profile)
    if isinstance(test[0], Pair):
        better, worse = (
            [row["helpful"] for row in opened.score([(pair.question, text(pair), pair.history) for pair in test])]
            for text in (lambda pair: pair.chosen, lambda pair: pair.rejected)
        )
        return pair_quality(better, worse, [len(pair.chosen) for pair in test], [len(pair.rejected) for pair in test])
    costs = [-row["harmless"] for row in opened.score([(row.question, row.answer, row.history) for row in test])]
    lengths, unsafe = labelled_texts(test)
    return label_quality(costs, unsafe, lengths, length_rule(*labelled_texts(records)))


def rows(quality: dict[str, Any]) -> Any:
    """The model's accuracies, then the baselines'."""
    own = {
        name: quality[name]
        for name in ("accuracy", "balanced_accuracy", "unsafe_recall", "safe_recall")
        if name in quality
    }
    for name, found in {**own, **quality["baselines"]}.items():
        if isinstance(found, dict):
            yield [name, *(f"{100 * found[key]:.1f}" for key in ("value", "low", "high")), found["n"]]
        elif found is not None:
            yield [name, f"{100 * found:.1f}", "", "", ""]


def ratios(quality: dict[str, Any]) -> dict[str, float]:
    """The accuracy over the best baseline's; none where nothing was tested."""
    if quality["accuracy"] is None:
        return {}
    baselines = [
        found["value"] if isinstance(found, dict) else found
        for name, found in quality["baselines"].items()
        if found is not None and name != "length_balanced"  # stands beside the balanced accuracy
    ]
    return {"ratio_accuracy_vs_best_baseline": round(quality["accuracy"]["value"] / max(baselines), 3)}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["reward", "cost"])
    parser.add_argument("data", type=Path, help="records of kind pairs, or safety")
    parser.add_argument("--test", type=Path, help="further records to test on")
    parser.add_argument("--columns", nargs="*", default=[], metavar="THEIRS=OURS")
    parser.add_argument("--most", type=int, help="take at most so many records, an arbitrary but fixed sample")
    parser.add_argument("--held-out", type=float, default=0.15, help="share of the questions")
    parser.add_argument("--model", default="embedded:smollm2-135m-instruct", help="the trunk")
    parser.add_argument("--layers", type=int, help="train the last ones alone")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--profile", default="cpu")
    parser.add_argument("--keep", type=Path, help="folder for the model")
    return parser.parse_args()


if __name__ == "__main__":
    main()
