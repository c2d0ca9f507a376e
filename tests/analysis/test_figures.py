"""Figures show what their data says: panels, limits, means and numbers of points."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from analysis.figures.lineage import lineage
from analysis.figures.main_table import comparison_table, heat_map, published_main_table
from analysis.figures.redistribution import (
    checkpoint_path,
    checkpoints,
    mean_shifts,
    redistribution,
    regions,
    square_limits,
)
from analysis.figures.rounds import ida_path, ida_steps, multi_round
from analysis.figures.style import AFTER, BEFORE, save
from analysis.figures.training import benchmark_ratios, policy_curves, preference_curves, throughput, training_curves
from analysis.figures.warm_up import warm_up, warm_up_elo
from analysis.figures.weak_to_strong import positions, weak_to_strong
from analysis.published import load


def clouds(panels: tuple[str, ...], size: int = 120) -> pd.DataFrame:
    """Scores before and after in known places: each panel a little further to the right."""
    generator = np.random.default_rng(0)
    rows = []
    for index, panel in enumerate(panels):
        for state, center in (("before", (index, -0.5)), ("after", (index + 2.0, 3.0))):
            rows += [(panel, state, *point) for point in generator.normal(center, 1.0, (size, 2))]
    return pd.DataFrame(rows, columns=["panel", "state", "helpful", "harmless"])


def joints(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_xlabel() == "helpfulness score"]


def labelled(axes: Axes, label: str) -> PathCollection:
    (found,) = [item for item in axes.collections if item.get_label() == label]
    assert isinstance(found, PathCollection)
    return found


def offsets(axes: Axes, label: str) -> np.ndarray:
    return np.asarray(labelled(axes, label).get_offsets())


@pytest.mark.parametrize("panels", [("training set",), ("a", "b"), ("a", "b", "c", "d")])
def test_redistribution_has_a_square_joint_panel_with_two_marginals_per_upstream(panels: tuple[str, ...]) -> None:
    figure = redistribution(clouds(panels))
    assert len(figure.axes) == 3 * len(panels)
    assert len(joints(figure)) == len(panels)
    width, height = figure.get_size_inches()
    for axes in joints(figure):
        place = axes.get_position()
        assert place.width * width == pytest.approx(place.height * height)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"{panel}, n = 120" for panel in panels]


def test_redistribution_shows_every_point_and_marks_the_means_with_a_cross_hair_through_the_one_before() -> None:
    frame = clouds(("a", "b"))
    for axes, (_, rows) in zip(joints(redistribution(frame)), frame.groupby("panel"), strict=True):
        means = rows.groupby("state")[["helpful", "harmless"]].mean()
        for state, color in (("before", BEFORE), ("after", AFTER)):
            expected = rows.loc[rows["state"] == state, ["helpful", "harmless"]].to_numpy()
            assert offsets(axes, state) == pytest.approx(expected)
            assert labelled(axes, state).get_facecolor()[0][:3] == pytest.approx(to_rgba(color)[:3])
            assert offsets(axes, f"_mean {state}")[0] == pytest.approx(means.loc[state].to_numpy())
        vertical, horizontal = axes.lines
        assert vertical.get_xdata()[0] == pytest.approx(means.loc["before", "helpful"])
        assert horizontal.get_ydata()[0] == pytest.approx(means.loc["before", "harmless"])
        (arrow,) = [text for text in axes.texts if hasattr(text, "arrow_patch") and text.arrow_patch]
        assert arrow.xy == pytest.approx(tuple(means.loc["after"]))


def test_all_panels_share_limits_that_hold_the_scores_and_are_not_ruled_by_an_outlier() -> None:
    frame = clouds(("a", "b"), size=1000)
    frame.loc[0, ["helpful", "harmless"]] = 1000.0
    first, second = joints(redistribution(frame))
    (left, right), (bottom, top) = square_limits(frame)
    assert first.get_xlim() == second.get_xlim() == (left, right)
    assert first.get_ylim() == second.get_ylim() == (bottom, top)
    assert right < 20
    inside = frame["helpful"].between(left, right) & frame["harmless"].between(bottom, top)
    assert inside.mean() > 0.99


def test_of_very_many_points_a_sample_is_drawn_but_all_are_counted() -> None:
    frame = clouds(("a",), size=5000)
    figure = redistribution(frame)
    (axes,) = joints(figure)
    assert len(offsets(axes, "before")) == 2000
    assert "n = 5,000" in figure.axes[1].get_title()
    mean = frame[frame["state"] == "before"][["helpful", "harmless"]].mean()
    assert offsets(axes, "_mean before")[0] == pytest.approx(mean.to_numpy())


def test_refuse_and_unsafe_regions_are_dotted_where_a_tenth_of_the_answers_lies_there() -> None:
    def outlined(shift: float) -> list[str]:
        frame = clouds(("a",))
        frame["harmless"] += shift
        (axes,) = joints(redistribution(frame))
        dotted = [patch for patch in axes.patches if isinstance(patch, Ellipse)]
        assert all(patch.get_linestyle() == ":" and not patch.get_fill() for patch in dotted)
        return sorted(patch.get_label() for patch in dotted)

    assert outlined(0.0) == ["_refuse region", "_unsafe region"]
    assert outlined(20.0) == ["_refuse region"]
    assert outlined(-20.0) == ["_unsafe region"]


def test_regions_part_the_unsafe_from_the_safe_but_little_helpful() -> None:
    before = pd.DataFrame({"helpful": [0.0, 4.0, 0.0, 4.0], "harmless": [-1.0, -1.0, 1.0, 1.0]})
    parts = regions(before)
    assert parts["unsafe region"].index.tolist() == [0, 1]
    assert parts["refuse region"].index.tolist() == [2]


def test_two_answers_are_enough_for_a_figure() -> None:
    assert joints(redistribution(clouds(("a",), size=2)))


def test_published_shifts_show_the_papers_means() -> None:
    table = load("redistribution")
    figure = mean_shifts(table)
    assert [axes.get_title().splitlines()[0] for axes in figure.axes] == list(dict.fromkeys(table["panel"]))
    first = figure.axes[0]
    assert offsets(first, "_mean before")[0] == pytest.approx((5.43, -0.21))
    assert offsets(first, "_mean after")[0] == pytest.approx((6.26, 3.15))
    assert "safe 46 → 87 %" in first.get_title()


def test_checkpoints_keep_one_cross_hair_and_colour_by_safety() -> None:
    frame = clouds(("5", "45"))[["panel", "helpful", "harmless"]].rename(columns={"panel": "checkpoint"})
    figure = checkpoints(frame)
    assert len(figure.axes) == 2
    crosses = [(axes.lines[0].get_xdata()[0], axes.lines[1].get_ydata()[0]) for axes in figure.axes]
    assert crosses[0] == crosses[1]
    for axes, (name, rows) in zip(figure.axes, frame.groupby("checkpoint", sort=False), strict=True):
        safe = (rows["harmless"] > 0).mean()
        assert axes.get_title() == f"{name}\n{safe:.0%} safe, n = 240"
        points, mean = axes.collections
        assert len(points.get_offsets()) == 240
        blue = (points.get_facecolor()[:, :3] == np.array(to_rgba(AFTER)[:3])).all(axis=1)
        assert blue.mean() == pytest.approx(safe)
        assert np.asarray(mean.get_offsets())[0] == pytest.approx(rows[["helpful", "harmless"]].mean().to_numpy())


def test_the_titles_of_a_second_row_of_checkpoints_stand_below_the_labels_of_the_first() -> None:
    names = tuple(f"system {number}" for number in range(6))
    frame = clouds(names)[["panel", "helpful", "harmless"]].rename(columns={"panel": "checkpoint"})
    figure = checkpoints(frame)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    label = figure.axes[0].xaxis.label.get_window_extent(canvas.get_renderer())
    title = figure.axes[4].title.get_window_extent(canvas.get_renderer())
    assert title.y1 < label.y0


def test_the_published_checkpoints_are_a_path_of_their_means() -> None:
    (axes,) = checkpoint_path(load("checkpoints")).axes
    assert axes.lines[1].get_xydata().tolist() == [[2.11, -0.11], [-1.3, 0.61], [0.47, 1.62], [4.35, 3.18]]


def test_the_warm_up_curve_has_a_line_with_intervals_per_upstream() -> None:
    rows = [
        (axis, upstream, fraction, 10.0 + 100 * fraction, 5.0, 60.0)
        for axis in ("helpful", "harmless") for upstream in ("x", "y") for fraction in (0.5, 0.0, 0.2)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["axis", "upstream", "fraction", "omega", "omega_low", "omega_high"])
    figure = warm_up(frame)
    assert [axes.get_title() for axes in figure.axes] == ["helpfulness", "harmlessness"]
    for axes in figure.axes:
        assert [container.get_label() for container in axes.containers] == ["x", "y"]
        line, _, (bars,) = axes.containers[0]
        assert line.get_xydata().tolist() == [[0, 10], [20, 30], [50, 60]]
        assert np.array(bars.get_segments())[:, :, 1].tolist() == [[5, 60]] * 3


def test_the_published_warm_up_curve_shows_both_conversions() -> None:
    figure = warm_up_elo(load("warm_up_elo"))
    helpful = figure.axes[0]
    solid = helpful.containers[0][0]
    assert solid.get_xydata()[-1].tolist() == [50, 1454.0]
    dotted = [line for line in helpful.lines if line.get_linestyle() == ":"]
    assert dotted[0].get_xydata().tolist() == [[20, 1500], [50, 1447.0]]
    assert len(dotted) == 4


def standing(systems: str) -> pd.DataFrame:
    rows = [(name, i, i - 0.5, i + 0.7, 2 * i, 2 * i - 0.1, 2 * i + 0.2) for i, name in enumerate(systems)]
    names = ["system", "helpful", "helpful_low", "helpful_high", "harmless", "harmless_low", "harmless_high"]
    return pd.DataFrame(rows, columns=names)


def test_weak_to_strong_bars_tell_ours_from_the_published_by_colour_and_interval() -> None:
    frame = standing("ab").rename(columns={"system": "label"}).assign(part=["student", "published"])
    frame.loc[1, ["helpful_low", "helpful_high", "harmless_low", "harmless_high"]] = np.nan
    figure = weak_to_strong(frame)
    for axes, axis in zip(figure.axes, ("helpful", "harmless"), strict=True):
        (bars,) = [item for item in axes.containers if isinstance(item, BarContainer)]
        assert [bar.get_width() for bar in bars] == frame[axis].tolist()
        assert bars[0].get_facecolor() == to_rgba(AFTER) != bars[1].get_facecolor()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b"]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["fine-tuned on weak labels", "published"]


def test_dpo_shows_accuracy_and_margin_and_chosen_beside_rejected() -> None:
    frame = pd.DataFrame({"stage": "student_dpo-s1", "step": [1, 2], "accuracy": [0.5, 1.0], "margin": [0.0, 2.0],
                          "chosen_reward": [0.0, 1.0], "rejected_reward": [0.0, -1.0]})  # fmt: skip
    shown = {axes.get_title(): axes for axes in preference_curves(frame).axes if axes.lines}
    assert list(shown) == ["accuracy", "margin of the rewards", "rewards (dashed: rejected)"]
    assert shown["accuracy"].lines[0].get_ydata().tolist() == [0.5, 1.0]
    solid, dashed = shown["rewards (dashed: rejected)"].lines
    assert (solid.get_linestyle(), solid.get_ydata()[-1]) == ("-", 1.0)
    assert (dashed.get_linestyle(), dashed.get_ydata()[-1]) == ("--", -1.0)


def test_ppo_shows_every_quantity_of_its_iterations_the_scores_first() -> None:
    rows = [
        {"stage": f"student_ppo-s{seed}", "iteration": number, "seconds": 9.0, "policy_loss": 0.1, "kl": 0.2,
         "score": float(seed), "step": number}
        for seed in (1, 2) for number in (1, 2, 3)
    ]  # fmt: skip
    figure = policy_curves(pd.DataFrame(rows))
    shown = [axes for axes in figure.axes if axes.lines]
    assert [axes.get_title() for axes in shown] == ["score", "kl", "policy loss"]
    assert [line.get_ydata().tolist() for line in shown[0].lines] == [[1.0] * 3, [2.0] * 3]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["student_ppo-s1", "student_ppo-s2"]


def test_positions_carry_an_interval_on_both_axes() -> None:
    figure = positions(standing("abc"))
    (axes,) = figure.axes
    assert [container.get_label() for container in axes.containers] == list("abc")
    _, _, (across, up) = axes.containers[1]
    assert across.get_segments()[0].tolist() == pytest.approx(np.array([[0.5, 2], [1.7, 2]]))
    assert up.get_segments()[0].tolist() == pytest.approx(np.array([[1, 1.9], [1, 2.2]]))


@pytest.mark.parametrize("systems", ["ABCD", "ABCDEF"])
def test_the_ida_path_joins_models_and_sends_a_spur_to_each_ones_corrections(systems: str) -> None:
    (axes,) = ida_path(standing(systems)).axes
    solid, *spurs = [line for line in axes.lines if line.get_linestyle() in ("-", "--") and len(line.get_xdata()) > 1]
    assert solid.get_xdata().tolist() == list(range(0, len(systems), 2))
    dashed = [line.get_xdata() for line in spurs if line.get_linestyle() == "--"]
    assert [list(ends) for ends in dashed] == [[i, i + 1] for i in range(0, len(systems), 2)]
    assert [text.get_text() for text in axes.texts] == list(systems)


def test_published_ida_steps_end_where_the_table_says() -> None:
    figure = ida_steps(load("ida_averages"))
    assert [axes.get_title() for axes in figure.axes] == ["Alpaca-7B", "Alpaca2-13B", "Alpaca2-70B"]
    points = figure.axes[0].collections[0].get_offsets().tolist()
    assert points == [[0, 0], [6.2, 64.6], [14.0, 63.7], pytest.approx([16.4, 69.7])]


def test_the_multi_round_path_is_the_papers_figure() -> None:
    (axes,) = multi_round(load("multi_round")).axes
    assert (axes.get_xlim(), axes.get_ylim()) == ((-4, 3.2), (-10, 8))
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["PPO"].get_xydata().tolist() == [[-3.6, -8.3], [-1.4, -7.9], [0.4, -5.2], [2.9, -1.8]]
    assert lines["DPO"].get_xydata()[-1].tolist() == [2.4, -4.4]
    assert sum(line.get_linestyle() == "--" for line in axes.lines) == 5
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [-2, 0, 2]


def test_the_main_table_is_a_cell_per_upstream_and_set() -> None:
    table = published_main_table("Aligner-7B")
    assert table.shape == (12, 7)
    assert table.iloc[0, 0] == 27.7
    assert table.index[-1] == "average"
    axes = heat_map(table, "title").axes[0]
    assert axes.get_title() == "title"
    assert [text.get_text() for text in axes.texts][:2] == ["+27.7", "+6.2"]
    assert axes.collections[0].get_clim() == (-100, 100)


def test_a_reports_comparisons_become_a_table_of_pairs_and_axes() -> None:
    rows = [
        {"a": a, "b": "A", "axis": axis, "omega": value}
        for a, axis, value in (("C", "helpful", 1), ("C", "harmless", 2), ("B", "helpful", 3), ("B", "harmless", 4))
    ]  # fmt: skip
    table = comparison_table(rows)
    assert table.index.tolist() == ["C against A", "B against A"]
    assert table.to_numpy().tolist() == [[1, 2], [3, 4]]


def test_training_curves_have_a_panel_per_kind_of_stage_and_a_line_per_seed() -> None:
    stages = ("aligner-s1", "aligner-s2", "student-s1", "round1-student-s1")
    rows = [(stage, step, 3.0 - step) for stage in stages for step in (1, 2, 3)]
    frame = pd.DataFrame([*rows, ("student-s1", 4, np.nan)], columns=["stage", "step", "loss"])
    figure = training_curves(frame)
    assert {axes.get_title(): len(axes.lines) for axes in figure.axes if axes.lines} == {
        "aligner": 2, "student": 1, "round1-student": 1,
    }  # fmt: skip
    assert figure.axes[1].lines[0].get_xydata().tolist() == [[1, 2], [2, 1], [3, 0]]


def test_every_one_of_many_series_is_drawn_and_looks_unlike_the_others() -> None:
    stages = [f"student-s{seed}" for seed in range(1, 10)]
    frame = pd.DataFrame([(stage, step, 1.0) for stage in stages for step in range(60)],
                         columns=["stage", "step", "loss"]).assign(iteration=lambda rows: rows["step"])  # fmt: skip
    shares = pd.DataFrame({"axis": "helpful", "upstream": stages, "fraction": 0.2, "omega": 1.0})
    drawn = {
        "training": training_curves(frame).axes[0].lines,
        "preference": preference_curves(frame.assign(accuracy=1.0)).axes[0].lines,
        "policy": policy_curves(frame).axes[0].lines,
        "warm-up": [container.lines[0] for container in warm_up(shares).axes[0].containers],
        "published warm-up": [line for line in warm_up_elo(shares.assign(elo=1.0, elo_symmetric=2.0)).axes[0].lines
                              if line.get_linestyle() == "-"],
    }  # fmt: skip
    for name, lines in drawn.items():
        looks = {(line.get_color(), line.get_marker()) for line in lines if len(line.get_xdata())}
        assert len(looks) == len(stages), name


def test_a_watched_training_has_its_held_out_loss_dashed_beside() -> None:
    rows = [(0, np.nan, 3.0), (1, 2.5, np.nan), (2, 2.0, np.nan), (2, np.nan, 2.2)]
    frame = pd.DataFrame(rows, columns=["step", "loss", "held_out_loss"]).assign(stage="aligner-s1")
    solid, dashed = training_curves(frame).axes[0].lines
    assert (solid.get_linestyle(), solid.get_xydata().tolist()) == ("-", [[1, 2.5], [2, 2]])
    assert (dashed.get_linestyle(), dashed.get_xydata().tolist()) == ("--", [[0, 3], [2, 2.2]])


def test_throughput_reads_the_ratios_of_a_benchmarks_last_line() -> None:
    frame = benchmark_ratios('a table\n1 2 3\n{"ratio_tokens_per_second": 2.5, "seconds": 9, "ratio_padding": 0.5}\n')
    assert frame.to_numpy().tolist() == [["tokens per second", 2.5], ["padding", 0.5]]
    (axes,) = throughput(frame).axes
    (bars,) = axes.containers
    assert [bar.get_x() + bar.get_width() for bar in bars] == [2.5, 0.5]


def test_a_saved_figure_is_png_and_svg_with_the_same_bytes_each_time(tmp_path: Path) -> None:
    frame = pd.DataFrame({"name": ["x"], "ratio": [2.0]})
    for name in ("one", "two"):
        assert save(throughput(frame), tmp_path / name) == tmp_path / f"{name}.png"
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    for kind in (".png", ".svg"):
        assert (tmp_path / f"one{kind}").read_bytes() == (tmp_path / f"two{kind}").read_bytes()
    assert "<text" in (tmp_path / "one.svg").read_text()


def test_drawing_leaves_the_callers_style_alone() -> None:
    before = dict(mpl.rcParams)
    redistribution(clouds(("a",)))
    assert dict(mpl.rcParams) == before


def test_a_lineage_stands_from_left_to_right() -> None:
    rows = [("second", "starts_from", "first", False), ("first", "starts_from", "hub/base", True),
            ("second", "corrected_by", "aligner", False), ("aligner", "learns_from", "weak", True)]  # fmt: skip
    figure = lineage(pd.DataFrame(rows, columns=["model", "relation", "origin", "finished"]))
    texts = {text.get_text().replace("\n", ""): text for text in figure.axes[0].texts}
    at = {name: text.get_position()[0] for name, text in texts.items()}
    assert at == {"hub/base": 0, "first": 1, "weak": 0, "aligner": 1, "second": 2}
    assert texts["second"].get_bbox_patch().get_linestyle() == "--"
    assert len(figure.axes[0].patches) == len(rows)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "starts from",
        "learns from",
        "corrections by",
    ]
