import numpy as np
import pytest
from figures import assert_tidy, laid_out
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from records import recorded, runs

from salun.experiments.record import Record
from salun.reports.labels import rows_of_records
from salun.reports.plots.gone import WAYS, gone
from salun.reports.plots.style import styled

TITLE = "resnet_tiny on digits, forgetting class 0: 10 of 100 images"
BASE = {"probe_forget": 1.0, "IDI": 1.0}


def asked(method: str, probe: float, index: float | None, curve: list[float | None]) -> list[Record]:
    """Two runs that were asked whether it is gone, the second one with larger values."""
    return [
        recorded(
            method,
            seed=seed,
            values={"probe_forget": probe + 0.02 * seed, "IDI": index, "relearn_few": curve[-1]},
            base_metrics=BASE,
            details={"relearn_few_curve": {str(epoch): value for epoch, value in enumerate(curve)}},
        )
        for seed in range(2)
    ]


RECORDS = [*asked("retrain", 0.8, 0.0, [0, 0.25, 0.5]), *asked("rl", 0.96, 0.7, [0, 1, None])]


def rendered(records: list[Record], names: tuple[str, ...]) -> Figure:
    with styled():
        return laid_out(gone(rows_of_records(records), names, TITLE))


def points(axis: Axes) -> list[float]:
    return [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() not in ("None", None)]


def test_points_are_means_and_lines_are_those_of_base_and_retrained_model() -> None:
    figure = rendered(RECORDS, ("probe_forget", "IDI"))
    assert_tidy(figure)
    probe, index = figure.axes
    assert [text.get_text() for text in probe.get_yticklabels()] == ["base", "retrain", "rl"]
    assert points(probe) == pytest.approx([100, 81, 97])
    assert points(index) == pytest.approx([1, 0, 0.7])
    marks = [float(line.get_xdata()[0]) for line in probe.lines if line.get_marker() in ("None", None)]
    assert marks == pytest.approx([100, 81])
    assert probe.get_title().startswith("probe_forget, %\n")


def test_relearning_is_drawn_epoch_by_epoch_as_far_as_every_run_got() -> None:
    figure = rendered(RECORDS, ("probe_forget", "relearn_few"))
    assert_tidy(figure)
    curves = {tuple(np.ravel(line.get_xdata())): list(line.get_ydata()) for line in figure.axes[2].lines}
    assert curves == {(): [], (0, 1, 2): [0, 25, 50], (0, 1): [0, 100]}


def test_what_has_no_value_is_told_and_one_run_has_no_interval() -> None:
    figure = rendered([*runs(1, values={"IDI": 0.5}), *runs(1, method="ft", values={"IDI": None})], ("IDI",))
    assert [text.get_text() for text in figure.axes[0].texts] == ["–", "–"]
    assert not figure.axes[0].collections
    assert "t-interval" not in figure.get_suptitle()


def test_all_ways_fit_side_by_side() -> None:
    values = dict.fromkeys(WAYS, 0.5)
    records = [
        record
        for method in ("retrain", "rl", "a_method_with_a_long_name")
        for record in runs(2, method=method, values=values, details={"relearn_few_curve": {"0": 0.0, "1": 0.5}})
    ]
    assert_tidy(rendered(records, tuple(WAYS)))
