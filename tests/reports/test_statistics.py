from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats
from scipy.special import nctdtrinc

from salun.reports.statistics import (
    Comparison,
    Draw,
    Estimate,
    adjusted_by_holm,
    difference,
    estimate,
    units,
    versus,
)

SAMPLES = [
    ([0.97, 0.98, 0.96, 0.99], [0.91, 0.95, 0.90, 0.97]),
    ([1.0, 2.0], [1.5, 9.0]),
    ([1e-3, 2e-3, 5e-3], [4e-3, 1e-3, 2e-3]),
    ([1e6, 3e6, 2e6, 2.5e6, 1.1e6], [1e5, 2e5, 9e6, 4e6, 1e6]),
    ([0.0, 0.0, 1.0], [1.0, 1.0, 1.0]),
]


def alone(values: list[float]) -> dict[Draw, float]:
    """Values of runs that differ by their seed."""
    return {("A", "F", seed): value for seed, value in enumerate(values)}


def reach(found: Estimate) -> float | None:
    """Half the width of an interval, which must have its mean in the middle."""
    if found.low is None or found.high is None:
        assert found.low is found.high is None
        return None
    assert found.mean == pytest.approx((found.low + found.high) / 2)
    return (found.high - found.low) / 2


def crossed(bases: int, forgets: int, seeds: int) -> list[Draw]:
    return [(f"b{b}", f"f{f}", s) for b in range(bases) for f in range(forgets) for s in range(seeds)]


def paired(first: list[float], second: list[float], step: float = 0.0) -> Comparison:
    found = difference(alone(first), alone(second), step)
    assert found is not None
    return found


def unpaired(first: list[float], second: list[float], step: float = 0.0) -> Comparison:
    found = versus(first, second, step)
    assert found is not None
    return found


# Figures


@pytest.mark.parametrize(
    "values", [[0.0, 1.0], [1.0, 2.0, 3.0], [0.97, 0.98, 0.96, 0.99], [5.0] * 6, [1e-9, 1e9, 3.0, None, 7.0]]
)
def test_a_figure_is_mean_spread_number_and_t_interval(values: list[float | None]) -> None:
    known = [value for value in values if value is not None]
    found = estimate(values)
    assert found.n == len(known)
    assert found.mean == pytest.approx(sum(known) / len(known))
    assert found.sd == pytest.approx(np.std(known, ddof=1))
    assert reach(found) == pytest.approx(stats.t.ppf(0.975, len(known) - 1) * stats.sem(known))
    assert estimate(values, [("A", "F", seed) for seed in range(len(values))]) == found


@pytest.mark.parametrize("values", [[0.25], [None, 0.25, None], [], [None], [None, None]])
def test_one_run_has_no_spread_and_no_run_no_figure(values: list[float | None]) -> None:
    wanted = (0.25, None, 1, None) if 0.25 in values else (None, None, 0, None)
    for draws in ([], crossed(1, 1, 3)[: len(values)], crossed(3, 1, 3)[: len(values)]):
        found = estimate(values, draws)
        assert (found.mean, found.sd, found.n, reach(found)) == wanted


# Independent units


@pytest.mark.parametrize(
    ("bases", "forgets", "seeds", "over"),
    [
        (1, 1, 4, (0, 1)),
        (2, 1, 4, (1, 2)),
        (1, 3, 4, (0, 2)),
        (2, 3, 4, (1, 2)),
        (4, 3, 2, (0, 2)),
        (3, 3, 2, (1, 2)),
        (5, 1, 1, (1, 2)),
    ],
)
def test_units_are_the_runs_or_the_means_of_the_rarer_source(
    bases: int, forgets: int, seeds: int, over: tuple[int, int]
) -> None:
    draws = crossed(bases, forgets, seeds)
    values = np.random.default_rng(0).normal(size=(bases, forgets, seeds))
    assert units(values.flatten().tolist(), draws) == pytest.approx(values.mean(over))
    order = np.random.default_rng(1).permutation(len(draws))
    shuffled = units([values.flatten()[place] for place in order], [draws[place] for place in order])
    assert sorted(shuffled) == pytest.approx(sorted(values.mean(over)))


