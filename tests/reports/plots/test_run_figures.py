from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from figures import assert_tidy, laid_out, texts_of
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from records import corrective, recorded, runs, sweep_runs

from salun.experiments.record import Record
from salun.reports.curves import curve_of, found_sweeps_of, sweeps_of
from salun.reports.labels import rows_of_records
from salun.reports.plots.bars import bars
from salun.reports.plots.curves import curves
from salun.reports.plots.style import styled
from salun.reports.plots.sweep import FOUND, sweep
from salun.reports.plots.tradeoff import plane
from salun.reports.summary import Row
from salun.training.progress import Epoch

NAMES = ("UA", "RA", "TA", "MIA")
TITLE = "resnet_tiny on digits, forgetting class 0: 10 of 100 images"
LONG = "a tag that says a great deal about what was done and why, and then goes on to say it once more " * 2

# fmt: off
GROUPS: dict[str, list[Record]] = {
    "one run": runs(1),
    "one method": runs(3),
    "retrained only": runs(3, method="retrain"),
    "sweep": [*runs(method="retrain"), *sweep_runs(), *sweep_runs("ft", (0.1, 0.5)), *runs(keep=0.5, score="random")],
    "fine sweep": [*runs(1, method="retrain"), *sweep_runs(keeps=(0.001, 0.002, 0.01, 0.1, 0.2, 0.3, None))],
    "thirty methods": [record for place in range(30) for record in runs(2, method=f"method_{place}", lr=place + 1)],
    "thirty rates": [record for place in range(30) for record in runs(1, lr=place + 1.0)],
    "diverged": [
        *runs(method="retrain"), *runs(2, method="ga", diverged=True), recorded(), recorded(seed=1, diverged=True),
    ],
    "odd names": [
        *runs(1, tag=LONG), *runs(1, tag=LONG, lr=0.5), *runs(1, lr=0.3, tag="_under $x^2$ <b> %"),
        *runs(1, lr=0.4, tag="two\nlines"), *runs(1, method="ft", tag="base"), *runs(2, method="retrain", epochs=40),
    ],
}
# fmt: on
DRAWN: dict[str, Callable[[list[Row]], Figure]] = {
    "bars": lambda rows: bars(rows, NAMES, TITLE),
    "curves": lambda rows: curves([curve for curve in map(curve_of, rows) if curve], rows, TITLE),
    "sweep": lambda rows: sweep(sweeps_of(rows), rows, (*NAMES, "gap"), TITLE),
    "plane": lambda rows: plane(rows, ("UA", "TA"), TITLE),
}
CASES = [(name, group) for name in DRAWN for group in GROUPS if name != "sweep" or "sweep" in group]


def rendered(name: str, records: list[Record]) -> Figure:
    with styled():
        return laid_out(DRAWN[name](rows_of_records(records)))


@cache
def shown(name: str, group: str) -> Figure:
    return rendered(name, GROUPS[group])


