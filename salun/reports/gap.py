"""The average gap to retraining: its estimate, interval and test, with the noise of both sides.

The gap is G = mean over UA, RA, TA, MIA of |mu - rho|: mu of the method, rho of retraining, each the mean of a few
models. Its error is that of the signed mean of the four differences (delta method); noise raises it (folded normal).
"""

import itertools
import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from salun.experiments.problem import Group
from salun.metrics import GAP_METRICS
from salun.reports.statistics import (
    Comparison,
    Draw,
    Estimate,
    Sample,
    judged,
    mean_of,
    quantile,
    rounding_of,
    unit_keys,
)

_Floats = NDArray[np.float64]
_UNCERTAIN = 2.0  # standard errors from 0 within which a difference may have either sign
_BIASES = 2.4  # where the distance is 0, the estimated bias is on average 1/2.4 of the true one
_KNOWN = 1e6  # degrees of freedom of a variance that is known
_FAR = 40.0  # standard errors beyond which noise changes no sign
_SMALLEST = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class _Noise:
    """Contributions to the error of four means, whose squares sum to its variance; what is missing to rounding's."""

    keys: tuple[Hashable, ...]
    rows: _Floats  # (n, 4)
    rounding: _Floats  # (4,) variances

    @property
    def variances(self) -> _Floats:
        return np.asarray((self.rows**2).sum(0) + self.rounding)


@dataclass(frozen=True)
class Distance:
    """How far a method's mean UA, RA, TA and MIA are from retraining's.

    Attributes:
        values: (4,) differences of the means, fractions.
        own: noise of the method's models; of the differences to retraining where these are pairs.
        retrained: noise of the retrained models, which all methods of a table share; None where it is part of `own`.
        runs: models of the method.
        lent: whether a side of one model was lent the spread of the other.
    """

    values: _Floats
    own: _Noise | None
    retrained: _Noise | None
    runs: int
    lent: bool = False

    @property
    def gap(self) -> float:
        """The estimate of the gap."""
        return float(np.abs(self.values).mean())

    @property
    def errors(self) -> _Floats:
        """(4,) standard errors of `values`."""
        return np.sqrt(sum((noise.variances for noise in self._sources), start=np.zeros(len(self.values))))

    @property
    def bias(self) -> float:
        """By how much noise raises the estimate, were the differences those that were found."""
        size, error = np.abs(self.values), self.errors
        steps = np.minimum(size / np.maximum(error, _SMALLEST), _FAR)
        density = np.exp(-(steps**2) / 2) / math.sqrt(2 * math.pi)
        return float(2 * np.mean(error * density - size * ndtr(-steps)))

    @property
    def _sources(self) -> list[_Noise]:
        return [noise for noise in (self.own, self.retrained) if noise is not None]


def distance_to(ours: Sample, gold: Sample, steps: Sequence[float]) -> Distance | None:
    """Compare the mean metrics of a method with those of retrained models.

    With several base models or forget sets, the units that `units` names are pairs of both sides. A single model is
    lent the spread of the other side.

    Args:
        ours: sample of the method's models; those that lack one of the four metrics are left out.
        gold: of the retrained models, likewise.
        steps: (4,) in which each metric moves; a value's variance is at least that of rounding to it.

    Returns:
        The distance; without noise where neither side has several models. None where a side has no model.
    """
    sides = _by_group(ours), _by_group(gold)
    groups = [group for group in sides[0] if group in sides[1]]
    if not groups:
        return None
    means = [np.array([np.mean([*side[group].values()], axis=0) for group in groups]) for side in sides]
    apart, runs = means[0] - means[1], sum(len(sides[0][group]) for group in groups)
    rounding = np.array([rounding_of(step) for step in steps])
    if len(groups) > 1:
        keys = unit_keys([(*group, 0) for group in groups])
        pairs = {key: apart[[other == key for other in keys]].mean(0) for key in dict.fromkeys(keys)}
        return Distance(np.mean([*pairs.values()], axis=0), _noise(pairs, 2 * rounding), None, runs)
    models, retrained = (side[groups[0]] for side in sides)
    if len(models) > 1 and len(retrained) > 1:
        return Distance(apart[0], _noise(models, rounding), _noise(retrained, rounding), runs)
    several = max(models, retrained, key=len)
    if len(several) == 1:
        return Distance(apart[0], None, None, runs)
    return Distance(apart[0], _noise(several, rounding, scale=1 + len(several)), None, runs, lent=True)


def gap_estimate(found: Distance) -> Estimate:
    """Estimate a gap and its 95 % interval.

    The interval reaches from T - t s - 2.4 b to T + t s and is cut at 0: T is the estimate, s its standard error, t
    Student's quantile at Welch and Satterthwaite's degrees of freedom, b the estimated bias.

    Returns:
        Estimate, runs and interval, fractions; no interval where neither side has several models.

    Source:
        Oehlert, "A note on the delta method", The American Statistician 46 (1992); Satterthwaite, "An approximate
        distribution of estimates of variance components", Biometrics Bulletin 2 (1946); Leone, Nelson and Nottingham,
        "The folded normal distribution", Technometrics 3 (1961).
    """
    if not found.own:
        return Estimate(found.gap, None, found.runs, None, None)
    signs = np.where(found.values < 0, -1.0, 1.0)[None]
    (error,), (freedom,) = _spread(found.own, found.retrained, signs, signs)
    reach = quantile(freedom) * error
    return Estimate(found.gap, None, found.runs, max(0.0, found.gap - reach - _BIASES * found.bias), found.gap + reach)


