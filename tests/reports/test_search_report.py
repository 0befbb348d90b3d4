"""What a search found: which settings, by how much, and which of them mattered."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from scipy import stats

from salun.experiments.config import Experiment
from salun.experiments.search import Trial
from salun.experiments.search_space import Study
from salun.reports.plots.search import draw_coordinates, draw_slices
from salun.reports.plots.style import styled
from salun.reports.search import Choice, figures_of, lines_of

SPACE = {"lr": FloatDistribution(1e-3, 0.1, log=True), "labels": CategoricalDistribution(["any", "other"])}


def study(tag: str | None = None) -> Study:
    experiment = Experiment.model_validate(
        {"number": 1, "method": "rl", "settings": {}, "forget": {"classes": [0]}, "tag": tag}
    )
    return Study(1, {"method": "rl"}, SPACE, {}, False, experiment)


def choice(*gaps: tuple[float, ...]) -> Choice:
    tried = [{"lr": 0.01 * (place + 1), "labels": ("any", "other")[place % 2]} for place in range(len(gaps))]
    trials = tuple(Trial(study(), place, tried[place], each) for place, each in enumerate(gaps))
    return Choice(study(), trials, trials, {"lr": 0.75, "labels": 0.25}, 1200)


def test_the_lead_is_that_of_pairs_of_runs() -> None:
    first, second = (0.01, 0.02, 0.03, 0.04), (0.02, 0.04, 0.03, 0.07)
    lead = choice(first, second).lead
    assert lead is not None
    mean, low, high = lead.mean, lead.low, lead.high
    wanted = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert mean == pytest.approx(0.015)
    assert (low, high) == pytest.approx((wanted.low, wanted.high))
    assert choice(first).lead is None
    once = choice((0.1,), (0.25,)).lead
    assert once is not None
    assert (once.mean, once.low, once.high) == (pytest.approx(0.15), None, None)  # one run tells no interval


def test_the_table_tells_settings_figures_and_what_mattered() -> None:
    found = choice((0.01, 0.02), (0.03, 0.04))
    headings, (line,) = lines_of([found])
    assert dict(zip(headings, line, strict=True)) == {
        "entry": "rl", "trials": "2", "chosen": 'lr 0.01, labels "any"', "gap %": "1.50",
        "second, gap % more": "2.00 (2.00 to 2.00)", "passes at most": "1,200", "what mattered": "lr 75 %, labels 25 %",
    }  # fmt: skip
    assert found.entry == {"method": "rl", "lr": 0.01, "labels": "any", "budget": 1200}


@pytest.mark.parametrize("draw", [draw_slices, draw_coordinates])
@pytest.mark.parametrize("values", [{"lr": 0.1}, {"lr": 0.1, "labels": "any", "dual": None, "epochs": 3}])
def test_figures_take_numbers_words_and_equal_values(draw: Any, values: dict[str, Any], tmp_path: Path) -> None:
    settings = [values, values | {"lr": 0.2}, values]
    with styled():
        figure = draw("title", settings, [0.1, 0.2, 0.3], {"lr"})
        figure.savefig(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_slice_shows_every_trial_where_it_lies() -> None:
    figure = figures_of(choice((0.01,), (0.03,), (0.02,)))["slices"]
    axis = figure.axes[0]
    points = np.asarray(axis.collections[0].get_offsets())
    assert points == pytest.approx(np.array([[0.01, 1.0], [0.02, 3.0], [0.03, 2.0]]))
    assert axis.get_xscale() == "log"
    assert [tick.get_text() for tick in figure.axes[1].get_xticklabels()] == ["any", "other"]
