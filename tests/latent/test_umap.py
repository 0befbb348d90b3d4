import numpy as np
import pytest

from features import make_features
from salun.latent.umap import umap


@pytest.mark.parametrize("dimensions", [2, 3])
def test_clouds_stay_apart_and_coordinates_repeat(dimensions: int) -> None:
    features = make_features(80)
    first, again = (umap(features.features, dimensions, 10, 0.1, 5) for _ in range(2))
    assert np.array_equal(first, again)
    assert first.shape == (80, dimensions)
    distances = np.linalg.norm(first[:, None] - first[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    assert (features.labels[distances.argmin(1)] == features.labels).mean() > 0.9
