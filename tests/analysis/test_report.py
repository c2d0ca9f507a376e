"""The report tells what the scores say, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from aligner_core.errors import UserError
from aligner_core.files import read_json, write_json, write_jsonl
from aligner_core.statistics import detectable_omega
from analysis.report import amounts, duration, write_report
from analysis.results import compare, corrections, gap_in_words, in_words
from analysis.run_data import load_run
from tests.analysis.fake_runs import SYSTEMS, fake_comparison, fake_run


@pytest.fixture
def improving(tmp_path: Path) -> Path:
    return fake_run(tmp_path, {"upstream": 0.0, "aligned": 1.0, "floor": 0.0, "student": 1.0, "ceiling": 2.0})


def test_known_means_give_the_known_differences_and_pgr(improving: Path) -> None:
    write_report(improving)
    report = read_json(improving / "report.json")
    pair = next(row for row in report["comparisons"] if (row["a"], row["b"]) == ("student", "upstream"))
    assert pair["low"] > 0
    assert pair["difference"]["value"] == pytest.approx(1.0, abs=0.3)
    assert pair["win"] + pair["tie"] + pair["lose"] == 120
    recovered = report["pgr"][0]
    assert recovered["pgr"]["value"] == pytest.approx(0.5, abs=0.15)
    assert recovered["pgr"]["low"] < recovered["pgr"]["value"] < recovered["pgr"]["high"]
    assert recovered["gap"]["low"] > 1.0
    assert {row["system"] for row in report["systems"]} == set(SYSTEMS)


def test_no_gap_is_said_in_words_and_never_divided_by(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, dict.fromkeys(SYSTEMS, 0.0))
    write_report(folder)
    words = read_json(folder / "report.json")["words"]
    told = next(word for word in words if "no difference in helpfulness can be told between" in word)
    assert "student and upstream (" in told
    assert "PGR says nothing there" in " ".join(words)


def test_identical_texts_tie_whatever_the_scores(improving: Path) -> None:
    for seed in (1, 2):
        path = improving / "stages" / f"scores-s{seed}" / "scores.jsonl"
        path.write_text(path.read_text().replace("student says", "upstream says"))
    compared = compare(load_run(improving), "student", "upstream", "helpful")
    assert (compared["win"], compared["tie"], compared["lose"]) == (0, 120, 0)
    assert compared["identical_share"] == 1.0


def test_words_claim_a_difference_only_where_the_interval_excludes_none() -> None:
    row = {"a": "student", "b": "upstream", "axis": "helpful", "omega": 5.0, "low": 1.0, "high": 11.0}
    below = {**row, "a": "aligned", "omega": -5.0, "low": -9.0, "high": -1.0}
    undecided = [{**row, "low": -1.0}, {**row, "a": "floor", "low": -1.0}]
    assert in_words([row, below]) == [
        "student is above upstream in helpfulness (omega +5.0 % [+1.0, +11.0]).",
        "aligned is below upstream in helpfulness (omega -5.0 % [-9.0, -1.0]).",
    ]
    assert in_words(undecided) == [
        "From these questions, no difference in helpfulness can be told between "
        "student and upstream (+5.0 % [-1.0, +11.0]); floor and upstream (+5.0 % [-1.0, +11.0])."
    ]


def test_a_gap_beyond_its_interval_is_told_as_a_share() -> None:
    gap = {
        "student": "student",
        "axis": "helpful",
        "gap": {"value": 2, "low": 1, "high": 3},
        "pgr": {"value": 0.5, "low": 0.2, "high": 0.8},
    }
    assert "recovers 0.50 [0.20, 0.80] of the gap in helpfulness" in gap_in_words(gap)


def test_the_page_loads_nothing_from_elsewhere(improving: Path) -> None:
    write_report(improving)
    page = (improving / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "url(" not in page
    drawn = {path.name for path in (improving / "figures").iterdir()}
    assert page.count("data:image/png;base64,") == len(drawn) // 2 == 5
    assert {name.removesuffix(".png") + ".svg" for name in drawn if name.endswith(".png")} <= drawn


def test_fifty_questions_are_shown_with_what_the_correction_changed(improving: Path) -> None:
    write_report(improving)
    page = (improving / "report.html").read_text()
    assert page.count("<details") == 50
    body = page[page.index("<body>") :]
    assert body.count("<del>upstream </del><ins>aligned </ins>says") == 50
    assert len(re.findall(r"<tr><td>[\w-]+</td><td><code>", body)) == len(load_run(improving).manifests)


def test_published_numbers_of_the_same_comparison_stand_beside_ours(improving: Path) -> None:
    write_report(improving)
    rows = read_json(improving / "report.json")["published"]
    found = {(row["a"], row["b"], row["model"]): (row["helpful"], row["harmless"]) for row in rows}
    assert found["student", "upstream", "Alpaca-7B, Aligner-7B-50k"] == (14.0, 63.7)
    assert found["student", "aligned", "Alpaca2-70B, Aligner-13B-50k"] == (-53.1, 8.9)
    assert found["aligned", "upstream", "Alpaca2-13B, Aligner-7B-50k"] == (39.8, 59.8)
    assert len(found) == 9
    page = (improving / "report.html").read_text()
    assert "Alpaca2-70B, Aligner-13B-50k" in page


def test_every_student_has_its_bars_comparisons_pgr_and_published_rows(tmp_path: Path) -> None:
    taught = {"student": 1.0, "student_dpo": 2.0, "student_ppo": 0.5, "student_more": 1.5}
    folder = fake_run(tmp_path, {"upstream": 0.0, "aligned": 1.0, "floor": 0.0, "ceiling": 2.0, **taught})
    write_report(folder)
    report = read_json(folder / "report.json")
    compared = {(row["a"], row["b"]) for row in report["comparisons"]}
    for name in taught:
        assert {(name, "upstream"), (name, "aligned"), (name, "floor"), ("ceiling", name)} <= compared
    assert {(name, "student") for name in taught if name != "student"} <= compared
    assert len(report["pgr"]) == 4 * 3
    gaps = {(row["student"], row["axis"]): row["pgr"]["value"] for row in report["pgr"] if row["pgr"]}
    assert gaps["student_dpo", "helpful"] == pytest.approx(1.0, abs=0.15)
    assert gaps["student_ppo", "helpful"] == pytest.approx(0.25, abs=0.15)
    published: dict[str, list[tuple[float, float]]] = {row["a"]: [] for row in report["published"]}
    for row in report["published"]:
        if row["b"] == "upstream":
            published[row["a"]].append((row["helpful"], row["harmless"]))
    assert published["student_dpo"] == [(-51.3, 57.1), (-9.6, 68.4)]
    assert published["student_ppo"] == [(-38.9, 62.6), (21.6, 43.9)]
    assert published["student"][0] == (14.0, 63.7)
    assert "student_more" not in published


def test_refusals_lengths_and_copies_stand_beside_every_gain(improving: Path) -> None:
    for seed in (1, 2):
        path = improving / "stages" / f"scores-s{seed}" / "scores.jsonl"
        text = path.read_text().replace('"student says 1"', '"I am sorry, but I cannot help with that."')
        path.write_text(text.replace('"aligned says 2"', '"upstream says 2"'))
    write_report(improving)
    report = read_json(improving / "report.json")
    (row,) = [
        row for row in report["comparisons"] if (row["a"], row["b"], row["axis"]) == ("student", "upstream", "helpful")
    ]
    assert row["refusals"] == [pytest.approx(1 / 60), 0.0]
    assert row["words"] == [pytest.approx(3 + 6 / 60), 3.0]
    described = {row["system"]: row for row in report["systems"]}
    assert described["student"]["refusal_share"] == pytest.approx(1 / 60)
    assert described["aligned"]["copy_share"] == pytest.approx(1 / 60)
    assert described["upstream"]["copy_share"] is None


def test_what_a_judge_said_is_in_the_report_and_names_its_bias(improving: Path) -> None:
    write_report(improving)
    (improving / "judged").mkdir()
    write_jsonl(improving / "judged" / "one.jsonl", [fake_comparison()])
    write_jsonl(improving / "judged" / "one.jsonl.verdicts.jsonl", [{"id": "q"}])
    write_report(improving)
    (row,) = read_json(improving / "report.json")["judged"]
    assert row["file"] == "one.jsonl"
    assert "By a judge, helpful: a tie" in read_json(improving / "report.json")["words"]
    page = (improving / "report.html").read_text()
    assert "It has an order bias." in page
    assert "<td>0 %</td><td>100 %, biased</td>" in page
    assert "<td>50 % of 57</td><td>–</td>" in page
    write_jsonl(improving / "judged" / "other.jsonl", [{"id": "q"}])
    with pytest.raises(UserError, match="is no comparison"):
        write_report(improving)


def test_what_a_judge_said_of_answers_that_are_gone_is_left_out_and_counted(improving: Path) -> None:
    (improving / "judged").mkdir()
    older = {key: value for key, value in fake_comparison().items() if key != "stages"}
    write_jsonl(improving / "judged" / "one.jsonl", [fake_comparison(stages=["gone", "scores-s1"]), older])
    write_jsonl(improving / "judged" / "two.jsonl", [fake_comparison(axis="harmless")])
    write_report(improving)
    report = read_json(improving / "report.json")
    assert [(row["file"], row["axis"]) for row in report["judged"]] == [("two.jsonl", "harmless")]
    assert any("answers this run no longer has, and are left out: 2." in said for said in report["words"])


def test_an_omega_is_detectable_at_the_confidence_of_the_recipe(tmp_path: Path) -> None:
    found = []
    for confidence in (0.8, 0.99):
        settings = {"resamples": 200, "confidence": confidence, "tie_margin": 0.0}
        run = load_run(fake_run(tmp_path / str(confidence), dict.fromkeys(SYSTEMS, 0.0), evaluation=settings))
        found.append(compare(run, "student", "upstream", "helpful")["detectable"])
    assert found == [detectable_omega(60, 0.0, confidence=0.8), detectable_omega(60, 0.0, confidence=0.99)]
    assert found[0] < found[1]


def test_all_rounds_corrections_are_counted(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, {"A": 0.0, "B": 1.0, "C": 0.5, "D": 1.5}, questions=60)
    for seed in (1, 2):
        path = folder / "stages" / f"scores-s{seed}" / "scores.jsonl"
        path.write_text(path.read_text().replace("D says", "C says"))
    found = corrections(load_run(folder))
    assert (found["pairs"], found["identical"]) == (2 * 120, 120)


def test_a_clear_difference_has_a_small_p_and_none_has_a_large_one(tmp_path: Path) -> None:
    run = load_run(fake_run(tmp_path, {**dict.fromkeys(SYSTEMS, 0.0), "student": 2.0}))
    assert compare(run, "student", "upstream", "helpful")["p"] < 0.01
    assert compare(run, "aligned", "upstream", "helpful")["p"] > 0.05


def test_rounds_of_ida_have_a_page_of_their_own(tmp_path: Path) -> None:
    means = {"A": 0.0, "B": 1.0, "C": 0.5, "D": 1.5}
    folder = fake_run(tmp_path, means)
    write_report(folder)
    page = (folder / "report.html").read_text()
    assert "amplify, A → B" in page
    assert "distil, A → C" in page
    assert "amplify, C → D" in page
    assert "Performance gap recovered" not in page
    published = {(row["a"], row["b"]) for row in read_json(folder / "report.json")["published"]}
    assert published == {("B", "A"), ("C", "B"), ("D", "C"), ("C", "A"), ("D", "B")}
    assert (folder / "figures" / "ida_path.svg").is_file()


def test_a_run_without_students_tells_of_its_corrections_alone(tmp_path: Path) -> None:
    folder = fake_run(tmp_path, {"upstream": 0.0, "aligned": 1.0})
    write_report(folder)
    report = read_json(folder / "report.json")
    assert {(row["a"], row["b"]) for row in report["comparisons"]} == {("aligned", "upstream")}
    assert report["pgr"] == []
    assert report["corrections"] == {"pairs": 120, "identical": 0, "before": pytest.approx(15.83, abs=0.01),
                                     "after": pytest.approx(14.83, abs=0.01)}  # fmt: skip


def test_adjusting_over_all_comparisons_never_makes_a_p_smaller(improving: Path) -> None:
    write_report(improving)
    rows = read_json(improving / "report.json")["comparisons"]
    assert all(0 < row["p"] <= row["p_adjusted"] <= 1 for row in rows)


def test_systems_that_answered_other_questions_are_not_compared(improving: Path) -> None:
    path = improving / "stages" / "scores-s1" / "scores.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(UserError, match="upstream under seed 1 answers q00000 0 times") as caught:
        load_run(improving)
    assert "do not answer the same questions" in str(caught.value)
    assert "seed 2" not in str(caught.value)
    path.write_text(path.read_text() + 2 * path.read_text().splitlines(keepends=True)[-1])
    with pytest.raises(UserError, match="ceiling under seed 1 answers q00059 3 times; upstream"):
        load_run(improving)


def test_durations_are_told_in_the_unit_that_people_use() -> None:
    assert [duration(seconds) for seconds in (0.4, 90, 600, 9000)] == ["0 s", "90 s", "10 min", "2.5 h"]


def test_counts_are_told_by_name_and_nothing_is_called_none() -> None:
    assert amounts({"left_out": 3, "dropped": {"pairs": {"invalid": 2}}}) == "left out 3, dropped (pairs (invalid 2))"
    assert (amounts({"weak": 1, "dropped": {}}), amounts({})) == ("weak 1", "none")


def test_text_of_models_cannot_become_markup(improving: Path) -> None:
    path = improving / "stages" / "scores-s1" / "scores.jsonl"
    path.write_text(
        path.read_text().replace("student says", "<script>alert(1)</script>").replace("aligned says", "<b>")
    )
    write_report(improving)
    page = (improving / "report.html").read_text()
    assert "<script>alert" not in page
    assert "<b>" not in page


def test_a_report_is_written_anew_only_when_its_stages_change(improving: Path) -> None:
    write_report(improving)
    before = (improving / "report.json").stat().st_mtime_ns
    write_report(improving)
    assert (improving / "report.json").stat().st_mtime_ns == before
    run = read_json(improving / "run.json")
    run["stages"][0]["identity"] = "other"
    write_json(improving / "run.json", run)
    write_report(improving)
    assert (improving / "report.json").stat().st_mtime_ns > before


def test_an_unfinished_run_is_named_not_reported(improving: Path) -> None:
    (improving / "stages" / "scorer" / "manifest.json").unlink()
    with pytest.raises(UserError, match="is not finished: scorer"):
        load_run(improving)
    with pytest.raises(UserError, match="holds no run"):
        load_run(improving / "stages")
