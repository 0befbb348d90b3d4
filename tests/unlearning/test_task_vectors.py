from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_training import small_task
from torch import Tensor, nn

from salun.errors import SalunError
from salun.unlearning import Task, settled, unlearn

TRAINING: dict[str, Any] = {
    "lr": 0.1,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 0.01,
    "grad_clip": None,
    "schedule": "constant",
    "batch_size": 4,
    "epochs": 2,
}


def make() -> Task:
    return small_task(10, 30)


def gained(lr: float, free: str = "") -> dict[str, Tensor]:
    """Fine-tune the weights whose names begin as given on the forget images, and tell what each of them gained."""
    task = make()
    before = {name: weight.detach().clone() for name, weight in task.model.named_parameters()}
    weights = {name: weight for name, weight in task.model.named_parameters() if name.startswith(free)}
    updates = torch.optim.SGD(weights.values(), lr=lr, momentum=0.9, weight_decay=0.01)
    task.model.train()
    for _ in range(2):
        for batch in task.forget.batches(4):
            updates.zero_grad()
            F.cross_entropy(task.model(batch.x), batch.y).backward()
            updates.step()
    return {name: weight.detach() - before[name] for name, weight in weights.items()}


def assert_moved(model: nn.Module, changes: dict[str, Tensor]) -> None:
    """Check that weights are the base model's and a change, and all else the base model's bit for bit."""
    for name, value in make().model.state_dict().items():
        found = model.state_dict()[name]
        if name in changes:
            assert torch.allclose(found, value + changes[name], atol=1e-6), name
        else:
            assert torch.equal(found, value), name


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_task_arithmetic_goes_from_the_base_model_away_from_the_fine_tuned_one(scale: float) -> None:
    task = make()
    unlearn(task, "task_arithmetic", TRAINING | {"scale": scale})
    assert_moved(task.model, {name: -scale * change for name, change in gained(0.1).items()})
    assert task.passes.forward == task.passes.backward == 2 * len(task.forget)


@pytest.mark.parametrize("factors", [[1.0, 2.0], [0.5, 1.0, 4.0]])
def test_negmerge_undoes_the_mean_change_where_all_agree_on_its_sign(factors: list[float]) -> None:
    vectors = [gained(0.1 * factor) for factor in factors]
    merged, agreeing = {}, 0
    for name in vectors[0]:
        values = torch.stack([vector[name] for vector in vectors])
        agree = (values > 0).all(0) | (values < 0).all(0)
        merged[name] = torch.where(agree, values.mean(0), 0)
        agreeing += int(agree.sum())
    assert 0 < agreeing < sum(map(torch.numel, merged.values()))
    task = make()
    unlearn(task, "negmerge", TRAINING | {"lr_factors": factors, "scale": 2.0})
    assert_moved(task.model, {name: -2.0 * change for name, change in merged.items()})
    assert len(task.curve) == 2 * len(factors)


def test_under_a_mask_fine_tuning_moves_the_chosen_weights_alone() -> None:
    task = make()
    mask = {name: torch.full_like(weight, "fc" in name) > 0 for name, weight in task.model.named_parameters()}
    unlearn(task, "task_arithmetic", TRAINING, mask)
    assert_moved(task.model, {name: -change for name, change in gained(0.1, "fc").items()})


def test_the_labels_of_retain_and_validation_images_do_not_matter() -> None:
    task = make()
    task.retain = task.retain.take(torch.arange(1))
    task.validation = task.validation.take(torch.arange(0))
    unlearn(task, "task_arithmetic", TRAINING)
    assert_moved(task.model, {name: -change for name, change in gained(0.1).items()})


@pytest.mark.parametrize("factors", [[], [1.0], [1.0, 0.0], [1.0, -2.0], "1"])
def test_negmerge_needs_several_positive_factors(factors: Any) -> None:
    with pytest.raises(SalunError, match="method 'negmerge': setting 'lr_factors'"):
        settled("negmerge", {"lr_factors": factors})
