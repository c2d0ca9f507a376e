"""Finished runs with known scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aligner_core.files import read_json, read_jsonl, write_json, write_jsonl

SYSTEMS = ("upstream", "aligned", "floor", "student", "ceiling")


def fake_run(
    folder: Path, means: dict[str, float], questions: int = 60, seeds: tuple[int, ...] = (1, 2), **recipe: Any
) -> Path:
    """A finished run whose systems have known mean scores, with deviation 1 per axis."""
    generator = np.random.default_rng(0)
    entries = []
    for name in ("data", "scorer", *(f"scores-s{seed}" for seed in seeds)):
        stage = folder / "stages" / name
        facts = {"helpful_accuracy": None, "unsafe_recall": None, "safe_recall": None}
        manifest = {"identity": name, "facts": facts, "seconds": 1.0, "versions": {}, "git": None, "inputs": {}}
        write_json(stage / "manifest.json", manifest)
        entries.append({"name": name, "identity": name, "folder": f"stages/{name}"})
        if name.startswith("scores"):
            write_jsonl(stage / "scores.jsonl", _scores(means, questions, generator))
    resolved = {
        "name": "fake",
        "description": "made up",
        "seeds": list(seeds),
        "evaluation": {"resamples": 500, "confidence": 0.95, "tie_margin": 0.0},
        "roles": {"upstream": {"model": "fake-model"}},
        "aligner": {"warm_up": {"fraction": 0.2}},
        "student": {"method": "sft"},
        **recipe,
    }
    write_json(folder / "recipe.json", resolved)
    write_json(folder / "run.json", {"name": "fake", "stages": entries})
    return folder


def fake_main_table(folder: Path, questions: int = 20) -> Path:
    """A run of four cells with half the questions each, scored in stages of their own as the builder names them."""
    means = {"upstream@GPT-4": 0.0, "aligned@GPT-4": 9.0, "upstream@Claude-2": 0.0, "aligned@Claude-2": -9.0}
    roles = {"upstream": {"model": "u"}, "aligner": {"model": "meta-llama/Llama-2-7b-hf"}}
    fake_run(folder, means, questions, seeds=(1,), student=None, roles=roles)
    run, rows = read_json(folder / "run.json"), read_jsonl(folder / "stages" / "scores-s1" / "scores.jsonl")
    manifest = read_json(folder / "stages" / "scores-s1" / "manifest.json")
    kept = [stage for stage in run["stages"] if stage["name"] != "scores-s1"]
    for upstream in ("GPT-4", "Claude-2"):
        for half, name in enumerate(("beavertails", "truthfulqa")):
            stage = f"scores-{upstream}-{name}-s1"
            chosen = [
                {**row, "set": name, "id": f"{name}/{row['id']}"} for row in rows
                if row["system"].endswith("@" + upstream) and int(row["id"][1:]) % 2 == half
            ]  # fmt: skip
            write_jsonl(folder / "stages" / stage / "scores.jsonl", chosen)
            write_json(folder / "stages" / stage / "manifest.json", {**manifest, "identity": stage})
            kept.append({"name": stage, "identity": stage, "folder": f"stages/{stage}"})
    write_json(folder / "run.json", {**run, "stages": kept})
    return folder


def fake_comparison(**changes: Any) -> dict[str, Any]:
    """A row as `w2s judge` writes it: a judge that always prefers the text shown first."""
    agreement = {"pairs": 57, "share": {"value": 0.5, "low": 0.4, "high": 0.6},
                 "kappa": {"value": None, "low": None, "high": None}, "column": "helpful"}  # fmt: skip
    return {
        "a": "student", "b": "upstream", "axis": "helpful", "win": 0, "tie": 60, "lose": 0, "unparsed": 3,
        "omega": 0.0, "low": 0.0, "high": 0.0, "order_agreement": 0.0, "order_biased": True, "to_first": 1.0,
        "judge": "http://host/v1#m", "words": ["helpful: a tie", "It has an order bias."],
        "stages": ["scores-s1"], "agreement": {"scores": agreement}, **changes,
    }  # fmt: skip


def _scores(means: dict[str, float], questions: int, generator: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for system, mean in means.items():
        noise = generator.normal(size=(questions, 2))
        rows += [
            {"id": f"q{index:05d}", "system": system, "question": f"question {index}", "finished": True,
             "text": f"{system} says {index}", "helpful": mean + noise[index, 0], "harmless": mean + noise[index, 1],
             "scorer": "evaluation", "similarity": 0.5}
            for index in range(questions)
        ]  # fmt: skip
    return rows
