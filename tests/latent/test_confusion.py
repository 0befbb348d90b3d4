import numpy as np
import pytest

from salun.latent.confusion import mean_confidence


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_large_logits_give_probabilities(size: float) -> None:
    logits = np.array([[size, -size], [-size, size]], dtype=np.float32)
    np.testing.assert_allclose(mean_confidence(logits, np.array([0, 0]), 2), [[0.5, 0.5], [np.nan, np.nan]])