def test_more_runs_of_the_same_models_do_not_narrow_the_interval() -> None:
    means = [0.1, 0.5, 0.4]
    expected = estimate(means)
    for copies in (1, 2, 10):
        draws = crossed(3, 1, copies)
        found = estimate([means[int(base[1])] for base, _, _ in draws], draws)
        assert reach(found) == pytest.approx(reach(expected))
        assert (found.mean, found.n) == (pytest.approx(expected.mean), 3 * copies)
    values = [value for mean in means for value in (mean - 0.3, mean, mean + 0.3)]
    found = estimate(values, crossed(3, 1, 3))
    assert reach(found) == pytest.approx(reach(expected))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert (reach(found) or 0) > (reach(estimate(values)) or 0)


def test_a_base_model_without_values_is_no_unit_and_its_loss_does_not_free_the_others() -> None:
    draws = crossed(2, 1, 3)
    found = estimate([0.1, 0.2, 0.3, None, None, None], draws)
    assert (found.n, reach(found)) == (3, None)
    assert (found.mean, found.sd) == (pytest.approx(0.2), pytest.approx(0.1))
    assert units([None, 0.2, 0.4, 0.5, None, None], draws) == pytest.approx([0.3, 0.5])


# Tests of two samples


@pytest.mark.filterwarnings("ignore:Precision loss")
@pytest.mark.parametrize(("first", "second"), [*SAMPLES, ([1.0, 2.0, 4.0], [3.0, 3.5]), ([0.1, 0.4], [0.7] * 5)])
def test_the_tests_are_students_and_welchs_whatever_the_order(first: list[float], second: list[float]) -> None:
    tests = [(unpaired, stats.ttest_ind(first, second, equal_var=False), len(first) + len(second))]
    if len(first) == len(second):
        tests += [(paired, stats.ttest_rel(first, second), len(first))]
    for test, expected, count in tests:
        found, other = test(first, second), test(second, first)
        low, high = expected.confidence_interval(0.95)
        assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
        assert found.half_width == pytest.approx((high - low) / 2)
        assert found.p == found.adjusted == pytest.approx(expected.pvalue)
        assert found.n == count
        assert (other.p, other.half_width, -other.difference) == (found.p, found.half_width, found.difference)
    assert difference(dict(reversed(alone(first).items())), alone(second)) == difference(alone(first), alone(second))


def test_only_the_same_draws_are_pairs() -> None:
    first = alone([0.1, 0.2, 0.9, 0.3])
    second = {("A", "F", seed): value for seed, value in ((1, 0.5), (2, 0.5), (7, 0.1))} | {("B", "F", 0): 0.5}
    found = difference(first, second)
    assert found is not None
    assert found.n == 2
    assert found.p == pytest.approx(stats.ttest_rel([0.2, 0.9], [0.5, 0.5]).pvalue)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.25, 0.0), (-1.0, 0.0)])
def test_equal_differences_leave_no_doubt_and_rounding_is_none(shift: float, p: float) -> None:
    first = [0.5, 0.75, 0.125]
    assert paired([value + shift for value in first], first) == Comparison(shift, 0.0, p, 3, p)
    for found in (
        paired([abs(0.3 - 0.4), 0.1, 1 / 3], [abs(0.5 - 0.4), 0.1, 1 - 2 / 3]),
        unpaired([0.1 + 0.2, 0.3], [0.3, 0.15 + 0.15]),
    ):
        assert (found.p, found.half_width) == (1.0, 0.0)


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([0.5], []), ([], [0.5, 0.6]), ([0.5], [0.5])])
def test_samples_that_are_too_small_are_not_tested(ours: list[float], theirs: list[float]) -> None:
    assert versus(ours, theirs) is None
    assert difference(alone(ours), alone(theirs)) is None
    assert difference(dict.fromkeys(crossed(1, 1, 4), 0.5), dict.fromkeys(crossed(2, 1, 1)[1:], 0.5)) is None