def nearer(first: Distance, second: Distance) -> Comparison | None:
    """Test whether two methods are equally near to the same retrained models.

    Runs of the same draw are pairs, and the error of the retrained models is that of both. Where a difference to
    retraining may have either sign, the signs that give the largest p count. Bias is taken off, as in `gap_estimate`.

    Returns:
        The gaps' difference, first less second, and p; no interval. None where a side has too few models.
    """
    if not first.own or not second.own or first.lent or second.lent:
        return None
    apart = first.gap - second.gap
    bias = math.copysign(1.0, apart) * (first.bias - second.bias)
    size = max(0.0, abs(apart) - _BIASES * max(0.0, bias))
    ones, others = _signs(first), _signs(second)
    ones, others = np.repeat(ones, len(others), axis=0), np.tile(others, (len(ones), 1))
    own = _together(first.own, second.own)
    errors, freedoms = _spread(own, first.retrained, np.hstack([ones, -others]), ones - others)
    worst = np.argmax(stdtr(freedoms, -size / np.maximum(errors, _SMALLEST)))
    found = judged(size, float(errors[worst]), float(freedoms[worst]), 1.0, min(first.runs, second.runs))
    return Comparison(apart, None, found.p, found.n, found.p)


def noise_floor(gold: Sample) -> float | None:
    """Compute the gap of retraining to itself: each retrained model against the mean of the others.

    Returns:
        The mean over all of them, a fraction; None where no base model and forget set has two with all four metrics.
    """
    gaps = []
    for models in _by_group(gold).values():
        values = np.array([*models.values()])
        if len(values) > 1:
            others = (values.sum(0) - values) / (len(values) - 1)
            gaps += list(np.abs(values - others).mean(1))
    return mean_of(gaps)


def _by_group(sample: Sample) -> dict[Group, dict[Draw, _Floats]]:
    """The four metrics of each model that has them, by base model and forget set, then by draw."""
    found: dict[Group, dict[Draw, _Floats]] = {}
    for values, draw in zip(sample.values, sample.draws, strict=True):
        four = [values.get(name) for name in GAP_METRICS]
        if None not in four:
            found.setdefault(draw[:2], {})[draw] = np.array(four, dtype=np.float64)
    return found


def _noise(models: Mapping[Any, _Floats], rounding: _Floats, scale: float = 1.0) -> _Noise:
    """The error of the mean of independent models; times the root of `scale`."""
    values, count = np.array([*models.values()]), len(models)
    rows = (values - values.mean(0)) * math.sqrt(scale / (count * (count - 1)))
    return _Noise(tuple(models), rows, np.maximum(0.0, scale * rounding / count - (rows**2).sum(0)))


def _together(first: _Noise, second: _Noise) -> _Noise:
    """The noise of two methods side by side, (n, 8): rows of the same key stay one row."""
    keys = tuple(dict.fromkeys([*first.keys, *second.keys]))
    places = {key: place for place, key in enumerate(keys)}
    rows = np.zeros((len(keys), first.rows.shape[1] + second.rows.shape[1]))
    for noise, columns in ((first, slice(0, 4)), (second, slice(4, 8))):
        rows[[places[key] for key in noise.keys], columns] = noise.rows
    return _Noise(keys, rows, np.hstack([first.rounding, second.rounding]))


def _signs(found: Distance) -> _Floats:
    """(S, 4) the signs that the four differences may have."""
    certain = np.abs(found.values) >= _UNCERTAIN * found.errors
    able = [
        (1.0, -1.0) if not sure else (math.copysign(1.0, x),) for x, sure in zip(found.values, certain, strict=True)
    ]
    return np.array(list(itertools.product(*able)))


def _spread(own: _Noise, retrained: _Noise | None, signs: _Floats, shared: _Floats) -> tuple[_Floats, _Floats]:
    """(S,) standard errors of signed means, and their degrees of freedom; (S, M) signs of both sources."""
    total, weight = np.zeros(len(signs)), np.zeros(len(signs))
    for noise, sign in ((own, signs), (retrained, shared)):
        if noise is not None:
            variance = ((noise.rows @ sign.T) ** 2).sum(0)
            total += variance + sign**2 @ noise.rounding
            weight += variance**2 / (len(noise.rows) - 1)
    freedom = np.where(weight > 0, total**2 / np.maximum(weight, _SMALLEST), _KNOWN)
    return np.sqrt(total) / len(GAP_METRICS), np.minimum(freedom, _KNOWN)
