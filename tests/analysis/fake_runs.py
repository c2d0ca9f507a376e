"""Finished runs with known scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from aligner_core.files import write_json, write_jsonl

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
