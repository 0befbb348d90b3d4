import numpy as np
import pytest
from numpy.typing import NDArray

from salun.latent.confusion import mean_confidence, prediction_shares


def drawn(samples: int, classes: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    generator = np.random.default_rng(seed)
    return generator.normal(0, 3, (samples, classes)).astype(np.float32), generator.integers(0, classes, samples)


def test_counts_predictions_per_true_class() -> None:
    logits = np.array([[2, 1, 0], [0, 1, 0], [5, 1, 0], [0, 1, 9]], dtype=np.float32)
    labels = np.array([0, 0, 0, 2])
    found = prediction_shares(logits, labels, 3)
    np.testing.assert_allclose(found, [[2 / 3, 1 / 3, 0], [np.nan] * 3, [0, 0, 1]])


def test_averages_probabilities_per_true_class() -> None:
    odds = np.array([[1, 3], [1, 1], [9, 1]], dtype=np.float32)
    found = mean_confidence(np.log(odds), np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(found, [[0.375, 0.625], [0.9, 0.1]], rtol=1e-6)


@pytest.mark.parametrize("measure", [prediction_shares, mean_confidence])
def test_rows_sum_to_one_whatever_the_order_of_samples(measure) -> None:
    logits, labels = drawn(500, 7)
    found = measure(logits, labels, 7)
    np.testing.assert_allclose(found.sum(1), 1)
    order = np.random.default_rng(1).permutation(500)
    np.testing.assert_allclose(measure(logits[order], labels[order], 7), found)


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_large_logits_give_probabilities(size: float) -> None:
    logits = np.array([[size, -size], [-size, size]], dtype=np.float32)
    np.testing.assert_allclose(mean_confidence(logits, np.array([0, 0]), 2), [[0.5, 0.5], [np.nan, np.nan]])


def test_shifted_logits_are_the_same_probabilities() -> None:
    logits, labels = drawn(50, 4)
    shifted = logits + np.float32(1000)
    np.testing.assert_allclose(mean_confidence(shifted, labels, 4), mean_confidence(logits, labels, 4), atol=1e-3)


def test_certain_models_have_the_confidence_of_their_predictions() -> None:
    logits, labels = drawn(300, 5)
    certain = mean_confidence(1000 * logits, labels, 5)
    np.testing.assert_allclose(certain, prediction_shares(logits, labels, 5), atol=0.05)
