"""The published tables agree with themselves: averages, omegas from their counts, Elo from omegas."""

from __future__ import annotations

import pandas as pd
import pytest

from aligner_core.errors import UserError
from aligner_core.statistics import elo, elo_as_published, omega
from analysis.published import load, names

SETS = ("empathetic_dialogues", "dialogsum", "beavertails_helpful", "beavertails_harmless", "harmfulqa_helpful",
        "harmfulqa_harmless", "truthfulqa")  # fmt: skip


@pytest.mark.parametrize("name", names())
def test_every_row_names_its_source_and_no_number_is_missing_without_reason(name: str) -> None:
    table = load(name)
    assert table.columns[-1] == "source"
    assert table["source"].str.len().min() > 10
    may_lack = {"ida": ["method"], "ida_averages": ["method"], "alpaca_eval": ["mean_length"]}
    assert table.drop(columns=may_lack.get(name, [])).notna().all().all()
    assert not table.duplicated().any()


def test_an_unknown_table_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="weak_to_strong"):
        load("weak")


@pytest.mark.parametrize("aligner", ["Aligner-2B", "Aligner-7B", "Aligner-13B", "Aligner-70B"])
def test_the_printed_averages_of_the_main_table_reproduce(aligner: str) -> None:
    rows = load("main_table").query("aligner == @aligner")
    printed = load("main_table_averages").set_index("aligner").loc[aligner]
    assert len(rows) == 11
    for column in SETS:
        if (aligner, column) == ("Aligner-2B", "dialogsum"):  # the one that does not: 36.4 is printed
            assert rows[column].mean() == pytest.approx(38.5, abs=0.05)
        else:
            assert rows[column].mean() == pytest.approx(printed[column], abs=0.1), (
                column
            )  # some are cut off, not rounded


def test_all_76_omegas_of_the_ida_table_reproduce_from_their_counts() -> None:
    table = load("ida")
    assert len(table) == 76
    for row in table.itertuples():
        assert round(omega(row.win, row.tie, row.lose), 1) == row.omega, row


def test_small_against_large_reproduces_from_its_counts() -> None:
    for row in load("small_against_large").itertuples():  # 5.15 is printed as 5.1
        assert omega(row.win, row.tie, row.lose) == pytest.approx(row.omega, abs=0.0503), row


def test_ida_averages_are_the_means_of_both_sets() -> None:
    keys = ["model", "first", "second", "method"]
    means = load("ida").fillna("").groupby([*keys, "axis"])["omega"].mean().unstack()
    printed = load("ida_averages").fillna("").set_index(keys)
    assert len(printed) == 19
    for axis in ("helpful", "harmless"):
        assert (means[axis].loc[printed.index] - printed[axis]).abs().max() < 0.1


def test_weak_to_strong_averages_are_the_means_of_both_sets() -> None:
    table = load("weak_to_strong")
    for axis in ("helpful", "harmless"):
        means = table[[f"beavertails_{axis}", f"harmfulqa_{axis}"]].mean(axis=1)
        assert (means - table[f"average_{axis}"]).abs().max() < 0.06


def test_weak_to_strong_is_the_ida_tables_first_distillation() -> None:
    students = load("weak_to_strong").set_index(["student", "method"])
    distilled = load("ida_averages").query("first == 'C' and second == 'A'").set_index(["model", "method"])
    assert set(students.index) == set(distilled.index)
    for axis in ("helpful", "harmless"):
        assert (students[f"average_{axis}"].loc[distilled.index] == distilled[axis]).all()


def against_twenty_percent() -> pd.Series:
    """Mean omega over both sets of every warm-up against 20 %; of 20 % itself against 50 %."""
    table = load("warm_up")
    compared = table[(table["second"] == 0.2) | (table["first"] == 0.2)]
    fraction = compared["first"].where(compared["second"] == 0.2, compared["second"])
    return compared.assign(fraction=fraction).groupby(["axis", "upstream", "fraction"])["omega"].mean()


def test_every_elo_of_the_warm_up_figure_follows_from_its_omegas_in_both_conversions() -> None:
    omegas = against_twenty_percent()
    plotted = load("warm_up_elo").set_index(["axis", "upstream", "fraction"])
    assert len(plotted) == 40
    for (axis, upstream, fraction), row in plotted.iterrows():
        if fraction == 0.2:
            assert row["elo"] == row["elo_symmetric"] == 1500
        elif fraction == 0.5:
            against = omegas[axis, upstream, fraction]
            assert row["elo"] == pytest.approx(elo_as_published(against), abs=0.06)
            assert row["elo_symmetric"] == pytest.approx(elo(-against), abs=0.06)
        else:
            assert row["elo"] == pytest.approx(elo(omegas[axis, upstream, fraction]), abs=0.06)


def test_the_warm_up_table_holds_every_comparison() -> None:
    assert load("warm_up").groupby(["set", "axis", "upstream"]).size().eq(7).all()
    assert len(load("warm_up")) == 112


def test_the_prompting_tables_aligner_column_is_the_main_tables_mean() -> None:
    main = load("main_table").query("aligner == 'Aligner-7B'").set_index("upstream")
    ours = load("prompting").query("method == 'Aligner-7B'").set_index("upstream")
    # The row is called Alpaca2-7B, its numbers are those of Alpaca-7B.
    for upstream, in_main in (("GPT-4", "GPT-4"), ("Alpaca2-7B", "Alpaca-7B"), ("Beaver-7B", "Beaver-7B")):
        for axis in ("helpful", "harmless"):
            mean = main.loc[in_main, [f"beavertails_{axis}", f"harmfulqa_{axis}"]].mean()
            assert ours.loc[upstream, axis] == pytest.approx(mean, abs=0.16), (upstream, axis)


def test_redistribution_means_are_those_of_the_papers_figure() -> None:
    table = load("redistribution").set_index(["panel", "state"])
    assert tuple(table.loc[("training set", "before"), ["helpful", "harmless"]]) == (5.43, -0.21)
    assert tuple(table.loc[("GPT-4", "after"), ["helpful", "harmless"]]) == (3.93, 4.57)
    assert tuple(table.loc[("Llama2-70B-Chat", "after"), ["helpful_deviation", "harmless_deviation"]]) == (3.49, 3.10)
    assert (table["n"] == 350).all()
    assert len(table) == 8


def test_the_published_settings_make_a_global_batch_of_256_and_586_steps() -> None:
    settings = load("hyper_parameters").query("group == 'Aligner training'").set_index("key")["value"]
    batch = int(settings["per_device_batch"]) * int(settings["gradient_accumulation"]) * 8
    assert batch == 256
    assert round(50_000 * int(settings["epochs"]) / batch) == 586
