import json

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from salun.reports.roc import Roc, roc_of

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def in_models(scores: Floats, first: int = 0) -> Counts:
    """A model for each row of scores."""
    return np.repeat(np.arange(first, first + len(scores))[:, None], scores.shape[1], axis=1)


def roc(members: Floats, others: Floats, draws: int = 100) -> Roc:
    """The curve of scores whose rows are models, all different."""
    return roc_of(members, in_models(members), others, in_models(others, len(members)), draws)


def normal(seed: int, models: int, images: int, shift: float = 0.0) -> Floats:
    return np.random.default_rng(seed).normal(shift, 1, (models, images))


SCORES = {
    "apart": (normal(0, 7, 60, 1.0), normal(1, 5, 60)),
    "equal": (normal(0, 4, 90), normal(1, 4, 90)),
    "ties": (normal(0, 6, 50, 0.5).round(), normal(1, 6, 50).round()),
    "reversed": (normal(0, 3, 20, -2.0), normal(1, 3, 20)),
    "infinite": (np.where(normal(0, 4, 30) > 0, np.inf, 0.0), np.where(normal(1, 4, 30) > 1, np.inf, -np.inf)),
}
EACH = pytest.mark.parametrize("kind", SCORES)


@EACH
def test_the_curve_is_scikit_learns_and_a_rate_that_of_the_least_strict_threshold_of_its_level(kind: str) -> None:
    members, others = SCORES[kind]
    truth = np.repeat([1.0, 0.0], [members.size, others.size])
    ranks = np.unique(np.concatenate([members.ravel(), others.ravel()]), return_inverse=True)[1]
    fpr, tpr, _ = roc_curve(truth, ranks, drop_intermediate=False)
    found = roc(members, others)
    np.testing.assert_allclose(found.fpr, fpr, rtol=1e-12)
    np.testing.assert_allclose(found.tpr, tpr, rtol=1e-12)
    assert found.auc == pytest.approx(roc_auc_score(truth, ranks), rel=1e-12)
    assert tuple(found.tpr_at) == (0.001, 0.01)
    for level, rate in found.tpr_at.items():
        thresholds = np.unique(np.concatenate([members, others]))
        keeping = [(members >= one).mean() for one in thresholds if (others >= one).mean() <= level]
        assert rate == pytest.approx(max([0, *keeping]), rel=1e-12)


def test_a_level_counts_what_is_exactly_on_it() -> None:
    others = np.arange(1000.0)[None]
    for above, rate in ((998.5, 1.0), (997.5, 0.0)):
        assert roc(np.full((1, 1000), above), others).tpr_at[0.001] == rate


def test_separation_and_its_reverse_and_equal_scores() -> None:
    members, others = normal(0, 4, 20) + 100, normal(1, 4, 20)
    found, reverse, equal = roc(members, others), roc(others, members), roc(np.zeros((4, 20)), np.zeros((4, 20)))
    assert (found.auc, found.interval, found.tpr_at) == (1, (1, 1), {0.001: 1, 0.01: 1})
    assert (reverse.auc, reverse.tpr_at) == (0, {0.001: 0, 0.01: 0})
    assert (equal.auc, equal.interval, equal.tpr_at) == (0.5, (0.5, 0.5), {0.001: 0, 0.01: 0})
    assert equal.fpr.tolist() == equal.tpr.tolist() == [0, 1]


def test_intervals_hold_their_value_and_only_the_order_of_scores_counts() -> None:
    members, others = SCORES["apart"]
    found, again = roc(members, others, draws=500), roc(np.exp(members), np.exp(others), draws=500)
    assert found.interval[0] < found.auc < found.interval[1]
    assert (found.auc, found.interval, found.tpr_intervals) == (again.auc, again.interval, again.tpr_intervals)
    for level, (low, high) in found.tpr_intervals.items():
        assert 0 <= low <= found.tpr_at[level] <= high <= 1


def test_intervals_of_equal_distributions_hold_a_half_as_often_as_they_say() -> None:
    """Each image and each model has a mark of its own on all of its scores, and none tells members."""
    held, times = 0, 150
    for seed in range(times):
        random = np.random.default_rng(seed)
        noise = [random.normal(size=(10, 30)) + random.normal(0, 0.5, (10, 1)) for _ in range(2)]
        low, high = roc(*(part + random.normal(0, 1, (1, 30)) for part in noise), draws=200).interval
        held += low <= 0.5 <= high
    assert 0.88 * times <= held


def width(found: Roc) -> float:
    return found.interval[1] - found.interval[0]


def test_copies_do_not_make_the_interval_narrow() -> None:
    members, others = normal(0, 8, 40, 0.5), normal(1, 8, 40)
    whole = width(roc(members, others, 500))
    same_image = width(roc(*(np.repeat(part[:, :4], 10, axis=1) for part in (members, others)), draws=500))
    of_images = np.tile(np.arange(8)[:, None], (1, 4))
    copied = [np.repeat(part[:, :4], 10, axis=0) for part in (members, others)]
    models = np.repeat(of_images, 10, axis=0)
    same_model = width(roc_of(copied[0], models, copied[1], models + 8, 500))
    assert same_image > 1.1 * whole
    assert same_model > 2 * whole


@EACH
def test_a_thinned_curve_keeps_to_the_curve(kind: str) -> None:
    found = roc(*SCORES[kind])
    fpr, tpr = found.thinned()
    points = set(zip(found.fpr.tolist(), found.tpr.tolist(), strict=True))
    assert set(zip(fpr.tolist(), tpr.tolist(), strict=True)) <= points
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff([fpr, tpr]) >= 0).all()
    read = json.loads(json.dumps(found.plain(), allow_nan=False))
    assert (read["auc"], read["fpr"], read["tpr"]) == (found.auc, fpr.tolist(), tpr.tolist())
    assert read["tpr_at"] == {"0.001": found.tpr_at[0.001], "0.01": found.tpr_at[0.01]}


def test_a_long_curve_is_thinned_and_looks_the_same() -> None:
    found = roc(normal(0, 40, 1000, 1.0), normal(1, 40, 1000), 2)
    fpr, tpr = found.thinned()
    assert len(fpr) < 1000 < len(found.fpr)
    assert np.trapezoid(tpr, fpr) == pytest.approx(found.auc, abs=0.002)
    for level in np.geomspace(1e-4, 1, 40):
        whole, thin = (
            rates[1][np.searchsorted(rates[0], level, "right") - 1] for rates in ((found.fpr, found.tpr), (fpr, tpr))
        )
        assert thin == pytest.approx(whole, rel=0.1)
