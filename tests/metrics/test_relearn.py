import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from salun.data.dataset import Dataset
from salun.data.images import Images
from salun.data.sets import make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.metrics import Models
from salun.metrics.relearn import relearn_time, relearned_from_few, relearned_from_retain
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import predict
from salun.training.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=5, lr=0.1, batch_size=8, momentum=0.8, weight_decay=0.05, schedule="cosine")
LIGHT = RECIPE.model_copy(update={"weight_decay": 5e-4})
STILL = RECIPE.model_copy(update={"weight_decay": 0.0, "lr": 1e-30})
COUNT = 20


@pytest.fixture(scope="module")
def models(digits: Dataset, trained: Checkpoint) -> Models:
    """A base model and a copy whose head is upside down, with a few images that the base model knows."""
    split = make_split(digits, ForgetRequest(share=0.1))
    sets = make_sets(digits, split, prepare(digits, split), CPU)
    base, model = trained.restore(), trained.restore()
    known = (predict(base, sets.forget).logits.argmax(1) == sets.forget.labels).nonzero()[:, 0]
    with torch.no_grad():
        model.get_parameter("fc.weight").neg_()
    return Models(model, base, None, sets.forget.take(known[:COUNT]), sets.retain, RECIPE)


def loss(network: nn.Module, images: Images) -> float:
    outputs = predict(network, images)
    return float(F.cross_entropy(outputs.logits.double(), outputs.labels))


