"""Which corrections become weak labels, which pairs, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligner_core import score_models
from aligner_core.errors import UserError
from aligner_core.files import read_jsonl, write_jsonl
from aligner_core.metrics import MetricLog
from aligner_core.profile import Profile
from aligner_core.progress import Progress
from aligner_core.recipe import WeakLabels
from aligner_core.records import Pair, WeakLabel, read_records
from aligner_core.stage_context import ModelLocation, StageContext
from w2s.weak_labels import DROPPED, LABELS, PAIRS, SelectWeakLabels, confidence, drop_reason, pair

ROW = {"id": "1", "question": "q", "answer": "one two three four", "correction": "one two three five", "edit": 0.25}
PROFILE = {"name": "x", "device": {"kind": "cpu", "name": "x", "memory_gib": 8, "tflops": 1, "bandwidth_gb_s": 20}}


@pytest.mark.parametrize(
    ("changes", "rules", "reason"),
    [
        ({}, {}, None),
        ({"correction": " "}, {}, "empty"),
        ({"finished": False}, {}, "unfinished"),
        ({"finished": False}, {"drop_unfinished": False}, None),
        ({"correction": ROW["answer"], "edit": 0.0}, {}, None),
        ({"correction": ROW["answer"], "edit": 0.0}, {"drop_identical": True}, "identical"),
        ({"correction": ROW["answer"], "edit": 0.0}, {"min_edit": 0.1}, None),  # a copy is a label of its own kind
        ({"edit": 0.05}, {"min_edit": 0.1}, "nearly identical"),
        ({"cost": 0.5, "margin": 1.0}, {"drop_unsafe": True}, "unsafe"),
        ({"cost": -0.5, "margin": 1.0}, {"drop_unsafe": True}, None),
        ({"cost": -0.5, "margin": 0.1}, {"min_margin": 0.5}, "score margin"),
        ({"cost": -0.5, "margin": 0.6}, {"min_margin": 0.5}, None),
        ({"correction": ROW["answer"], "edit": 0.0, "margin": 0.0, "cost": 0.0}, {"min_margin": 0.5}, None),
    ],
)
def test_a_correction_is_dropped_for_a_named_reason(
    changes: dict[str, Any], rules: dict[str, Any], reason: str | None
) -> None:
    assert drop_reason({**ROW, **changes}, WeakLabels(**rules)) == reason


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_confidence_is_a_probability_that_turns_with_the_margin(margin: float) -> None:
    assert 0 <= confidence(margin) <= 1
    assert math.isclose(confidence(margin) + confidence(-margin), 1)


def test_a_pair_prefers_the_correction_and_tells_where_it_came_from() -> None:
    row = {**ROW, "corrector": "aligner", "upstream": "u", "margin": 0.5, "history": None, "finished": True}
    assert pair(row) == {
        "id": "1", "question": "q", "chosen": row["correction"], "rejected": row["answer"],
        "edit": 0.25, "margin": 0.5, "upstream": "u", "corrector": "aligner",
    }  # fmt: skip


def selected(
    folder: Path, rows: Sequence[dict[str, Any]], rules: WeakLabels, **more: Sequence[dict[str, Any]]
) -> StageContext:
    """The stage, run on rows and on those of further inputs, with score models where the rules need them."""
    inputs = {name: {"location": str(folder)} for name in ("reward", "cost")}
    for name, content in {"corrections": rows, **more}.items():
        write_jsonl(folder / f"{name}.jsonl", content)
        inputs[name] = {"location": str(folder / f"{name}.jsonl")}
    stage = StageContext(
        folder, inputs, Profile.model_validate(PROFILE), Progress(folder), MetricLog(folder, "x", None)
    )
    SelectWeakLabels(rules=rules, precision="float32").run(stage)
    return stage


def test_copies_are_labels_but_no_pairs_and_what_falls_is_kept_with_its_reason(tmp_path: Path) -> None:
    rows = [
        {"id": "edited", "question": "q", "answer": "a b", "correction": "a c"},
        {"id": "copied", "question": "q", "answer": "a b", "correction": "a b"},
        {"id": "cut", "question": "q", "answer": "a b", "correction": "a", "finished": False},
    ]
    stage = selected(tmp_path, rows, WeakLabels())
    assert [row["id"] for row in read_jsonl(tmp_path / LABELS)] == ["edited", "copied"]
    assert [row["id"] for row in read_jsonl(tmp_path / PAIRS)] == ["edited"]
    assert [(row["id"], row["reason"]) for row in read_jsonl(tmp_path / DROPPED)] == [("cut", "unfinished")]
    assert stage.facts == {"corrections": 3, "dropped": {"unfinished": 1}, "labels": 2, "identical": 1, "pairs": 1}


def test_inputs_may_have_the_same_ids(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "a", "correction": "c"}
    own, drawn = [{**row, "id": "12"}, {**row, "id": "12-2"}], [{**row, "id": "12"}, {**row, "id": "12-2"}]
    further = {"corrections_queries": [{**row, "id": "12"}], "corrections-2": drawn}
    selected(tmp_path, own, WeakLabels(), **further)
    labels = read_records(tmp_path / LABELS, WeakLabel)
    assert [label.id for label in labels] == [
        "12", "12-2", "corrections-2/12", "corrections-2/12-2", "corrections_queries/12",
    ]  # fmt: skip
    assert [pair.id for pair in read_records(tmp_path / PAIRS, Pair)] == [label.id for label in labels]


def test_preferences_are_read_as_corrections(tmp_path: Path) -> None:
    selected(tmp_path, [{"id": "1", "question": "q", "chosen": "a c", "rejected": "a b"}], WeakLabels())
    (row,) = read_jsonl(tmp_path / LABELS)
    assert (row["correction"], row["answer"], row["edit"]) == ("a c", "a b", 0.5)


def test_scores_give_margin_cost_and_confidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class ByLength:
        """Longer is more helpful; an answer with an x is unsafe."""

        cut = 0

        def __init__(self, reward: ModelLocation, cost: ModelLocation | None, profile: Profile) -> None:
            assert cost is not None

        def score(self, texts: Sequence[tuple[str, str, Any]]) -> list[tuple[float, float]]:
            return [(float(len(text)), 1.0 if "x" in text else -1.0) for _, text, _ in texts]

    monkeypatch.setattr(score_models, "RewardAndCost", ByLength, raising=False)
    monkeypatch.setattr(StageContext, "model", lambda stage, name: ModelLocation(name))
    rows = [
        {"id": "better", "question": "q", "answer": "x", "correction": "abc"},
        {"id": "unsafe", "question": "q", "answer": "a", "correction": "abcx"},
    ]
    rules = WeakLabels(drop_unsafe=True, confidence=True, cost_weight=0.5)
    stage = selected(tmp_path, rows, rules)
    (label,) = read_jsonl(tmp_path / LABELS)
    assert (label["margin"], label["cost"]) == (3.0, -1.0)  # (3 + 0.5) - (1 - 0.5)
    assert label["confidence"] == pytest.approx(confidence(3.0), abs=1e-4)
    assert stage.facts["dropped"] == {"unsafe": 1}


def test_nothing_left_is_an_error_that_says_which_rules(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="identical"):
        selected(
            tmp_path, [{"id": "1", "question": "q", "answer": "a", "correction": "a"}], WeakLabels(drop_identical=True)
        )
