from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats
from scipy.special import nctdtrinc

from salun.reports.statistics import (
    Comparison,
    Draw,
    Estimate,
    Sample,
    adjusted_by_holm,
    difference,
    estimate,
    holm,
    means_by,
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
    error = stats.sem(known)
    if error:
        low, high = stats.t.interval(0.95, len(known) - 1, loc=found.mean, scale=error)
        assert (found.low, found.high) == pytest.approx((low, high))
    else:
        assert reach(found) == 0
    assert estimate(values, [("A", "F", seed) for seed in range(len(values))]) == found


def test_a_figure_worked_out_by_hand() -> None:
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.sd, found.n) == (2, 1, 3)
    assert reach(found) == pytest.approx(4.302652729911275 / 3**0.5)


@pytest.mark.parametrize("values", [[0.25], [None, 0.25, None]])
@pytest.mark.parametrize("bases", [1, 3])
def test_one_run_has_no_spread(values: list[float | None], bases: int) -> None:
    found = estimate(values, crossed(bases, 1, 3)[: len(values)])
    assert (found.mean, found.sd, found.n, reach(found)) == (0.25, None, 1, None)


@pytest.mark.parametrize("values", [[], [None], [None, None]])
def test_no_run_has_no_figure(values: list[float | None]) -> None:
    for draws in ([], crossed(1, len(values), 1)):
        found = estimate(values, draws)
        assert (found.mean, found.sd, found.n, reach(found)) == (None, None, 0, None)


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
        (1, 1, 1, (0, 1)),
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
        assert found.mean == pytest.approx(expected.mean)
        assert found.n == 3 * copies
    values = [value for mean in means for value in (mean - 0.3, mean, mean + 0.3)]
    found = estimate(values, crossed(3, 1, 3))
    assert reach(found) == pytest.approx(reach(expected))
    assert found.sd == pytest.approx(np.std(values, ddof=1))
    assert (reach(found) or 0) > (reach(estimate(values)) or 0)


def test_a_base_model_without_values_is_no_unit_and_its_loss_does_not_free_the_others() -> None:
    draws = crossed(2, 1, 3)
    found = estimate([0.1, 0.2, 0.3, None, None, None], draws)
    assert (found.n, reach(found)) == (3, None)
    assert found.mean == pytest.approx(0.2)
    assert found.sd == pytest.approx(0.1)
    assert units([None, 0.2, 0.4, 0.5, None, None], draws) == pytest.approx([0.3, 0.5])


def test_means_are_taken_of_what_belongs_together() -> None:
    assert means_by([1.0, 5.0, None, 3.0, None], ["x", "y", "y", "x", "z"]) == [2.0, 5.0]
    assert means_by([], []) == []


def test_a_sample_is_averaged_over_each_base_model_and_forget_set() -> None:
    draws = crossed(2, 2, 2)
    sample = Sample([{"UA": float(place), "RA": None} for place in range(8)], draws)
    assert {group: values["UA"] for group, values in sample.by_group().items()} == {
        ("b0", "f0"): 0.5,
        ("b0", "f1"): 2.5,
        ("b1", "f0"): 4.5,
        ("b1", "f1"): 6.5,
    }
    assert all(values["RA"] is None for values in sample.by_group().values())
    assert sample.within([("b1", "f0")]).of("UA") == [4.0, 5.0]


# Paired


@pytest.mark.parametrize(("first", "second"), SAMPLES)
def test_the_paired_test_is_students(first: list[float], second: list[float]) -> None:
    found, expected = difference(alone(first), alone(second)), stats.ttest_rel(first, second)
    assert found is not None
    low, high = expected.confidence_interval(0.95)
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert found.p == found.adjusted == pytest.approx(expected.pvalue)
    assert found.n == len(first)


@pytest.mark.parametrize(("first", "second"), SAMPLES)
def test_the_paired_test_is_even_handed_and_does_not_look_at_the_order(first: list[float], second: list[float]) -> None:
    one, other = difference(alone(first), alone(second)), difference(alone(second), alone(first))
    turned = difference(dict(reversed(alone(first).items())), alone(second))
    assert one is not None
    assert other is not None
    assert (one.p, one.half_width) == (other.p, other.half_width)
    assert one.difference == -other.difference
    assert turned == one


