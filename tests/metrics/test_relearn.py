import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salun.data.images import Images
from salun.data.parts import Dataset
from salun.data.sets import make_sets, prepare
from salun.data.split import ForgetRequest, split
from salun.metrics import Models
from salun.metrics.relearn import relearn_time
from salun.models import Checkpoint
from salun.training import Recipe, accuracy, predict

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=5, lr=0.1, batch_size=8, momentum=0.8, weight_decay=0.05, schedule="cosine")
COUNT = 20


@pytest.fixture(scope="module")
def models(digits: Dataset, trained: Checkpoint) -> Models:
    """A base model and a copy whose head is upside down, with a few images that the base model knows."""
    parts = split(digits, ForgetRequest(share=0.1))
    sets = make_sets(digits, parts, prepare(digits, parts), CPU)
    base, model = trained.restore(), trained.restore()
    known = (predict(base, sets.forget).logits.argmax(1) == sets.forget.labels).nonzero()[:, 0]
    with torch.no_grad():
        model.get_parameter("fc.weight").neg_()
    return Models(model, base, None, sets.forget.take(known[:COUNT]), sets.retain, RECIPE)


def by_hand(models: Models, restart: bool = False) -> int:
    """Plain SGD, evaluated after each epoch; `restart` loses the momentum after each."""
    model, recipe = deepcopy(models.model), models.recipe
    generator = torch.Generator().manual_seed(models.seed)
    goal = accuracy(predict(models.base, models.forget))

    def fresh() -> torch.optim.SGD:
        rates = {"lr": recipe.lr / 10, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        return torch.optim.SGD(model.parameters(), **rates, fused=True)

    optimizer, epochs = fresh(), 0
    while epochs < 50 and accuracy(predict(model, models.forget)) < goal:
        optimizer = fresh() if restart else optimizer
        model.train()
        for x, y, _ in models.forget.batches(recipe.batch_size, generator):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        epochs += 1
    return epochs


@pytest.mark.parametrize("seed", [0, 1])
def test_equals_plain_sgd_with_one_momentum_throughout(models: Models, seed: int) -> None:
    problem = replace(models, seed=seed)
    wanted = by_hand(problem)
    assert 1 < wanted < 50
    assert relearn_time(problem) == wanted
    assert by_hand(problem, restart=True) != wanted


def test_a_model_that_is_there_already_needs_no_epoch(models: Models) -> None:
    assert relearn_time(replace(models, model=models.base)) == 0
    assert relearn_time(replace(models, base=models.model, model=models.base)) == 0


def test_a_model_that_is_further_away_needs_longer(models: Models) -> None:
    near = deepcopy(models.base)
    with torch.no_grad():
        near.get_parameter("fc.weight")[0].neg_()
    assert 0 < relearn_time(replace(models, model=near)) < relearn_time(models)


def test_gives_up_after_50_epochs(models: Models) -> None:
    slow = RECIPE.model_copy(update={"lr": 1e-12})
    assert relearn_time(replace(models, recipe=slow, forget=models.forget.take(torch.arange(4)))) == 50


def test_training_that_runs_away_is_never_there(models: Models) -> None:
    wild = RECIPE.model_copy(update={"lr": 1e30})
    assert relearn_time(replace(models, recipe=wild, forget=models.forget.take(torch.arange(4)))) == 50


def test_the_order_of_the_images_does_not_count(models: Models) -> None:
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3))
    assert relearn_time(replace(models, forget=models.forget.take(order))) == relearn_time(models)


def test_one_image(models: Models) -> None:
    assert 1 <= relearn_time(replace(models, forget=models.forget.take(torch.tensor([0])))) <= 50


def test_no_image_has_no_value(models: Models) -> None:
    assert relearn_time(replace(models, forget=models.forget.take(torch.arange(0)))) is None


@pytest.mark.parametrize("broken", ["model", "base"])
def test_logits_that_are_no_numbers_have_no_value(models: Models, broken: str) -> None:
    network = deepcopy(models.model)
    with torch.no_grad():
        network.get_parameter("fc.weight").fill_(math.nan)
    assert relearn_time(replace(models, **{broken: network})) is None


def test_frozen_weights_learn_too(models: Models) -> None:
    frozen = deepcopy(models.model).requires_grad_(False)
    assert relearn_time(replace(models, model=frozen)) == relearn_time(models)
    assert not any(weight.requires_grad for weight in frozen.parameters())


def test_dropout_follows_the_seed_and_leaves_the_global_generator_alone(models: Models) -> None:
    def dropping(network: nn.Module) -> nn.Module:
        network = deepcopy(network)
        head = network.get_submodule("fc")
        network.set_submodule("fc", nn.Sequential(nn.Dropout(0.5), head))
        return network

    few = models.forget.take(torch.arange(8))
    problem = replace(models, model=dropping(models.model), base=dropping(models.base), forget=few)
    found = set()
    for seed in range(2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.add(relearn_time(problem))
        assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == 1
    assert len({relearn_time(replace(problem, seed=seed)) for seed in range(4)}) > 1


def augmented(images: Images, seen: list[torch.Generator | None]) -> Images:
    """The same images, with a note of the generator that each look at them was given."""
    view: Callable[..., torch.Tensor] = images.view

    def noting(pixels: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        seen.append(generator)
        return view(pixels, generator)

    return replace(images, view=noting)


def test_learns_from_augmented_images_and_is_measured_on_plain_ones(models: Models) -> None:
    seen: list[torch.Generator | None] = []
    epochs = int(relearn_time(replace(models, forget=augmented(models.forget, seen))))
    assert sum(generator is not None for generator in seen) == epochs * math.ceil(COUNT / RECIPE.batch_size)
    assert len({id(generator) for generator in seen if generator is not None}) == 1
