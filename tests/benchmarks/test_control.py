from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.control import (
    Forgetting,
    Loaders,
    evaluate,
    forget,
    gradients,
    mask_of,
    sgd,
    train_epoch,
)
from benchmarks.items import Bench
from benchmarks.problem import Ground, ground_for
from salun.training.evaluate import accuracy, predict
from salun.training.loop import fit
from salun.training.recipe import TrainingConfig
from salun.training.runtime import Runtime
from salun.unlearning.mask import saliency

BATCH = 32
# So few that the last of them still has a gradient other than 0; of equal ones each side takes what it likes.
KEEP = 0.01
CPU = torch.device("cpu")
LOADERS = Loaders(BATCH, 0, CPU)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return ground_for(Bench(CPU, tmp_path, quick=True), 100, share=0.3)


def parameters(model: nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_prepares_images_as_ours_are_grey_ones_too(ground: Ground, tmp_path: Path) -> None:
    for each in (ground, Ground(Bench(CPU, tmp_path, quick=True), "digits", ground.architecture)):
        images, labels = next(iter(LOADERS.over(each.pictures(each.sets.test))))
        ours = next(each.sets.test.batches(BATCH))
        torch.testing.assert_close(images, ours.x)
        torch.testing.assert_close(labels, ours.y)


def test_crops_only_what_is_trained_on(ground: Ground) -> None:
    training, plain = (ground.pictures(ground.sets.train, training=flag) for flag in (True, False))
    assert any(not torch.equal(training[0][0], training[0][0]) for _ in range(20))
    assert torch.equal(plain[0][0], plain[0][0])


def test_masks_the_weights_that_ours_does(ground: Ground) -> None:
    images, model = ground.sets.forget, ground.theirs()
    theirs = mask_of(gradients(model, LOADERS.over(ground.pictures(images)), CPU), KEEP)
    ours = saliency(model, images, KEEP, batch_size=BATCH)
    differing = sum(int((theirs[name].bool() != ours[name]).sum()) for name in ours)
    assert differing <= 1e-4 * sum(chosen.numel() for chosen in ours.values())
    assert sum(int(chosen.sum()) for chosen in theirs.values()) == sum(int(chosen.sum()) for chosen in ours.values())


def test_takes_the_steps_that_ours_takes(ground: Ground) -> None:
    batches = list(ground.sets.train.batches(BATCH))
    theirs, ours = ground.theirs(), ground.theirs()
    loss, _ = train_epoch(theirs, [(batch.x, batch.y) for batch in batches], sgd(theirs, 0.01), CPU)
    curve, _ = fit(ours, lambda epoch: batches, TrainingConfig(epochs=1, lr=0.01), Runtime())
    assert loss == pytest.approx(curve[0].loss, rel=1e-4)
    torch.testing.assert_close(parameters(theirs), parameters(ours), atol=1e-4, rtol=1e-3)


def test_evaluates_as_ours_does(ground: Ground) -> None:
    model = ground.theirs()
    found = evaluate(model, LOADERS.over(ground.pictures(ground.sets.test)), CPU)
    assert found == pytest.approx(accuracy(predict(model, ground.sets.test)))


def test_moves_the_weights_of_the_mask(ground: Ground) -> None:
    np.random.seed(0)
    model = ground.theirs()
    plain = {name: ground.pictures(getattr(ground.sets, name)) for name in ("forget", "retain", "test")}
    before = parameters(model)
    found = forget(model, Forgetting(plain["forget"], plain["retain"], plain, 10, 0.5, 0.01, 1), LOADERS)
    assert found.keys() == {"forget", "retain", "test", "MIA"}
    assert all(0 <= value <= 1 for value in found.values())
    assert not torch.equal(before, parameters(model))