def test_only_the_same_draws_are_pairs() -> None:
    first = {("A", "F", seed): value for seed, value in enumerate((0.1, 0.2, 0.9, 0.3))}
    second = {("A", "F", seed): value for seed, value in ((1, 0.5), (2, 0.5), (7, 0.1))} | {("B", "F", 0): 0.5}
    found = difference(first, second)
    assert found is not None
    assert found.n == 2
    assert found.p == pytest.approx(stats.ttest_rel([0.2, 0.9], [0.5, 0.5]).pvalue)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.25, 0.0), (-1.0, 0.0)])
def test_equal_differences_leave_no_doubt(shift: float, p: float) -> None:
    first = [0.5, 0.75, 0.125]
    found = difference(alone([value + shift for value in first]), alone(first))
    assert found == Comparison(shift, 0.0, p, 3, p)


def test_rounding_is_no_difference() -> None:
    found = difference(alone([abs(0.3 - 0.4), 0.1, 1 / 3]), alone([abs(0.5 - 0.4), 0.1, 1 - 2 / 3]))
    assert found is not None
    assert (found.p, found.half_width) == (1.0, 0.0)
    found = versus([0.1 + 0.2, 0.3], [0.3, 0.15 + 0.15])
    assert found is not None
    assert (found.p, found.half_width) == (1.0, 0.0)


@pytest.mark.parametrize("values", [[], [0.5]])
def test_fewer_than_two_pairs_are_not_tested(values: list[float]) -> None:
    assert difference(alone(values), alone([0.1, 0.2, 0.3])) is None
    assert difference(dict.fromkeys(crossed(1, 1, 4), 0.5), dict.fromkeys(crossed(2, 1, 1)[1:], 0.5)) is None


def test_pairs_of_one_base_model_are_one_unit() -> None:
    draws = crossed(3, 1, 4)
    chance = np.random.default_rng(1)
    first, second = (dict(zip(draws, chance.normal(size=12).tolist(), strict=True)) for _ in range(2))
    found = difference(first, second)
    means = [
        [np.mean([values[d] for d in draws if d[0] == base]) for base in ("b0", "b1", "b2")]
        for values in (first, second)
    ]
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_rel(*means).pvalue)
    assert found.n == 12


# Against retrained models


@pytest.mark.filterwarnings("ignore:Precision loss")
@pytest.mark.parametrize(("first", "second"), [*SAMPLES, ([1.0, 2.0, 4.0], [3.0, 3.5]), ([0.1, 0.4], [0.7] * 5)])
def test_the_test_of_two_samples_is_welchs(first: list[float], second: list[float]) -> None:
    found, expected = versus(first, second), stats.ttest_ind(first, second, equal_var=False)
    assert found is not None
    low, high = expected.confidence_interval(0.95)
    assert found.difference == pytest.approx(np.mean(first) - np.mean(second))
    assert found.half_width == pytest.approx((high - low) / 2)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.n == len(first) + len(second)


@pytest.mark.parametrize("value", [0.0, 0.5, 0.62, 3.0])
def test_a_single_value_is_held_against_the_prediction_interval(value: float) -> None:
    standard = [0.4, 0.5, 0.45, 0.62]
    found = versus([value], standard)
    assert found is not None
    reach = stats.t.ppf(0.975, 3) * np.std(standard, ddof=1) * (1 + 1 / 4) ** 0.5
    assert found.half_width == pytest.approx(reach)
    assert found.differs == (abs(value - np.mean(standard)) > reach)
    turned = versus(standard, [value])
    assert turned is not None
    assert (turned.difference, turned.p) == (-found.difference, found.p)


@pytest.mark.parametrize(
    ("values", "standard", "p"),
    [([0.5] * 3, [0.5] * 2, 1.0), ([1.0] * 3, [0.5] * 2, 0.0), ([0.5], [0.5] * 2, 1.0), ([0.5] * 2, [0.25], 0.0)],
)
def test_samples_without_spread_are_equal_or_not(values: list[float], standard: list[float], p: float) -> None:
    found = versus(values, standard)
    assert found is not None
    assert (found.p, found.half_width, found.difference) == (p, 0.0, values[0] - standard[0])