def labels_in(figure: Figure) -> list[str]:
    (legend,) = figure.legends or [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    return [text.get_text() for text in legend.get_texts()]


def ticks_of(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.get_yticklabels()]


# All figures


@pytest.mark.parametrize(("name", "group"), CASES)
def test_texts_are_whole_and_apart_and_titles_tell_problem_and_runs(name: str, group: str) -> None:
    figure = shown(name, group)
    assert_tidy(figure)
    title = figure.get_suptitle()
    assert title.replace("\n", " ").startswith(TITLE)
    assert "n = " in title


@pytest.mark.parametrize("group", GROUPS)
def test_every_row_has_a_label_and_a_style_of_its_own(group: str) -> None:
    figure = shown("bars", group)
    rows = rows_of_records(GROUPS[group])
    labels = ticks_of(figure.axes[0])
    assert len(set(labels)) == len(labels) == len(rows)
    (legend,) = shown("plane", group).legends
    looks = {(line.get_markerfacecolor(), line.get_marker()) for line in legend.get_lines()}
    assert len(looks) == len(legend.get_texts())


# Bars


def test_bars_are_the_means_and_a_line_is_the_retrained_ones() -> None:
    records = [*runs(), *runs(method="retrain"), *runs(keep=0.5)]
    figure = rendered("bars", records)
    rows = {row.title: row for row in rows_of_records(records)}
    titles = ["base", "retrain", "rl", "rl + mask 0.5"]
    assert ticks_of(figure.axes[0]) == titles
    for name, axis in zip(NAMES, figure.axes, strict=True):
        means = [100 * (rows[title].estimates[name].mean or 0) for title in titles]
        assert [bar.get_width() for bar in axis.patches] == pytest.approx(means)
        (line,) = [line for line in axis.lines if line.get_linestyle() == "--"]
        assert np.ravel(line.get_xdata()) == pytest.approx(means[1])
        assert axis.get_title().startswith(name)
        assert [text.get_text() for text in axis.texts] == [f"{mean:.2f}" for mean in means]


def test_whiskers_are_t_intervals_that_stay_within_percentages() -> None:
    values = [{"UA": value, "RA": 0.5 + value / 10} for value in (0.0, 0.4)]
    records = [recorded(seed=seed, values=given) for seed, given in enumerate(values)]
    row = rows_of_records(records)[1]
    figure = rendered("bars", records)
    ends = [axis.collections[0].get_segments()[0][:, 0] for axis in figure.axes[:2]]
    assert ends[0] == pytest.approx([0, 100])
    assert ends[1] == pytest.approx([100 * (row.estimates["RA"].low or 0), 100 * (row.estimates["RA"].high or 0)])


@pytest.mark.parametrize("name", ["bars", "plane"])
def test_one_run_has_no_whisker_and_no_word_of_one(name: str) -> None:
    figure = rendered(name, runs(1))
    assert not any(axis.collections for axis in figure.axes)
    assert not any("t-interval" in text.get_text() for text in texts_of(figure))
    assert "n = 1 run" in figure.get_suptitle()


def test_diverged_runs_and_missing_metrics_are_told() -> None:
    figure = rendered("bars", GROUPS["diverged"])
    assert ticks_of(figure.axes[0]) == ["base", "retrain, n = 3", "ga, 2 of 2 diverged", "rl, 1 of 2 diverged"]
    assert [text.get_text() for text in figure.axes[0].texts].count("diverged") == 1
    assert len(figure.axes[0].patches) == 3
    figure = rendered("bars", runs(values={"MIA": None}))
    assert [text.get_text() for text in figure.axes[3].texts] == ["5.00", "–"]


def test_variants_of_a_method_stand_together_in_one_colour_and_masked_ones_and_the_target_in_patterns() -> None:
    methods = [*runs(keep=0.5), *runs(method="ft"), *runs(), *runs(method="ft", keep=0.5)]
    figure = rendered("bars", [*runs(method="retrain"), *methods])
    assert ticks_of(figure.axes[0]) == ["base", "retrain", "rl + mask 0.5", "rl", "ft", "ft + mask 0.5"]
    colours = [bar.get_facecolor() for bar in figure.axes[0].patches[2:]]
    assert colours[0] == colours[1] != colours[2] == colours[3]
    base, target, masked, *rest = [bar.get_hatch() for bar in figure.axes[0].patches]
    assert rest == [None, None, masked]
    assert len({base, target, masked}) == 3


# Curves


def test_curves_are_means_over_runs_with_a_line_for_each() -> None:
    figure = rendered("curves", runs(3, epochs=4))
    lines = [line.get_ydata() for line in figure.axes[0].lines]
    assert len(lines) == 4
    assert lines[3] == pytest.approx(np.mean(lines[:3], axis=0))
    assert figure.axes[1].lines[0].get_ydata() == pytest.approx([50, 75, 100 * (1 - 0.5 / 3), 87.5])


def test_retraining_has_panels_of_its_own_and_validation_where_it_was_watched() -> None:
    figure = rendered("curves", [*runs(epochs=3), *runs(method="retrain", epochs=50)])
    assert [len(axis.lines[0].get_xdata()) for axis in figure.axes] == [3, 3, 50, 50]
    assert labels_in(figure) == ["rl", "retrain"]
    curve = [Epoch(epoch, 0.5, 0.5, 0.25 * epoch, 0.1, 1.0) for epoch in (1, 2)]
    figure = rendered("curves", [*runs(), *runs(method="retrain", curve=curve)])
    assert [axis.get_subplotspec().colspan.stop for axis in figure.axes] == [3, 6, 2, 4, 6]
    assert all(axis.lines for axis in figure.axes)
    assert figure.axes[4].lines[0].get_ydata() == pytest.approx([25, 50])


def test_lines_that_cover_each_other_differ_in_stroke_place_and_width() -> None:
    curve = [Epoch(epoch, 1.0, 0.5, None, 0.1, 1.0) for epoch in (1, 2)]
    figure = rendered(
        "curves", [*runs(1, curve=curve), *runs(1, keep=0.5, curve=curve), *runs(1, method="ft", curve=curve)]
    )
    means = [line for line in figure.axes[0].lines if line.get_linewidth() > 1]
    assert [line.get_linestyle() for line in means] == ["-", "-.", "-"]
    assert [line.get_linestyle() for line in figure.legends[0].get_lines()] == ["-", "-.", "-"]
    assert len({tuple(line.get_xdata()) for line in means}) == 3
    assert sorted((line.get_linewidth() for line in means), reverse=True) == [line.get_linewidth() for line in means]
    marks = rendered("plane", [*runs(1), *runs(1, keep=0.5)]).axes[0].lines
    assert "-." in [line.get_linestyle() for line in marks]


@pytest.mark.parametrize(("last", "scale"), [(-2.0, "linear"), (-1e6, "symlog")])
def test_losses_of_very_different_size_are_all_seen(last: float, scale: str) -> None:
    curve = [Epoch(1, 0.5, 0.5, None, 0.1, 1.0), Epoch(2, last, 0.5, None, 0.1, 1.0)]
    axis = rendered("curves", [*runs(), *runs(method="ga", curve=curve)]).axes[0]
    assert axis.get_yscale() == scale
    assert not any("$" in label for label in ticks_of(axis))


# Sweeps


def test_a_sweep_shows_every_threshold_between_base_and_retrained() -> None:
    records = [*runs(method="retrain"), *sweep_runs(keeps=(0.1, 0.5, None))]
    figure = rendered("sweep", records)
    rows = {row.title: row for row in rows_of_records(records)}
    titles = ["rl + mask 0.1", "rl + mask 0.5", "rl"]
    assert labels_in(figure) == ["rl", "retrained", "base model"]
    for name, axis in zip((*NAMES, "gap"), figure.axes, strict=False):
        values = [rows[title].gap if name == "gap" else rows[title].estimates[name] for title in titles]
        (line,) = [line for line in axis.lines if len(line.get_xdata()) == 3 and line.get_linestyle() == "-"]
        assert line.get_xdata() == pytest.approx([0.1, 0.5, 1.0])
        assert line.get_ydata() == pytest.approx([100 * (value.mean or 0) for value in values])
    levels = {
        round(float(line.get_ydata()[0]), 6) for line in figure.axes[0].lines if line.get_linestyle() in ("--", ":")
    }
    assert levels == {2.0, round(100 * (rows["retrain"].estimates["UA"].mean or 0), 6)}


@pytest.mark.parametrize(("keeps", "scale"), [((0.1, 0.5, None), "linear"), ((0.001, 0.01, None), "log")])
def test_thresholds_far_apart_are_on_a_logarithmic_axis(keeps: Any, scale: str) -> None:
    axis = rendered("sweep", sweep_runs(keeps=keeps)).axes[0]
    assert axis.get_xscale() == scale
    assert [text.get_text() for text in axis.get_xticklabels()] == [f"{keep or 1.0:g}" for keep in keeps]


# Forgetting against utility


def places(axis: Axes) -> list[tuple[float, float]]:
    lines = [line for line in axis.lines if line.get_marker() not in ("None", None, "|", "_")]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in lines]


