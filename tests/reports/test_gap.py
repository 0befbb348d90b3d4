"""The average gap under simulation: what its interval covers, what its test calls different, and its noise floor."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from records import make, measured
from scipy import stats

from salun.reports.gap import Distance, distance_to, gap_estimate, nearer, noise_floor
from salun.reports.statistics import Estimate, Sample
from salun.reports.summary import bold_of, summarise

POINT = 0.01
SHIFTS = {
    "as retrained": (0, 0, 0, 0),
    "beside it": (0.3, 0.3, 0.3, 0.3),
    "one point": (1, 1, 1, 1),
    "above and below": (1, -1, 1, -1),
    "in two metrics": (0, 0, 1, 2),
}


def models(
    chance: np.random.Generator, shift: tuple[float, ...], sd: float, seeds: int, alike: float = 0.0
) -> NDArray[np.float64]:
    """(seeds, 4) metrics, in fractions; noise of which `alike` is common to the four."""
    own, common = chance.normal(size=(seeds, 4)), chance.normal(size=(seeds, 1))
    noise = sd * (np.sqrt(1 - alike) * own + np.sqrt(alike) * common)
    return 0.5 + POINT * (np.array(shift) + noise)


def covers(found: Estimate, truth: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low - 1e-12 <= truth <= found.high + 1e-12


def simulated(
    shift: tuple[float, ...], seeds: int, sds: tuple[float, float], alike: float, tables: int
) -> Counter[str]:
    """How often the intervals of a table cover, and how often something false is said; through the summary's code.

    Two methods are equally far from retraining, one above where the other is below.
    """
    chance, found = np.random.default_rng([seeds, int(10 * sum(sds))]), Counter[str]()
    truth = POINT * float(np.mean(np.abs(shift)))
    for _ in range(tables):
        values = {
            "retrain": models(chance, (0, 0, 0, 0), sds[0], seeds, alike),
            "rl": models(chance, shift, sds[1], seeds, alike),
            "ga": models(chance, tuple(-x for x in shift), sds[1], seeds, alike),
        }
        rows = summarise(
            [
                (name, [make(name, seed, metrics=measured(*four), base_metrics={}) for seed, four in enumerate(side)])
                for name, side in values.items()
            ]
        )
        by_title = {row.title: row for row in rows}
        found["gap"] += covers(by_title["rl"].gap, truth)
        against = by_title["rl"].against["TA"]
        assert against.half_width is not None
        found["against"] += abs(against.difference - POINT * shift[2]) <= against.half_width
        found["mean"] += covers(by_title["retrain"].estimates["RA"], 0.5)
        found["bold"] += bold_of(rows) is not None
        found["marked"] += any(
            found.differs for name in ("rl", "ga") for metric, found in by_title[name].against.items() if metric == "UA"
        )
    return found


def check(kind: str, seeds: int, sds: tuple[float, float], alike: float, tables: int) -> None:
    found, margin = simulated(SHIFTS[kind], seeds, sds, alike, tables), 3 * (0.05 * 0.95 / tables) ** 0.5
    for name in ("gap", "against", "mean"):
        assert found[name] / tables >= 0.92 - margin, name
        assert found[name] / tables <= 0.98 + margin, name
    assert found["bold"] / tables <= 0.05 + margin
    if not SHIFTS[kind][0]:
        assert found["marked"] / tables <= 0.05 + margin


@pytest.mark.parametrize("kind", SHIFTS)
@pytest.mark.parametrize(("seeds", "sds"), [(3, (0.3, 0.3)), (5, (0.5, 0.1))])
def test_intervals_cover_and_equal_methods_are_not_told_apart(kind: str, seeds: int, sds: tuple[float, float]) -> None:
    check(kind, seeds, sds, alike=0.0, tables=150)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "seeds", "sds", "alike"),
    list(product(SHIFTS, (3, 5, 10), ((0.3, 0.3), (0.5, 0.1), (0.1, 0.5), (0.4, 0.0)), (0.0, 0.5))),
)
def test_intervals_cover_over_a_grid(kind: str, seeds: int, sds: tuple[float, float], alike: float) -> None:
    check(kind, seeds, sds, alike, tables=1000)


# One table at a time


def sample(values: NDArray[np.float64], cell: tuple[str, str] = ("A", "F")) -> Sample:
    return Sample([measured(*four) for four in values.tolist()], [(*cell, seed) for seed in range(len(values))])


def found_for(ours: NDArray[np.float64], gold: NDArray[np.float64], step: float = 0.0) -> Distance:
    found = distance_to(sample(ours), sample(gold), [step] * 4)
    assert found is not None
    return found


FAR = (5, -5, 5, 5)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (5, 3), (2, 8)])
def test_far_from_retraining_the_interval_is_welchs_of_the_signed_mean(ours: int, theirs: int) -> None:
    chance = np.random.default_rng(ours)
    runs, gold = models(chance, FAR, 0.3, ours), models(chance, (0, 0, 0, 0), 0.5, theirs)
    sides = [values @ np.sign(FAR) / 4 for values in (runs, gold)]
    low, high = stats.ttest_ind(*sides, equal_var=False).confidence_interval()
    found = gap_estimate(found_for(runs, gold))
    assert (found.mean, found.low, found.high) == pytest.approx((sides[0].mean() - sides[1].mean(), low, high))
    assert (found.n, found.sd) == (ours, None)


def test_a_method_without_noise_has_the_retrained_models_interval() -> None:
    gold = models(np.random.default_rng(0), (0, 0, 0, 0), 0.5, 3)
    found = gap_estimate(found_for(np.full((3, 4), 0.6), gold))
    error = np.std(gold.mean(1), ddof=1) / 3**0.5
    assert found.mean == pytest.approx(0.6 - gold.mean())
    assert found.high == pytest.approx(0.6 - gold.mean() + stats.t.ppf(0.975, 2) * error)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.high


@pytest.mark.parametrize("single", ["ours", "theirs"])
def test_a_single_model_is_lent_the_other_sides_spread(single: str) -> None:
    several = models(np.random.default_rng(1), FAR, 0.5, 4)
    sides = (several, np.full((1, 4), 0.5)) if single == "theirs" else (np.full((1, 4), 0.5), several)
    found = gap_estimate(found_for(*sides))
    signed = several @ np.sign(FAR) / 4
    reach = stats.t.ppf(0.975, 3) * np.std(signed, ddof=1) * (1 + 1 / 4) ** 0.5
    assert found.high == pytest.approx((found.mean or 0) + reach)
    assert gap_estimate(found_for(several[:1], several[1:2])).low is None


def test_values_that_agree_by_rounding_have_its_variance() -> None:
    step = 0.02
    found = gap_estimate(found_for(np.full((3, 4), 0.9), np.full((3, 4), 0.5), step))
    error = (step**2 / 12 / 3 * 2 * 4) ** 0.5 / 4
    assert found.high == pytest.approx(0.4 + stats.norm.ppf(0.975) * error, rel=1e-5)
    assert gap_estimate(found_for(np.full((3, 4), 0.9), np.full((3, 4), 0.5))).high == pytest.approx(0.4)


@pytest.mark.parametrize("shift", [(0, 0, 0, 0), (0.2, 0, -0.1, 1), (3, 3, 3, 3)])
def test_the_bias_is_that_of_a_folded_normal(shift: tuple[float, ...]) -> None:
    chance = np.random.default_rng(2)
    found = found_for(models(chance, shift, 0.3, 4), models(chance, (0, 0, 0, 0), 0.3, 4))
    noise = chance.normal(size=(400_000, 4)) * found.errors
    assert found.bias == pytest.approx(np.abs(found.values + noise).mean() - found.gap, abs=6e-6)


def test_an_interval_that_begins_at_0_tells_no_method_from_retraining() -> None:
    chance = np.random.default_rng(3)
    equal, other = (models(chance, shift, 0.3, 5) for shift in ((0, 0, 0, 0), (2, 2, 2, 2)))
    gold = models(chance, (0, 0, 0, 0), 0.3, 5)
    assert gap_estimate(found_for(equal, gold)).low == 0
    assert (gap_estimate(found_for(other, gold)).low or 0) > 0


def test_the_noise_floor_is_each_retrained_model_against_the_others() -> None:
    gold = np.array([[0.5, 0.5, 0.5, 0.5], [0.6, 0.5, 0.5, 0.5], [0.9, 0.5, 0.5, 0.7]])
    by_hand = np.mean([(0.25 + 0.1) / 4, (0.1 + 0.1) / 4, (0.35 + 0.2) / 4])
    assert noise_floor(sample(gold)) == pytest.approx(by_hand)
    assert noise_floor(sample(gold[:1])) is None
    both = Sample(
        [*sample(gold).values, *sample(gold[:2], ("B", "F")).values],
        [*sample(gold).draws, *sample(gold[:2], ("B", "F")).draws],
    )
    assert noise_floor(both) == pytest.approx((3 * by_hand + 2 * 0.1 / 4) / 5)


# Two methods


def test_on_one_side_of_retraining_the_test_is_the_paired_one_of_the_runs() -> None:
    chance = np.random.default_rng(4)
    luck = chance.normal(size=(5, 1)) * POINT
    first, second = (models(chance, (shift,) * 4, 0.1, 5) + luck for shift in (5, 6))
    found = nearer(
        *(found_for(values, models(np.random.default_rng(9), (0,) * 4, 0.3, 3)) for values in (first, second))
    )
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_rel(first.mean(1), second.mean(1)).pvalue, rel=1e-6)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert (found.n, found.half_width) == (5, None)


def test_on_two_sides_of_retraining_its_own_noise_counts_twice() -> None:
    chance = np.random.default_rng(5)
    above, below = (np.full((4, 4), 0.5 + POINT * shift) for shift in (6, -5))
    gold = models(chance, (0,) * 4, 0.5, 4)
    found = nearer(found_for(above, gold), found_for(below, gold))
    assert found is not None
    error = 2 * np.std(gold.mean(1), ddof=1) / 4**0.5
    apart = 0.01 - 2 * (gold.mean() - 0.5)
    assert found.difference == pytest.approx(apart)
    assert found.p == pytest.approx(2 * stats.t.sf(abs(apart) / error, 3))


def test_methods_within_retrainings_noise_are_not_told_apart() -> None:
    """Two methods without noise, a tenth of a point to either side: which is nearer depends on the retrained models."""
    alarms = 0
    for seed in range(300):
        gold = models(np.random.default_rng(seed), (0,) * 4, 0.5, 5)
        found = nearer(*(found_for(np.full((5, 4), 0.5 + side * POINT / 10), gold) for side in (1, -1)))
        assert found is not None
        alarms += found.differs
    assert alarms <= 0.05 * 300


@pytest.mark.parametrize(("ours", "theirs"), [((1, 4), 4), ((4, 1), 4), ((4, 4), 1), ((1, 1), 1)])
def test_too_few_models_are_not_compared(ours: tuple[int, int], theirs: int) -> None:
    chance = np.random.default_rng(6)
    gold = models(chance, (0,) * 4, 0.5, theirs)
    assert nearer(*(found_for(models(chance, FAR, 0.3, count), gold) for count in ours)) is None


def test_base_models_are_pairs_of_both_sides() -> None:
    """The luck of a base model is in both its unlearned and its retrained models, and cancels."""
    chance = np.random.default_rng(7)
    luck = 10 * POINT * chance.normal(size=(5, 4))
    sides = []
    for shift in ((2,) * 4, (0,) * 4):
        parts = [sample(models(chance, shift, 0.1, 2) + luck[base], (f"b{base}", "F")) for base in range(5)]
        sides.append(Sample([v for part in parts for v in part.values], [d for part in parts for d in part.draws]))
    found = distance_to(*sides, [0.0] * 4)
    assert found is not None
    estimate = gap_estimate(found)
    assert covers(estimate, 2 * POINT)
    assert (estimate.high or 1) - (estimate.low or 0) < POINT
    assert estimate.n == 10