@pytest.mark.parametrize("value", [0.0, 0.5, 0.62, 3.0])
def test_a_single_value_is_held_against_the_prediction_interval(value: float) -> None:
    standard = [0.4, 0.5, 0.45, 0.62]
    found, turned = unpaired([value], standard), unpaired(standard, [value])
    width = stats.t.ppf(0.975, 3) * np.std(standard, ddof=1) * (1 + 1 / 4) ** 0.5
    assert found.half_width == pytest.approx(width)
    assert found.differs == (abs(value - np.mean(standard)) > width)
    assert (turned.difference, turned.p) == (-found.difference, found.p)


@pytest.mark.parametrize(
    ("values", "standard", "p"),
    [([0.5] * 3, [0.5] * 2, 1.0), ([1.0] * 3, [0.5] * 2, 0.0), ([0.5], [0.5] * 2, 1.0), ([0.5] * 2, [0.25], 0.0)],
)
def test_samples_without_spread_are_equal_or_not(values: list[float], standard: list[float], p: float) -> None:
    found = unpaired(values, standard)
    assert (found.p, found.half_width, found.difference) == (p, 0.0, values[0] - standard[0])


TRIALS = 1500
MARGIN = 3 * (0.05 * 0.95 / TRIALS) ** 0.5


def false_alarms(draw: Callable[[np.random.Generator], Comparison | None]) -> float:
    chance = np.random.default_rng(0)
    found = [draw(chance) for _ in range(TRIALS)]
    return float(np.mean([comparison is not None and comparison.differs for comparison in found]))


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (4, 4), (1, 4), (8, 3)])
def test_equal_samples_are_called_different_in_one_of_twenty(ours: int, theirs: int) -> None:
    rate = false_alarms(lambda chance: versus(chance.normal(size=ours).tolist(), chance.normal(size=theirs).tolist()))
    assert rate < 0.05 + MARGIN


def test_equal_methods_are_called_different_in_one_of_twenty() -> None:
    def pair(chance: np.random.Generator) -> Comparison | None:
        luck = chance.normal(size=5)
        return paired(*((luck + chance.normal(size=5)).tolist() for _ in range(2)))

    assert abs(false_alarms(pair) - 0.05) < MARGIN


def test_the_luck_of_a_base_model_makes_no_false_alarm() -> None:
    draws = crossed(4, 1, 5)

    def lucky(chance: np.random.Generator) -> list[float]:
        return (np.repeat(chance.normal(size=4), 5) + 0.1 * chance.normal(size=20)).tolist()

    by_unit = false_alarms(lambda chance: versus(*(units(lucky(chance), draws) for _ in range(2))))
    by_run = false_alarms(lambda chance: versus(lucky(chance), lucky(chance)))
    assert by_unit < 0.05 + MARGIN
    assert by_run > 0.2


# Many tests


def adjusted(p_values: list[float]) -> list[float]:
    found = adjusted_by_holm([Comparison(0.1, 0.2, p, 4, p) for p in p_values])
    assert [comparison.p for comparison in found] == p_values
    assert [comparison.differs for comparison in found] == [comparison.adjusted < 0.05 for comparison in found]
    return [comparison.adjusted for comparison in found]


