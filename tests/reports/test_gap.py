"""The average gap under simulation: what its interval covers, what its test calls different, and its noise floor."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from records import make, measured
from scipy import stats

from salun.metrics import GAP_METRICS
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


def check(kind: str, seeds: int, sds: tuple[float, float], alike: float, tables: int) -> None:
    """Count how often the intervals of a table cover, and how often something false is said, through the summary.

    Two methods are equally far from retraining, one above where the other is below.
    """
    chance, found, shift = np.random.default_rng([seeds, int(10 * sum(sds))]), Counter[str](), SHIFTS[kind]
    shifts = {"retrain": (0, 0, 0, 0), "rl": shift, "ga": tuple(-x for x in shift)}
    for _ in range(tables):
        sides = {name: models(chance, at, sds[name != "retrain"], seeds, alike) for name, at in shifts.items()}
        entries = [
            (name, [make(name, seed, metrics=measured(*four), base_metrics={}) for seed, four in enumerate(side)])
            for name, side in sides.items()
        ]
        rows = summarise(entries)
        by_title = {row.title: row for row in rows}
        against = by_title["rl"].against["TA"]
        assert against.half_width is not None
        found["gap"] += covers(by_title["rl"].gap, POINT * float(np.mean(np.abs(shift))))
        found["against"] += abs(against.difference - POINT * shift[2]) <= against.half_width
        found["mean"] += covers(by_title["retrain"].estimates["RA"], 0.5)
        found["bold"] += bold_of(rows) is not None
        equal = [name for name, apart in zip(GAP_METRICS, shift, strict=True) if not apart]
        found["marked"] += any(by_title[title].against[name].differs for title in ("rl", "ga") for name in equal)
    margin = 3 * (0.05 * 0.95 / tables) ** 0.5
    for name in ("gap", "against", "mean"):
        assert 0.92 - margin <= found[name] / tables <= 0.98 + margin, name
    assert max(found["bold"], found["marked"]) / tables <= 0.05 + margin


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


def sample(values: NDArray[np.float64], *groups: tuple[str, str]) -> Sample:
    """Models of each group in turn."""
    groups = groups or (("A", "F"),)
    draws = [(*group, seed) for group in groups for seed in range(len(values) // len(groups))]
    return Sample([measured(*four) for four in values.tolist()], draws)


def found_for(ours: NDArray[np.float64], gold: NDArray[np.float64], step: float = 0.0) -> Distance:
    found = distance_to(sample(ours), sample(gold), [step] * 4)
    assert found is not None
    return found


def gap_of(*sides: NDArray[np.float64], step: float = 0.0) -> Estimate:
    return gap_estimate(found_for(*sides, step))


AT = (0,) * 4
FAR = (5, -5, 5, 5)


@pytest.mark.parametrize(("ours", "theirs"), [(3, 3), (5, 3), (2, 8)])
def test_far_from_retraining_the_interval_is_welchs_of_the_signed_mean(ours: int, theirs: int) -> None:
    chance = np.random.default_rng(ours)
    runs, gold = models(chance, FAR, 0.3, ours), models(chance, AT, 0.5, theirs)
    sides = [values @ np.sign(FAR) / 4 for values in (runs, gold)]
    low, high = stats.ttest_ind(*sides, equal_var=False).confidence_interval()
    found = gap_of(runs, gold)
    assert (found.mean, found.low, found.high) == pytest.approx((sides[0].mean() - sides[1].mean(), low, high))
    assert (found.n, found.sd) == (ours, None)


def test_sides_without_noise_and_single_models_have_the_other_sides() -> None:
    gold, one = models(np.random.default_rng(0), AT, 0.5, 3), np.full((1, 4), 0.6)
    error = np.std(gold.mean(1), ddof=1) / 3**0.5
    for ours, theirs, wider in ((one.repeat(3, 0), gold, 1), (one, gold, 4**0.5), (gold, one, 4**0.5)):
        found = gap_of(ours, theirs)
        assert found.mean == pytest.approx(0.6 - gold.mean())
        assert found.high == pytest.approx(0.6 - gold.mean() + stats.t.ppf(0.975, 2) * error * wider)
        assert 0 <= (found.low or 0) < (found.high or 0)
    assert gap_of(gold[:1], gold[1:2]).low is None


def test_values_that_agree_by_rounding_have_its_variance() -> None:
    step, sides = 0.02, (np.full((3, 4), 0.9), np.full((3, 4), 0.5))
    error = (step**2 / 12 / 3 * 2 * 4) ** 0.5 / 4
    assert gap_of(*sides, step=step).high == pytest.approx(0.4 + stats.norm.ppf(0.975) * error, rel=1e-5)
    assert gap_of(*sides).high == pytest.approx(0.4)


@pytest.mark.parametrize("shift", [(0, 0, 0, 0), (0.2, 0, -0.1, 1), (3, 3, 3, 3)])
def test_the_bias_is_that_of_a_folded_normal(shift: tuple[float, ...]) -> None:
    chance = np.random.default_rng(2)
    found = found_for(models(chance, shift, 0.3, 4), models(chance, AT, 0.3, 4))
    noise = chance.normal(size=(400_000, 4)) * found.errors
    assert found.bias == pytest.approx(np.abs(found.values + noise).mean() - found.gap, abs=6e-6)


def test_an_interval_that_begins_at_0_tells_no_method_from_retraining() -> None:
    chance = np.random.default_rng(3)
    equal, other, gold = (models(chance, (shift,) * 4, 0.3, 5) for shift in (0, 2, 0))
    assert gap_of(equal, gold).low == 0
    assert (gap_of(other, gold).low or 0) > 0


def test_the_noise_floor_is_each_retrained_model_against_the_others() -> None:
    gold = np.array([[0.5, 0.5, 0.5, 0.5], [0.6, 0.5, 0.5, 0.5], [0.9, 0.5, 0.5, 0.7]])
    by_hand = np.mean([(0.25 + 0.1) / 4, (0.1 + 0.1) / 4, (0.35 + 0.2) / 4])
    assert noise_floor(sample(gold)) == pytest.approx(by_hand)
    assert noise_floor(sample(gold[:1])) is None
    one, other = sample(gold), sample(gold[:2], ("B", "F"))
    assert noise_floor(Sample(one.values + other.values, one.draws + other.draws)) == pytest.approx(
        (3 * by_hand + 2 * 0.1 / 4) / 5
    )


# Two methods


def test_on_one_side_of_retraining_the_test_is_the_paired_one_of_the_runs() -> None:
    chance = np.random.default_rng(4)
    luck = chance.normal(size=(5, 1)) * POINT
    first, second = (models(chance, (shift,) * 4, 0.1, 5) + luck for shift in (5, 6))
    gold = models(np.random.default_rng(9), AT, 0.3, 3)
    found = nearer(*(found_for(values, gold) for values in (first, second)))
    assert found is not None
    assert found.p == pytest.approx(stats.ttest_rel(first.mean(1), second.mean(1)).pvalue, rel=1e-6)
    assert found.difference == pytest.approx(first.mean() - second.mean())
    assert (found.n, found.half_width) == (5, None)


def test_on_two_sides_of_retraining_its_own_noise_counts_twice() -> None:
    chance = np.random.default_rng(5)
    above, below = (np.full((4, 4), 0.5 + POINT * shift) for shift in (6, -5))
    gold = models(chance, AT, 0.5, 4)
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
        gold = models(np.random.default_rng(seed), AT, 0.5, 5)
        found = nearer(*(found_for(np.full((5, 4), 0.5 + side * POINT / 10), gold) for side in (1, -1)))
        assert found is not None
        alarms += found.differs
    assert alarms <= 0.05 * 300


@pytest.mark.parametrize(("ours", "theirs"), [((1, 4), 4), ((4, 1), 4), ((4, 4), 1), ((1, 1), 1)])
def test_too_few_models_are_not_compared(ours: tuple[int, int], theirs: int) -> None:
    chance = np.random.default_rng(6)
    gold = models(chance, AT, 0.5, theirs)
    assert nearer(*(found_for(models(chance, FAR, 0.3, count), gold) for count in ours)) is None


def test_base_models_are_pairs_of_both_sides() -> None:
    """The luck of a base model is in both its unlearned and its retrained models, and cancels."""
    chance = np.random.default_rng(7)
    luck = 10 * POINT * chance.normal(size=(5, 4))
    groups = [(f"b{base}", "F") for base in range(5)]
    sides = [models(chance, (shift,) * 4, 0.1, 10) + luck.repeat(2, 0) for shift in (2, 0)]
    found = distance_to(*(sample(side, *groups) for side in sides), [0.0] * 4)
    assert found is not None
    estimate = gap_estimate(found)
    assert covers(estimate, 2 * POINT)
    assert (estimate.high or 1) - (estimate.low or 0) < POINT
    assert estimate.n == 10