def by_hand(models: Models) -> float:
    """Plain SGD in three orders, evaluated before it and after each of nine epochs."""
    recipe, total = models.recipe, 0.0
    least, most = (math.log(value) for value in (loss(models.base, models.forget), math.log(10)))
    for order in range(3):
        model, generator = deepcopy(models.model), torch.Generator().manual_seed(3 * models.seed + order)
        rates = {"lr": recipe.lr / 10, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        optimizer = torch.optim.SGD(model.parameters(), **rates, fused=True)
        for epoch in range(10):
            total += min(max((math.log(loss(model, models.forget)) - least) / (most - least), 0), 1) / 3
            model.train()
            for norm in model.modules():
                norm.train(norm.training and not isinstance(norm, nn.BatchNorm2d))
            for x, y, _ in models.forget.batches([7, 7, 6], generator) if epoch < 9 else ():
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
    return total


@pytest.mark.parametrize("seed", [0, 1])
def test_is_the_area_under_the_loss_of_plain_sgd(models: Models, seed: int) -> None:
    problem = replace(models, seed=seed)
    wanted = by_hand(problem)
    assert 1 < wanted < 10
    assert relearn_time(problem) == pytest.approx(wanted, rel=1e-4)


def test_a_model_that_never_forgot_is_far_below_one_that_did(models: Models) -> None:
    near, problem = deepcopy(models.base), replace(models, recipe=LIGHT)
    with torch.no_grad():
        near.get_parameter("fc.weight")[0].neg_()
    base, middle, far = (relearn_time(replace(problem, model=model)) for model in (models.base, near, models.model))
    assert 0 <= base < 0.05
    assert 0.5 < middle < far - 0.5


def test_a_model_that_is_as_sure_from_the_first_to_the_last_epoch_is_not_behind(models: Models) -> None:
    slow = RECIPE.model_copy(update={"lr": 1e-12})
    normed = replace(models, recipe=slow, forget=models.forget.take(torch.tensor([0])))
    assert relearn_time(replace(normed, model=models.base)) == pytest.approx(0, abs=1e-5)
    assert relearn_time(replace(normed, model=models.model)) == 10


def test_training_that_runs_away_is_behind_for_good(models: Models) -> None:
    wild = RECIPE.model_copy(update={"lr": 1e30})
    assert relearn_time(replace(models, recipe=wild)) == pytest.approx(10, abs=0.5)


def test_losses_that_are_next_to_nothing_are_alike(models: Models) -> None:
    sure, surer = deepcopy(models.base), deepcopy(models.base)
    with torch.no_grad():
        for network, factor in ((sure, 4), (surer, 8)):
            network.get_parameter("fc.weight").mul_(factor)
            network.get_parameter("fc.bias").mul_(factor)
    still = RECIPE.model_copy(update={"lr": 1e-30, "weight_decay": 0.0})
    one = models.forget.take(torch.tensor([0]))
    assert loss(surer, one) < loss(sure, one) < 1e-4
    assert relearn_time(replace(models, model=sure, base=surer, recipe=still, forget=one)) == 0


def test_a_base_model_that_is_no_better_than_a_guess_gives_no_value(models: Models) -> None:
    guessing = deepcopy(models.base)
    with torch.no_grad():
        guessing.get_parameter("fc.weight").zero_()
        guessing.get_parameter("fc.bias").zero_()
    assert relearn_time(replace(models, base=guessing)) is None


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
    relearn_time(replace(models, forget=augmented(models.forget, seen)))
    assert sum(generator is not None for generator in seen) == 3 * 9 * math.ceil(COUNT / RECIPE.batch_size)
    assert len({id(generator) for generator in seen if generator is not None}) == 3


def muted(base: nn.Module) -> nn.Module:
    """A model whose head alone does not say zero any more."""
    model = deepcopy(base)
    with torch.no_grad():
        model.get_parameter("fc.weight")[0].neg_()
        model.get_parameter("fc.bias")[0] -= 5
    return model


def known(model: nn.Module, images: Images) -> float:
    return float(predict(model, images).correct.float().mean())


def test_retain_images_alone_bring_back_what_only_the_head_does_not_say(models: Models) -> None:
    few = replace(models, model=muted(models.base), recipe=LIGHT, retain=models.retain.take(torch.arange(200)))
    found, curve = relearned_from_retain(few)
    assert curve is not None
    assert list(curve) == [str(epoch) for epoch in range(6)]
    assert curve["0"] == known(few.model, few.forget)
    assert found == pytest.approx(sum(curve[str(epoch)] for epoch in range(1, 6)) / 5)
    assert curve["0"] < 0.9 < found
    still = relearned_from_retain(replace(few, recipe=STILL))
    assert still == (pytest.approx(curve["0"]), dict.fromkeys(curve, curve["0"]))


def test_a_few_forget_images_bring_back_a_class_that_retain_images_cannot(models: Models) -> None:
    zeros = models.retain.take((models.retain.labels == 0).nonzero()[:COUNT, 0])
    retain = models.retain.take((models.retain.labels > 0).nonzero()[:100, 0])
    gone = replace(models, model=muted(models.base), recipe=LIGHT, forget=zeros, retain=retain)
    assert relearned_from_retain(gone)[0] == 0
    found, curve = relearned_from_few(gone)
    assert curve is not None
    assert curve["0"] == 0 < 0.5 < found < curve["5"]
    # Of 20 images every other one is shown, and the others are asked.
    asked = models.forget.take(torch.arange(1, COUNT, 2))
    assert relearned_from_few(replace(models, recipe=STILL, retain=asked))[0] == pytest.approx(
        known(models.model, asked)
    )


def test_curves_need_images_and_end_where_training_runs_away(models: Models) -> None:
    nothing, few = torch.arange(0), models.retain.take(torch.arange(40))
    assert relearned_from_retain(replace(models, forget=models.forget.take(nothing))) == (None, None)
    assert relearned_from_retain(replace(models, retain=models.retain.take(nothing))) == (None, None)
    assert relearned_from_few(replace(models, forget=models.forget.take(torch.arange(1)))) == (None, None)
    wild = RECIPE.model_copy(update={"lr": 1e30})
    found, curve = relearned_from_retain(replace(models, retain=few, recipe=wild))
    assert math.isnan(found)
    assert curve is not None
    assert not math.isnan(curve["0"])
