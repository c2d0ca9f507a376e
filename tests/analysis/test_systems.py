"""What a system's name stands for, and what it is compared with."""

from __future__ import annotations

import pytest

from analysis.comparisons import pairs, redistributions
from analysis.systems import is_ida, is_main_table, students, system_of


@pytest.mark.parametrize(
    ("name", "part", "method", "letter", "words"),
    [
        ("upstream", "upstream", None, "A", "as it came"),
        ("aligned", "corrected", None, "B", "by the Aligner"),
        ("aligned_mixed", "corrected", None, "", "the arm mixed"),
        ("by_cai", "corrected", None, "", "by cai"),
        ("student", "student", "sft", "C", "weak labels, by SFT"),
        ("student_dpo", "student", "dpo", "C", "weak labels, by DPO"),
        ("student_more_ppo", "student", "ppo", "", "further questions too, by PPO"),
        ("ceiling", "ceiling", None, "", "ground truth of S"),
        ("upstream@GPT-4", "upstream", None, "", "GPT-4"),
        ("aligned_mixed@GPT-4", "corrected", None, "", "GPT-4's answers corrected by the Aligner of the arm mixed"),
        ("E", "student", None, "E", "the model after round 2"),
        ("new", "other", None, "", "new"),
    ],
)
def test_a_name_says_what_it_stands_for(name: str, part: str, method: str | None, letter: str, words: str) -> None:
    system = system_of(name)
    assert (system.part, system.method, system.letter) == (part, method, letter)
    assert words in system.meaning


def test_a_baseline_is_said_to_learn_from_what_it_learns_from() -> None:
    assert system_of("student_dpo", "corrections").meaning == (
        "the strong model trained on the ground truth of W, as the Aligner is, by DPO"
    )


def test_a_system_of_a_cell_is_measured_against_its_own_upstream() -> None:
    assert system_of("aligned@Alpaca-7B").reference == "upstream@Alpaca-7B"
    assert system_of("student_ppo").reference == "upstream"


def test_no_pair_is_compared_twice_and_none_with_a_system_that_is_not_there() -> None:
    systems = ["upstream", "aligned", "aligned_x", "by_cai", "floor", "student", "student_dpo", "ceiling"]
    found = pairs(systems)
    assert len(set(found)) == len(found)
    assert {name for pair in found for name in pair} == set(systems)
    assert ("student", "floor") not in pairs(["upstream", "aligned", "student"])
    assert students(systems) == ["student", "student_dpo"]


def test_cells_of_a_main_table_are_compared_within() -> None:
    systems = [f"{base}@{of}" for of in ("a", "b") for base in ("upstream", "aligned", "aligned_x", "by_y")]
    assert is_main_table(systems)
    assert not is_ida(systems)
    assert pairs(systems)[:4] == [
        ("aligned@a", "upstream@a"), ("aligned_x@a", "upstream@a"), ("by_y@a", "upstream@a"),
        ("aligned_x@a", "aligned@a"),
    ]  # fmt: skip
    assert len(pairs(systems)) == 8
    assert redistributions(systems) == [("upstream@a", "aligned@a"), ("upstream@b", "aligned@b")]
