"""What several runs say together: means with intervals, tests of two samples, and their adjustment for many tests."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from statistics import mean, stdev, variance

from scipy.special import nctdtrinc, stdtr, stdtrit

from salun.experiments.problem import Group

Draw = tuple[str, str, int]
_LEVEL = 0.05
_POWER = 0.8
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Estimate:
    """A value over several runs.

    Attributes:
        mean: of the independent units; None where no run has a value.
        sd: sample standard deviation over all runs; None of fewer than two.
        n: runs that have a value.
        low: of the 95 % interval of the mean over independent units, to `high`; None of fewer than two.
    """

    mean: float | None
    sd: float | None
    n: int
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Sample:
    """What several models were measured to be; not changed any more."""

    values: list[dict[str, float | None]]
    draws: list[Draw]

    @cached_property
    def names(self) -> list[str]:
        """Metrics that some model has, in the order in which they first appear."""
        return list(dict.fromkeys(name for values in self.values for name in values))

    def of(self, name: str) -> list[float | None]:
        """Take one metric of every model; None of one that lacks it."""
        return [values.get(name) for values in self.values]

    @cached_property
    def groups(self) -> set[Group]:
        """Base models and forget sets."""
        return {draw[:2] for draw in self.draws}

    @cached_property
    def units(self) -> dict[str, list[float]]:
        """The values of each metric, reduced to what `units` takes for independent."""
        keys = unit_keys(self.draws)
        return {name: means_by(self.of(name), keys) for name in self.names}

    def within(self, groups: set[Group]) -> "Sample":
        """Keep the models of some base models and forget sets."""
        if self.groups <= groups:
            return self
        kept = [(values, draw) for values, draw in zip(self.values, self.draws, strict=True) if draw[:2] in groups]
        return Sample([values for values, _ in kept], [draw for _, draw in kept])

    @cached_property
    def by_group(self) -> dict[Group, dict[str, float | None]]:
        """Average over the models of the same base model and forget set."""
        parts: dict[Group, Sample] = {}
        for values, draw in zip(self.values, self.draws, strict=True):
            part = parts.setdefault(draw[:2], Sample([], []))
            part.values.append(values)
            part.draws.append(draw)
        return {group: {name: mean_of(part.of(name)) for name in part.names} for group, part in parts.items()}


@dataclass(frozen=True)
class Comparison:
    """How far two things are apart, and whether chance alone explains it.

    Attributes:
        difference: of their means, the first less the second.
        half_width: of its 95 % interval; None of the difference of two gaps, which has none.
        p: two-sided.
        n: pairs of a paired test; units of both sides of another.
        adjusted: p where several tests are made, at first that of this one alone.
        detectable: true difference that such tests find in four cases of five (noncentral t); None where unknown.
        error: standard error of the difference; 0 where there is no spread.
        freedom: degrees of freedom of the error.
    """

    difference: float
    half_width: float | None
    p: float
    n: int
    adjusted: float
    detectable: float | None = None
    error: float = 0.0
    freedom: float = 1.0

    @property
    def differs(self) -> bool:
        """Whether the adjusted p is below 5 %."""
        return self.adjusted < _LEVEL


def estimate(values: Iterable[float | None], draws: Sequence[Draw] = ()) -> Estimate:
    """Summarise a value over runs.

    Args:
        values: one a run; None where it does not apply.
        draws: base model, forget set and seed of each run; none where all share base model and forget set.

    Returns:
        Mean, spread, number, and the interval over what `units` takes for independent.
    """
    values = list(values)
    known = [value for value in values if value is not None]
    independent = units(values, draws) if draws else known
    if not known:
        return Estimate(None, None, 0, None, None)
    centre = mean(independent)
    sd = stdev(known) if len(known) > 1 else None
    if len(independent) < 2:
        return Estimate(centre, sd, len(known), None, None)
    apart = sd if sd is not None and independent == known else stdev(independent)
    reach = quantile(len(independent) - 1) * apart / math.sqrt(len(independent))
    return Estimate(centre, sd, len(known), centre - reach, centre + reach)


def units(values: Sequence[float | None], draws: Sequence[Draw]) -> list[float]:
    """Reduce runs to values that may be taken for independent.

    Runs of one base model, or of one forget set, share its luck. Where several were drawn, the units are the means over
    the runs of each: of the source with the fewest draws but more than one, the base model where both have as many.
    Where only the seed varies the units are the runs.

    Args:
        values: one a run; None where it does not apply.
        draws: base model, forget set and seed of each run, those without a value too.
    """
    return means_by(values, unit_keys(draws))


def unit_keys(draws: Sequence[Draw]) -> list[Hashable]:
    """Name the unit of each run: a base model, a forget set or, where only the seed varies, the place of the run."""
    sources: list[list[Hashable]] = [[draw[place] for draw in draws] for place in (0, 1)]
    varied = [source for source in sources if len(set(source)) > 1]
    return min(varied, key=lambda source: len(set(source))) if varied else list(range(len(draws)))


def means_by(values: Sequence[float | None], keys: Sequence[Hashable]) -> list[float]:
    """Average the values of each key that has some, in the order in which the keys first appear."""
    parts: dict[Hashable, list[float]] = {}
    for value, key in zip(values, keys, strict=True):
        if value is not None:
            parts.setdefault(key, []).append(value)
    return [mean(part) if len(part) > 1 else part[0] for part in parts.values()]


def mean_of(values: Iterable[float | None]) -> float | None:
    """Average the values that there are; None of nothing."""
    known = [value for value in values if value is not None]
    return mean(known) if len(known) > 1 else next(iter(known), None)


def difference(first: Mapping[Draw, float], second: Mapping[Draw, float], step: float = 0.0) -> Comparison | None:
    """Compare two methods over the same draws, by a paired t-test.

    Where base model or forget set vary, the pairs' differences are first averaged over what `units` says. Where all are
    equal the interval has no width, and p is 1 where they are 0, to 1e-12, and else 0.

    Args:
        first: value of each run of one method, by base model, forget set and seed.
        second: of the other.
        step: in which values move; the differences' variance is taken to be at least that of two roundings to it.

    Returns:
        The comparison, first less second; None of fewer than two independent pairs.

    Source:
        Student, "The probable error of a mean", Biometrika 6 (1908).
    """
    draws = [draw for draw in first if draw in second]
    apart = units([first[draw] - second[draw] for draw in draws], draws)
    if len(apart) < 2:
        return None
    size = max(abs(values[draw]) for values in (first, second) for draw in draws)
    error = math.sqrt(max(variance(apart), 2 * rounding_of(step)) / len(apart))
    return judged(mean(apart), error, len(apart) - 1, size, len(draws))


def versus(values: Sequence[float], reference: Sequence[float], step: float = 0.0) -> Comparison | None:
    """Compare two independent samples, by Welch's t-test.

    A side of one value is held against the other's prediction interval. Shares of few images agree by chance, so a
    side's variance is at least that of rounding to its step. Where neither side has any, the interval has no width, and
    p is 1 where the means are equal, to 1e-12, and else 0.

    Args:
        values: independent units of a method, or of base models.
        reference: of the retrained models.
        step: in which values move: 1 over the number of images of a share of them; 0 where they move smoothly.

    Returns:
        The comparison, values less reference; None where a side has no value, or neither has two.

    Source:
        Welch, "The generalization of Student's problem when several different population variances are
        involved", Biometrika 34 (1947); the variance of rounding: Sheppard, Proc. London Math. Soc. 29 (1897).
    """
    sides = (values, reference)
    counts = [len(side) for side in sides]
    if min(counts) < 1 or max(counts) < 2:
        return None
    size = max(abs(value) for side in sides for value in side)
    (ours, spread), (theirs, their_spread) = (_moments(tuple(side)) for side in sides)
    apart = ours - theirs
    if min(counts) == 1:
        shared = max(their_spread if len(values) == 1 else spread, rounding_of(step))
        return judged(apart, math.sqrt(shared + shared / max(counts)), max(counts) - 1, size, sum(counts))
    return welch(apart, [max(each, rounding_of(step)) for each in (spread, their_spread)], counts, size)


@lru_cache(maxsize=256)
def _moments(values: tuple[float, ...]) -> tuple[float, float]:
    """Compute mean and variance, exactly and therefore slowly; every row is compared with the same reference."""
    return mean(values), variance(values) if len(values) > 1 else 0.0


def welch(apart: float, variances: Sequence[float], counts: Sequence[int], size: float) -> Comparison:
    """Judge the difference of two means of which only the variances are known, by Welch's t-test.

    Args:
        apart: the difference.
        variances: sample variance of each side.
        counts: values of each side, from 2.
        size: of the largest value, which says what is rounding.
    """
    parts = [spread / count for spread, count in zip(variances, counts, strict=True)]
    error = math.sqrt(sum(parts))
    weights = [part / sum(parts) if error else 0.5 for part in parts]
    freedom = 1 / sum(weight**2 / (count - 1) for weight, count in zip(weights, counts, strict=True))
    return judged(apart, error, freedom, size, sum(counts))


def rounding_of(step: float) -> float:
    """Compute the variance of rounding to a step, all remainders being as likely: step^2 / 12."""
    return step**2 / 12


def judged(apart: float, error: float, freedom: float, size: float, n: int) -> Comparison:
    """Compute interval and p of a difference.

    Args:
        apart: the difference.
        error: its standard error.
        freedom: degrees of freedom of the error.
        size: of the largest value that it was computed from, which says what is rounding.
        n: of the comparison.
    """
    rounding = _ROUNDING * max(1.0, size)
    if error <= rounding:
        p = 1.0 if abs(apart) <= rounding else 0.0
        return Comparison(apart, 0.0, p, n, p)
    p = 2 * float(stdtr(freedom, -abs(apart) / error))
    return Comparison(apart, quantile(freedom) * error, p, n, p, error=error, freedom=freedom)


def quantile(freedom: float, level: float = _LEVEL) -> float:
    """Look up how many standard errors an interval that misses `level` of the cases reaches to either side."""
    return float(stdtrit(freedom, 1 - level / 2))


def adjusted_by_holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Adjust comparisons for their number, so that any false alarm at all is as rare as the level says.

    Returns:
        The same in the same order, with adjusted p, and with what they could have found at Holm's first step.

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6 (1979).
    """
    adjusted, highest, tests = list(comparisons), 0.0, len(comparisons)
    for rank, place in enumerate(sorted(range(tests), key=lambda place: comparisons[place].p)):
        found = comparisons[place]
        highest = max(highest, min(1.0, (tests - rank) * found.p))
        power = nctdtrinc(found.freedom, 1 - _POWER, quantile(found.freedom, _LEVEL / tests)) if found.error else 0.0
        adjusted[place] = replace(found, adjusted=highest, detectable=found.error * float(power))
    return adjusted