@pytest.mark.parametrize(("values", "standard"), [([], []), ([0.5], []), ([], [0.5, 0.6]), ([0.5], [0.5])])
def test_samples_that_are_too_small_are_not_tested(values: list[float], standard: list[float]) -> None:
    assert versus(values, standard) is None


TRIALS = 1500


def false_alarms(draw: Callable[[np.random.Generator], Comparison | None]) -> float:
    chance = np.random.default_rng(0)
    found = [draw(chance) for _ in range(TRIALS)]
    return float(np.mean([comparison is not None and comparison.differs for comparison in found]))


@pytest.mark.parametrize(("ours", "theirs"), [(2, 2), (4, 4), (1, 4), (8, 3)])
def test_equal_samples_are_called_different_in_one_of_twenty(ours: int, theirs: int) -> None:
    rate = false_alarms(lambda chance: versus(chance.normal(size=ours).tolist(), chance.normal(size=theirs).tolist()))
    assert rate < 0.05 + 3 * (0.05 * 0.95 / TRIALS) ** 0.5


def test_equal_methods_are_called_different_in_one_of_twenty() -> None:
    def pair(chance: np.random.Generator) -> Comparison | None:
        luck = chance.normal(size=5)
        return difference(*(alone((luck + chance.normal(size=5)).tolist()) for _ in range(2)))

    assert abs(false_alarms(pair) - 0.05) < 3 * (0.05 * 0.95 / TRIALS) ** 0.5


def test_the_luck_of_a_base_model_makes_no_false_alarm() -> None:
    draws = crossed(4, 1, 5)

    def lucky(chance: np.random.Generator) -> list[float]:
        return (np.repeat(chance.normal(size=4), 5) + 0.1 * chance.normal(size=20)).tolist()

    by_unit = false_alarms(lambda chance: versus(*(units(lucky(chance), draws) for _ in range(2))))
    by_run = false_alarms(lambda chance: versus(lucky(chance), lucky(chance)))
    assert by_unit < 0.05 + 3 * (0.05 * 0.95 / TRIALS) ** 0.5
    assert by_run > 0.2


# Many tests


def test_holms_adjustment_worked_out_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.02, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_adjusted_p_keep_the_order_and_are_never_smaller(count: int) -> None:
    p_values = np.random.default_rng(count).uniform(size=count) ** 3
    found = np.array(holm(p_values.tolist()), dtype=float)
    assert (found >= p_values).all()
    assert (found <= 1).all()
    assert (np.diff(found[np.argsort(p_values)]) >= 0).all()
    assert found.min() == pytest.approx(min(1.0, count * p_values.min()))
    turned = holm(p_values[::-1].tolist())
    assert turned[::-1] == pytest.approx(found)


def test_tests_that_were_not_made_do_not_count() -> None:
    assert holm([None, 0.03, None, 0.01, None]) == [None, 0.03, None, 0.02, None]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_comparisons_are_adjusted_together() -> None:
    made = [Comparison(0.1, 0.2, p, 4, p) for p in (0.04, 0.01, 0.03)]
    assert [found.differs for found in made] == [True, True, True]
    found = adjusted_by_holm(made)
    assert [comparison.p for comparison in found] == [0.04, 0.01, 0.03]
    assert [comparison.adjusted for comparison in found] == pytest.approx([0.06, 0.03, 0.06])
    assert [comparison.differs for comparison in found] == [False, True, False]


# Values that move in steps


def test_a_step_of_nothing_changes_nothing() -> None:
    values, standard = [0.2, 0.5, 0.3], [0.4, 0.9, 0.8, 0.7]
    assert versus(values, standard, 0.0) == versus(values, standard)


def test_what_differs_by_one_image_only_may_do_so_by_chance() -> None:
    step = 1 / 36
    near = versus([1.0, 1.0], [1.0 - step, 1.0 - step], step)
    far = versus([0.0, 0.0], [1.0, 1.0], step)
    assert near is not None
    assert far is not None
    assert near.p > 0.05
    assert far.p < 0.001
    assert (near.half_width or 0) > 0