def test_each_row_is_a_point_and_the_target_is_marked() -> None:
    records = [*runs(method="retrain"), *runs(), *runs(method="ga", values={"TA": None})]
    figure = rendered("plane", records)
    rows = {row.title: row for row in rows_of_records(records)}
    for title, place in zip(("base", "retrain", "rl"), places(figure.axes[0]), strict=True):
        assert place == pytest.approx([100 * (rows[title].estimates[name].mean or 0) for name in ("UA", "TA")])
    assert labels_in(figure) == ["base", "retrain", "rl"]
    assert "the star is the target" in figure.get_suptitle().replace("\n", " ")
    assert "without values: ga" in figure.get_suptitle().replace("\n", " ")
    without = rendered("plane", runs())
    assert (len(without.axes), "target" in without.get_suptitle()) == (1, False)


def around_target(*shares: float) -> Figure:
    """Methods near the target with these UA, another far from it; their TA varies over the runs."""
    near = [
        recorded(seed=seed, lr=place + 1.0, values={"UA": share, "TA": 0.93 + 0.004 * seed * (place + 1)})
        for place, share in enumerate(shares)
        for seed in range(3)
    ]
    target = runs(method="retrain", values={"UA": 1.0, "TA": 0.94})
    return rendered("plane", [*target, *near, *runs(method="ga", values={"UA": 0.1, "TA": 0.5})])