def test_holms_adjustment_worked_out_by_hand() -> None:
    assert adjusted([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert adjusted([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert adjusted([]) == []


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_adjusted_p_keep_the_order_and_are_never_smaller(count: int) -> None:
    p_values = (np.random.default_rng(count).uniform(size=count) ** 3).tolist()
    found = adjusted(p_values)
    assert all(p <= new <= 1 for p, new in zip(p_values, found, strict=True))
    assert all(low <= high for low, high in pairwise(new for _, new in sorted(zip(p_values, found, strict=True))))
    assert min(found) == pytest.approx(min(1.0, count * min(p_values)))
    assert adjusted(p_values[::-1])[::-1] == pytest.approx(found)


# Values that move in steps


def test_what_differs_by_one_image_only_may_do_so_by_chance() -> None:
    step = 1 / 36
    near, far = unpaired([1.0, 1.0], [1.0 - step, 1.0 - step], step), unpaired([0.0, 0.0], [1.0, 1.0], step)
    assert (near.p > 0.05, far.p < 0.001, (near.half_width or 0) > 0) == (True, True, True)
    assert not unpaired([0.0, 0.0], [1.0, 1.0], 1.0).differs
    certain, careful = (paired([0.5] * 2, [0.5 - step] * 2, given) for given in (0.0, step))
    assert (certain.p, careful.p > 0.05) == (0.0, True)


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_shares_of_few_images_give_no_certain_false_alarms(runs: int) -> None:
    chance, step = np.random.default_rng(runs), 1 / 36
    sides = np.round(chance.normal(0.5, 0.5 * step, (TRIALS, 2, runs)) / step) * step
    found = np.array([unpaired(*pair.tolist(), step).p for pair in sides])
    assert (found < 0.05).mean() < 0.06
    assert (found < 0.001).mean() < 0.005


@pytest.mark.parametrize("runs", [2, 3, 8])
def test_pairs_without_spread_have_that_of_two_roundings_and_two_samples_that_of_one_each(runs: int) -> None:
    step, ours, theirs = 0.01, [0.5] * runs, [0.4] * runs
    error, single = step * (2 / 12 / runs) ** 0.5, step * (1 / 12) ** 0.5 * (1 + 1 / runs) ** 0.5
    for found, freedom, expected in (
        (paired(ours, theirs, step), runs - 1, error),
        (unpaired(ours, theirs, step), 2 * (runs - 1), error),
        (unpaired([0.5], theirs, step), runs - 1, single),
    ):
        assert found.half_width == pytest.approx(stats.t.ppf(0.975, freedom) * expected)


def test_spread_beyond_rounding_is_not_widened_by_it() -> None:
    values, standard = [0.2, 0.5, 0.3], [0.4, 0.9, 0.8, 0.7]
    assert unpaired(values, standard, 0.1) == unpaired(values, standard)
    assert paired(values, standard[:3], 0.1) == paired(values, standard[:3])


# What could have been found


@pytest.mark.parametrize(("runs", "tests"), [(3, 1), (5, 1), (5, 12), (10, 4)])
def test_the_detectable_difference_is_found_in_four_cases_of_five(runs: int, tests: int) -> None:
    chance = np.random.default_rng(runs)

    def compared(shift: float) -> Comparison:
        found = unpaired(chance.normal(shift, 0.4, runs).tolist(), chance.normal(0, 0.4, runs).tolist())
        return adjusted_by_holm([found] * tests)[0]

    size = float(np.median([compared(0.0).detectable or 0 for _ in range(TRIALS)]))
    assert np.mean([compared(size).p < 0.05 / tests for _ in range(TRIALS)]) == pytest.approx(0.8, abs=0.07)
    (exact, *_) = adjusted_by_holm([unpaired([0.1, 0.5, 0.3], [0.4, 0.8, 0.6])] * tests)
    size = (0.02 * 2) ** 0.5 * nctdtrinc(4, 0.2, stats.t.ppf(1 - 0.05 / tests / 2, 4)) / 3**0.5 * 2**0.5
    assert exact.detectable == pytest.approx(size)


def test_without_noise_every_difference_is_found() -> None:
    (found,) = adjusted_by_holm([unpaired([0.5, 0.5], [0.25, 0.25])])
    assert (found.p, found.detectable) == (0.0, 0.0)