def test_one_bit_a_run_says_nothing_in_two_runs() -> None:
    found = versus([0.0, 0.0], [1.0, 1.0], 1.0)
    assert found is not None
    assert not found.differs


@pytest.mark.parametrize("runs", [2, 3, 4])
def test_shares_of_few_images_give_no_certain_false_alarms(runs: int) -> None:
    chance, step, alarms, certain = np.random.default_rng(runs), 1 / 36, 0, 0
    for _ in range(1500):
        sides = np.round(chance.normal(0.5, 0.5 * step, (2, runs)) / step) * step
        found = versus(*sides.tolist(), step)
        assert found is not None
        alarms += found.p < 0.05
        certain += found.p < 0.001
    assert alarms / 1500 < 0.06
    assert certain / 1500 < 0.005


def test_paired_differences_of_one_step_may_be_chance_too() -> None:
    first = {("A", "F", seed): 0.5 for seed in range(2)}
    second = dict.fromkeys(first, 0.5 - 1 / 36)
    certain, careful = difference(first, second), difference(first, second, 1 / 36)
    assert certain is not None
    assert careful is not None
    assert (certain.p, careful.p > 0.05) == (0.0, True)


@pytest.mark.parametrize("runs", [2, 3, 8])
def test_pairs_without_spread_have_that_of_two_roundings_and_two_samples_that_of_one_each(runs: int) -> None:
    step, ours, theirs = 0.01, [0.5] * runs, [0.4] * runs
    paired, apart = difference(alone(ours), alone(theirs), step), versus(ours, theirs, step)
    assert paired is not None
    assert apart is not None
    error = step * (2 / 12 / runs) ** 0.5
    assert paired.half_width == pytest.approx(stats.t.ppf(0.975, runs - 1) * error)
    assert apart.half_width == pytest.approx(stats.t.ppf(0.975, 2 * (runs - 1)) * error)
    alone_against = versus([0.5], theirs, step)
    assert alone_against is not None
    single = step * (1 / 12) ** 0.5 * (1 + 1 / runs) ** 0.5
    assert alone_against.half_width == pytest.approx(stats.t.ppf(0.975, runs - 1) * single)


def test_spread_beyond_rounding_is_not_widened_by_it() -> None:
    values, standard = [0.2, 0.5, 0.3], [0.4, 0.9, 0.8, 0.7]
    assert versus(values, standard, 0.1) == versus(values, standard)
    assert difference(alone(values), alone(standard[:3]), 0.1) == difference(alone(values), alone(standard[:3]))


# What could have been found


@pytest.mark.parametrize(("runs", "tests"), [(3, 1), (5, 1), (5, 12), (10, 4)])
def test_the_detectable_difference_is_found_in_four_cases_of_five(runs: int, tests: int) -> None:
    chance = np.random.default_rng(runs)

    def compared(shift: float) -> Comparison:
        found = versus(chance.normal(shift, 0.4, runs).tolist(), chance.normal(0, 0.4, runs).tolist())
        assert found is not None
        return adjusted_by_holm([found] * tests)[0]

    size = float(np.median([compared(0.0).detectable or 0 for _ in range(TRIALS)]))
    assert np.mean([compared(size).p < 0.05 / tests for _ in range(TRIALS)]) == pytest.approx(0.8, abs=0.07)
    exact = versus([0.1, 0.5, 0.3], [0.4, 0.8, 0.6])
    assert exact is not None
    (adjusted, *_) = adjusted_by_holm([exact] * tests)
    size = (0.02 * 2) ** 0.5 * nctdtrinc(4, 0.2, stats.t.ppf(1 - 0.05 / tests / 2, 4)) / 3**0.5 * 2**0.5
    assert adjusted.detectable == pytest.approx(size)


def test_without_noise_every_difference_is_found() -> None:
    (found,) = adjusted_by_holm([versus([0.5, 0.5], [0.25, 0.25])])  # type: ignore[list-item]
    assert (found.p, found.detectable) == (0.0, 0.0)
