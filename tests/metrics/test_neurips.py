import math

import numpy as np
import pytest
import reference
import torch
from numpy.typing import NDArray
from outputs import of_margins, several

from salun.metrics import Runs, evaluate
from salun.metrics.epsilons import epsilons, points, scaled_confidence
from salun.training.evaluate import Outputs, accuracy

Floats = NDArray[np.float64]


def golden(case: str) -> dict[str, Floats]:
    data = reference.arrays("neurips_forgetting_quality")
    return {key.split("/")[1]: value.numpy() for key, value in data.items() if key.startswith(f"{case}/")}


@pytest.mark.parametrize("case", ["graded", "separated", "same_distribution", "identical_arrays", "peaky"])
def test_epsilons_points_and_their_mean_equal_the_original(case: str) -> None:
    data = golden(case)
    found = epsilons(data["unlearned"], data["retrained"])
    np.testing.assert_allclose(found, data["epsilon"], rtol=1e-6)
    score = points(found, len(data["unlearned"]))
    np.testing.assert_allclose(score, data["score"], rtol=1e-9)
    wanted = reference.settings("neurips_forgetting_quality")["cases"][case]["F"]
    assert score.mean() == pytest.approx(wanted, rel=1e-9)
    runs = Runs(of_margins(data["unlearned"]), of_margins(data["retrained"]))
    assert evaluate(runs, ("forgetting_quality",))["forgetting_quality"] == pytest.approx(wanted, rel=1e-9)


def test_confidences_equal_the_original() -> None:
    data = reference.arrays("neurips_forgetting_quality")
    outputs = Outputs(data["confidence/logits"], data["confidence/targets"])
    np.testing.assert_allclose(scaled_confidence(outputs), data["confidence/conf"].numpy(), rtol=1e-9)


def plain_epsilon(unlearned: Floats, retrained: Floats) -> float:
    """The definition, rule by rule, for one image."""
    if np.median(retrained) > np.median(unlearned):
        positive, negative = retrained, unlearned
    else:
        positive, negative = unlearned, retrained
    best = -math.inf

    def consider(called: NDArray[np.bool_], wrongly: NDArray[np.bool_]) -> None:
        nonlocal best
        fpr, fnr = (np.float32(1) * shares.sum() / np.float32(len(shares)) for shares in (wrongly, ~called))
        if fpr == 0 and fnr == 0:
            best = math.inf
        elif fpr > 0 and fnr > 0 and not (fpr == 1 and fnr == 1):
            ways = [(fpr, fnr), (fnr, fpr)]
            found = [math.log(1 - 1e-5 - a) - math.log(b) for a, b in ways if a < 1]
            best = max(best, 0, *found)

    joint = np.concatenate([positive, negative])
    low, high = joint.min(), joint.max()
    for threshold in torch.linspace(low, high, math.ceil((high - low) * 100), dtype=torch.float32).double().numpy():
        consider(positive >= threshold, negative >= threshold)
    if np.ptp(positive) >= np.ptp(negative):
        positive, negative = negative, positive
    width = np.ptp(positive)
    start, stop = positive.min() + width - 2, positive.max() + 2
    for right in np.linspace(start, stop, math.ceil((stop - start) * 100)):
        for left in np.linspace(right - width - 2, right - width + 2, 400):
            consider(*((left <= values) & (values <= right) for values in (positive, negative)))
    return min(max(best, 0), 50)


@pytest.mark.parametrize(("models", "retrained", "spread"), [(3, 3, 0.2), (5, 8, 1.5)])
def test_the_best_rule_is_found_without_trying_all(models: int, retrained: int, spread: float) -> None:
    chance = np.random.default_rng(models)
    first, second = chance.normal(0, spread, (models, 1)), chance.normal(0.4, 1.2 * spread, (retrained, 1))
    first[0], second[0] = first[1], first[1]
    wanted = plain_epsilon(first[:, 0], second[:, 0])
    assert epsilons(first, second)[0] == pytest.approx(wanted, rel=1e-5, abs=1e-6)


def test_equal_values_everywhere() -> None:
    same = np.full((4, 2), 1.5)
    assert (epsilons(same, same) == 0).all()
    assert (epsilons(same, same + 1) == 50).all()


def test_a_half_unit_of_epsilon_halves_the_points_up_to_the_cap() -> None:
    found = np.array([0, 0.49, 0.5, 1.2, 3.99, 4.0, 50])
    assert points(found, 51).tolist() == [1, 1, 0.5, 0.25, 2**-7, 0, 0]


def test_the_score_is_the_quality_times_the_accuracies_kept() -> None:
    unlearned, retrained = several(unlearned=5).unlearned, several(retrained=5, sure=1.9).retrained
    found = evaluate(Runs(unlearned, retrained), ("forgetting_quality", "neurips_score"))
    kept = 1.0
    for name in ("retain", "test"):
        after, never = (np.mean([accuracy(run.sets[name]) for run in runs]) for runs in (unlearned, retrained))
        kept *= after / never
    assert found["neurips_score"] == pytest.approx(found["forgetting_quality"] * kept)
    assert 0 < kept < 1


@pytest.mark.parametrize(("unlearned", "retrained"), [(2, 3), (3, 2)])
def test_few_models_have_no_value(unlearned: int, retrained: int) -> None:
    names = ("forgetting_quality", "neurips_score")
    assert evaluate(several(unlearned, retrained), names) == dict.fromkeys(names)
