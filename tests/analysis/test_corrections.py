"""What corrections do, from a file of scored answers and corrections."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligner_core.files import read_jsonl, write_jsonl
from analysis.corrections import main, movement
from analysis.frames import scored_files_frame
from tests.command_line import w2s

ROWS = 12


def scored(path: Path, scores: bool = True) -> Path:
    """Answers of 30 characters; a third is copied, the others become 20 characters, more helpful by 2 and safe."""
    rows = []
    for system in ("GPT-4 Turbo", "Aligner-2B"):
        for number in range(ROWS):
            changed = system == "Aligner-2B" and number % 3 > 0
            row = {"id": f"q{number:02d}", "system": system, "text": ("b" * 20) if changed else "a" * 30}
            told = {"helpful": number + 2.0 * changed, "harmless": 1.0 if changed else -1.0}
            rows.append({**row, **told} if scores else row)
    write_jsonl(path, rows)
    return path


def test_copies_lengths_and_paired_differences_are_those_of_the_file(tmp_path: Path) -> None:
    found = movement(scored_files_frame({"one": scored(tmp_path / "one.jsonl")}))
    assert (found["pairs"], found["identical"]) == (12, 4)
    assert found["characters"] == (30.0, pytest.approx(70 / 3))
    assert found["safe"] == (0.0, pytest.approx(2 / 3))
    assert found["helpful"].value == pytest.approx(4 / 3)
    assert 0 < found["helpful"].low < 4 / 3 < found["helpful"].high < 2


def test_files_become_rows_and_panels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(scored(tmp_path / name)) for name in ("one.jsonl", "two.jsonl")]
    assert main([*files, "--to", str(tmp_path / "figures")]) == 0
    head, _, first, second, picture = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["file", "pairs", "identical"]
    assert (first.split()[:6], second.split()[0]) == (["one", "12", "4", "30", "→", "23"], "two")
    assert Path(picture).with_suffix(".svg").is_file()


def test_files_of_the_same_name_are_told_apart_by_their_paths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / folder / "scores.jsonl" for folder in ("one", "two")]
    for file in files:
        file.parent.mkdir()
        scored(file)
    assert main(list(map(str, files))) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == list(map(str, files))


def test_without_scores_there_are_lengths_and_no_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = str(scored(tmp_path / "bare.jsonl", scores=False))
    assert main([bare]) == 0
    assert "30 → 23" in capsys.readouterr().out
    assert main([bare, "--to", str(tmp_path)]) == 2
    assert "lacks helpfulness or harmlessness" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere.jsonl")]) == 2


def test_both_texts_of_a_file_are_scored_as_two_systems(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "qac.jsonl", (
        {"question": f"Q{n}?", "answer": "An answer.", "correction": "I'm sorry, but I can't help with that.",
         "upstream": "theirs", "corrector": "ours"} for n in range(3)
    ))  # fmt: skip
    target = tmp_path / "scores.jsonl"
    result = w2s("score", tmp_path / "qac.jsonl", "-o", target, "--field", "both", "--refusals", "--profile", "smoke")
    assert result.returncode == 0, result.stderr
    assert [(row["system"], row["refusal"]) for row in read_jsonl(target)] == [("theirs", False)] * 3 + [
        ("ours", True)
    ] * 3
    names = [row["id"] for row in read_jsonl(target)]
    assert names[:3] == names[3:]
    assert "theirs: 3 answers" in result.stderr
    assert "ours: 3 answers" in result.stderr
    named = w2s("score", tmp_path / "qac.jsonl", "-o", target, "--field", "both", "--refusals", "--system", "x")
    assert named.returncode == 2
    assert "names one of two systems" in named.stderr