def test_points_of_one_value_stand_side_by_side_on_an_axis_without_numbers() -> None:
    figure = around_target(1.0, 1.0, 1.0)
    panel = figure.axes[1]
    assert len({round(across, 3) for across, _ in places(panel)}) == 4
    assert not [text for text in panel.get_xticklabels() if text.get_text()]
    assert "side by side: each has UA 100.00 %" in panel.get_xlabel()
    assert [across for across, _ in places(figure.axes[0])].count(100) == 4


def test_where_some_values_are_equal_each_point_is_above_its_own() -> None:
    panel = around_target(1.0, 0.985, 1.0).axes[1]
    written = {tick.get_position()[0]: tick.get_text() for tick in panel.get_xticklabels()}
    shown = {round(up, 3): written[across] for across, up in places(panel)}
    assert shown == {94: "100.00", 93.4: "100.00", 93.8: "98.50", 94.2: "100.00"}
    assert "not to scale" in panel.get_xlabel()


def test_where_all_values_differ_points_are_where_they_are() -> None:
    figure = around_target(0.99, 0.98, 0.97)
    assert places(figure.axes[1]) == [pytest.approx(place) for place in [(100, 94), (99, 93.4), (98, 93.8), (97, 94.2)]]
    assert [place for place in places(figure.axes[0]) if place[0] > 90] == places(figure.axes[1])
    ticks = [float(tick.get_text()) for axis in figure.axes for tick in axis.get_xticklabels()]
    assert 0 <= min(ticks) < max(ticks) <= 100


@pytest.mark.parametrize("shares", [(1.0, 1.0, 1.0), (1.0, 0.985, 1.0), (0.99, 0.98, 0.97), (1.0,) * 12])
def test_whiskers_stay_within_their_panel_and_the_frame_within_its(shares: tuple[float, ...]) -> None:
    figure = around_target(*shares)
    if len(shares) < 4:
        assert_tidy(figure)
    for axis in figure.axes:
        ends = np.concatenate([end for group in axis.collections for end in group.get_segments()])
        for values, (low, high) in zip(ends.T, (axis.get_xlim(), axis.get_ylim()), strict=True):
            assert low < values.min() <= values.max() < high
    left = figure.axes[0]
    (frame,) = left.patches
    assert left.get_ylim()[0] < frame.get_y() < frame.get_y() + frame.get_height() < left.get_ylim()[1]
    assert figure.axes[1].get_ylim() == pytest.approx((frame.get_y(), frame.get_y() + frame.get_height()))
    assert len(places(figure.axes[1])) == len(shares) + 1


def test_a_sweep_over_the_part_found_has_a_line_of_each_kind_of_model() -> None:
    each = [*runs(method="retrain"), *runs(method="ft")]
    rows = rows_of_records([record for part in (0.25, 1.0) for record in corrective(each, part)])
    ((_, found),) = found_sweeps_of(rows).items()
    assert [line.title for line in found] == ["base", "retrain", "ft"]
    with styled():
        figure = laid_out(sweep(found[2:], rows, ("ASR", "TA"), TITLE, FOUND, found[:2]))
    axis = figure.axes[0]
    assert axis.get_xlabel() == "part that was found"
    drawn = [[*zip(*line.get_data(), strict=True)] for line in axis.lines if len(line.get_xdata()) == 2]
    assert [(0.25, 100.0), (1.0, 100.0)] in drawn  # the base model
    assert [(0.25, pytest.approx(100 * 0.75 / 8)), (1.0, 0.0)] in drawn  # retrained
    assert [(0.25, pytest.approx(25.0)), (1.0, 0.0)] in drawn
    assert_tidy(figure)
