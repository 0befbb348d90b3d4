from dataclasses import replace

import numpy as np
import pytest
import torch
import trios

from features import grams
from salun.latent.cka import LayerComparison
from salun.latent.extraction import Model, Sample, read_model
from salun.metrics.hsic import Similarity
from salun.models.layers import outputs_at

CPU = torch.device("cpu")
MANY = "synthetic:n=480,size=8,classes=4"


@pytest.fixture
def trio() -> list[Model]:
    return [read_model(path) for path in trios.put_trio().values()]


@pytest.fixture
def sample() -> Sample:
    """A hundred training images."""
    return Sample(trios.pictures(), torch.arange(100), "train", None)


def test_layers_are_compared_from_the_models_own_outputs(trio: list[Model], sample: Sample) -> None:
    bench = LayerComparison.of(trio, sample, CPU)
    found, back = bench.compare(sample, [(1, 2), (2, 1)], batch_size=40)
    flat = []
    for model in trio[1:]:
        x = next(sample.images(model, CPU).batches(1000)).x
        with torch.no_grad():
            outputs, _ = outputs_at(model.restore(CPU).eval(), bench.layers, x)
        flat.append([output.flatten(1) for output in outputs.values()])
    wanted = Similarity()
    for part in torch.arange(100).split([34, 33, 33]):
        wanted.add(*(grams(*(output[part] for output in outputs)) for outputs in flat))
    np.testing.assert_allclose(found, wanted.values(), atol=1e-6)
    assert (bench.layers[0], bench.layers[-1]) == ("conv1", "fc")
    np.testing.assert_allclose(found, back.T, atol=1e-9)
    assert not np.allclose(found, found.T, atol=1e-3)


def test_a_copy_of_a_model_is_1_at_every_layer(trio: list[Model], sample: Sample) -> None:
    bench = LayerComparison.of([trio[0], trio[0]], sample, CPU, ["layer2", "fc"])
    (values,) = bench.compare(sample, [(0, 1)])
    assert (bench.layers, values.shape) == (["layer2", "fc"], (2, 2))
    np.testing.assert_allclose(np.diag(values), 1, atol=1e-9)
    np.testing.assert_allclose(values, values.T, atol=1e-9)


def test_a_few_images_more_than_a_batch_do_not_outweigh_it() -> None:
    pair = [read_model(trios.put(f"checkpoints/{seed}.pt", seed, name=MANY)) for seed in range(2)]
    sample = Sample(trios.pictures(MANY), torch.arange(260), "train", None)
    bench = LayerComparison.of(pair, sample, CPU)
    found, wanted = (np.diag(bench.compare(sample, [(0, 1)], size)[0]) for size in (256, 130))
    np.testing.assert_allclose(found, wanted, atol=0.02)
    # Of four images alone it would be far off, and counted as much as that of the 256.
    rest = np.diag(bench.compare(replace(sample, indices=torch.arange(256, 260)), [(0, 1)])[0])
    assert np.abs(rest - wanted).max() > 0.1


@pytest.mark.parametrize("size", [4, 5, 32])
def test_every_image_counts_whatever_the_batch_size(trio: list[Model], sample: Sample, size: int) -> None:
    bench = LayerComparison.of(trio, sample, CPU)
    shorter, longer = (replace(sample, indices=torch.arange(count)) for count in (65, 66))
    assert not np.allclose(*(bench.compare(some, [(0, 1)], size)[0] for some in (shorter, longer)), atol=1e-9)


def test_too_few_images_and_dead_layers_have_no_similarity(trio: list[Model], sample: Sample) -> None:
    bench = LayerComparison.of(trio, sample, CPU)
    for count in (0, 3):
        found = bench.compare(replace(sample, indices=torch.arange(count)), [(0, 1), (1, 2)])
        assert [bool(np.isnan(matrix).all()) for matrix in found] == [True, True]
    torch.nn.init.zeros_(bench.networks[1].get_submodule("fc").weight)
    (found,) = bench.compare(sample, [(0, 1)])
    assert np.isnan(found[:, -1]).all()
    assert np.isfinite(found[:, :-1]).all()
