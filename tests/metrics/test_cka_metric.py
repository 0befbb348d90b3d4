from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import trios

from salun.data.images import Images
from salun.data.transforms import Preparation
from salun.latent.cka import LayerComparison
from salun.latent.extraction import Sample, read_model
from salun.metrics import Models, evaluate
from salun.metrics.cka import similarity_to_base, similarity_to_retrained
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.training.recipe import Recipe

CPU = torch.device("cpu")
MANY = 4001


@pytest.fixture(scope="module")
def many() -> Images:
    """More images than are looked at."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (MANY, 1, 8, 8), generator=generator, dtype=torch.uint8)
    view = Preparation((0.5,), (0.25,), 0, False)
    return Images(pixels, torch.arange(MANY), torch.arange(MANY) % 4, CPU, view)


@pytest.fixture(scope="module")
def models(many: Images) -> Models:
    networks = []
    for seed in range(2):
        torch.manual_seed(seed)
        networks.append(build(Architecture("resnet_tiny", 4, 1, 8)).eval())
    few = many.take(torch.arange(40))
    return Models(networks[0], networks[1], None, few, few, Recipe())


def of(models: Models, images: Images) -> float:
    return similarity_to_base(replace(models, forget=images))[0]


def test_is_the_diagonal_that_the_figure_shows() -> None:
    paths = trios.put_trio()
    both = [read_model(paths[name]) for name in ("unlearned", "retrained")]
    sample = Sample(trios.pictures(), torch.arange(60), "train", None)
    networks = [model.restore(CPU) for model in both]
    images = sample.images(both[0], CPU)
    models = Models(networks[0], networks[0], networks[1], images, images, trios.RECIPE)
    mean, layers = similarity_to_retrained(models)
    bench = LayerComparison.of(both, sample, CPU)
    (wanted,) = bench.compare(sample, [(0, 1)])
    assert list(layers) == bench.layers
    np.testing.assert_allclose(list(layers.values()), np.diag(wanted), atol=1e-9)
    assert mean == pytest.approx(np.diag(wanted).mean(), abs=1e-9)
    assert similarity_to_base(models)[0] == pytest.approx(1, abs=1e-9)


def test_both_values_of_a_comparison_cost_one_run_of_the_models(models: Models) -> None:
    counted = deepcopy(models.model)
    seen: list[int] = []
    counted.register_forward_hook(lambda *_: seen.append(1))
    measured = replace(models, model=counted)
    found = evaluate(measured, ("CKA_base", "CKA_base_layers"))
    together = len(seen)
    seen.clear()
    assert evaluate(measured, ("CKA_base",))["CKA_base"] == found["CKA_base"]
    assert together == len(seen) > 0
    assert np.mean(list(found["CKA_base_layers"].values())) == pytest.approx(found["CKA_base"])


def test_many_images_are_thinned_out_evenly_and_all_of_few_count_in_any_order(models: Models, many: Images) -> None:
    whole = of(models, many.take(torch.arange(4000)))
    assert whole == of(models, many.take(torch.arange(0, 4000, 2)))
    assert whole != of(models, many.take(torch.arange(2000)))
    # 257 images in batches of 256 would leave the last one out.
    images, other = (many.take(torch.tensor([*range(256), last])) for last in (256, 300))
    assert of(models, images) != of(models, other)
    shuffled = images.take(torch.randperm(257, generator=torch.Generator().manual_seed(1)))
    assert of(models, images) == of(models, shuffled)


@pytest.mark.parametrize("places", [[], [0], [0, 1, 2], [0] * 20])
def test_fewer_than_4_images_and_images_that_are_all_alike_have_no_value(
    models: Models, many: Images, places: list[int]
) -> None:
    few = many.take(torch.tensor(places, dtype=torch.int64))
    assert similarity_to_base(replace(models, forget=few)) == (None, None)


def test_a_dead_layer_has_no_value_and_does_not_count(models: Models) -> None:
    dead = deepcopy(models.model)
    torch.nn.init.zeros_(dead.get_submodule("fc").weight)
    mean, layers = similarity_to_base(replace(models, model=dead))
    alive = dict(similarity_to_base(models)[1])
    assert layers.pop("fc") is None
    assert alive.pop("fc") is not None
    assert layers == pytest.approx(alive)
    assert mean == pytest.approx(np.mean(list(alive.values())))


def test_only_the_retrained_model_is_looked_at_for_its_value(models: Models) -> None:
    swapped = replace(models, base=models.model, retrained=models.base)
    assert similarity_to_retrained(swapped) == similarity_to_base(models)
    assert similarity_to_retrained(models) == (None, None)


def test_a_model_without_layers_to_compare_has_no_value(many: Images) -> None:
    scalar = torch.nn.Sequential(torch.nn.Flatten(0))
    images = many.take(torch.arange(10))
    assert similarity_to_base(Models(scalar, scalar, None, images, images, Recipe())) == (None, None)
