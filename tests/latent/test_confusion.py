import numpy as np
import pytest

from salun.latent.confusion import mean_confidence, prediction_shares


def test_counts_predictions_per_true_class() -> None:
    logits = np.array([[2, 1, 0], [0, 1, 0], [5, 1, 0], [0, 1, 9]], dtype=np.float32)
    found = prediction_shares(logits, np.array([0, 0, 0, 2]), 3)
    np.testing.assert_allclose(found, [[2 / 3, 1 / 3, 0], [np.nan] * 3, [0, 0, 1]])


@pytest.mark.parametrize("shift", [0, 1000])
def test_averages_probabilities_per_true_class(shift: float) -> None:
    logits = np.log(np.array([[1, 3], [1, 1], [9, 1]], dtype=np.float32)) + np.float32(shift)
    found = mean_confidence(logits, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(found, [[0.375, 0.625], [0.9, 0.1]], rtol=1e-4)


def test_rows_sum_to_one_whatever_the_order_and_certain_models_have_the_confidence_of_their_predictions() -> None:
    generator = np.random.default_rng(0)
    logits, labels = generator.normal(0, 3, (500, 7)).astype(np.float32), generator.integers(0, 7, 500)
    order = generator.permutation(500)
    for measure in (prediction_shares, mean_confidence):
        found = measure(logits, labels, 7)
        np.testing.assert_allclose(found.sum(1), 1)
        np.testing.assert_allclose(measure(logits[order], labels[order], 7), found)
    certain = mean_confidence(1000 * logits, labels, 7)
    np.testing.assert_allclose(certain, prediction_shares(logits, labels, 7), atol=0.05)


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_large_logits_give_probabilities(size: float) -> None:
    logits = np.array([[size, -size], [-size, size]], dtype=np.float32)
    np.testing.assert_allclose(mean_confidence(logits, np.array([0, 0]), 2), [[0.5, 0.5], [np.nan, np.nan]])
