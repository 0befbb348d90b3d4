from math import cos, pi

import torch
import torch.nn.functional as F
from plain_training import small_task
from torch import Tensor

from salun.unlearning import unlearn


def by_hand(epochs: int, temperature: float) -> dict[str, Tensor]:
    task = small_task(10, 28)
    model, weights = task.model, list(task.model.parameters())
    first = torch.optim.SGD(weights, lr=0.03, momentum=0.9)
    forgetting = torch.optim.SGD(weights, lr=0.02, momentum=0.9)
    keeping = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.01)
    model.train()
    for batch in task.forget.batches(6):
        first.zero_grad()
        known = F.log_softmax(model(batch.x), 1)
        uniform = torch.full_like(known, 1 / known.shape[1])
        (uniform * (uniform.log() - known)).sum(1).mean().backward()
        first.step()
    for epoch in range(epochs):
        forgetting.param_groups[0]["lr"] = 0.02 * (1 + cos(pi * epoch / epochs)) / 2
        for lost, kept in zip(task.forget.batches(6), task.retain.batches(6), strict=False):
            forgetting.zero_grad()
            similar = model(lost.x) @ model(kept.x).detach().T / temperature
            (-F.log_softmax(similar, -1)).mean().backward()
            forgetting.step()
        for batch in task.retain.batches(6):
            keeping.zero_grad()
            F.cross_entropy(model(batch.x), batch.y).backward()
            keeping.step()
    return model.state_dict()


def test_is_a_uniform_pass_then_contrast_and_retain_images_in_turn() -> None:
    task = small_task(10, 28)
    rates = {"lr": 0.05, "uniform_lr": 0.03, "contrast_lr": 0.02}
    unlearn(task, "fcs", rates | {"epochs": 3, "batch_size": 6, "weight_decay": 0.01, "temperature": 2.0})
    expected = by_hand(3, 2.0)
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, expected[key], atol=1e-5), key


def test_retain_images_of_the_contrast_go_forward_only() -> None:
    task = small_task(10, 28)
    unlearn(task, "fcs", {"epochs": 2, "batch_size": 6})
    assert task.passes.backward == 10 + 2 * (10 + 28)
    assert task.passes.forward == task.passes.backward + 2 * 12
