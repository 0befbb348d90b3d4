import pytest
import torch
import torch.nn.functional as F
from plain_training import small_task
from torch import Tensor

from salun.unlearning import Task, unlearn


def make() -> Task:
    return small_task(10, 30)


def by_hand(alpha: float, size: int, epochs: int) -> dict[str, Tensor]:
    task = make()
    updates = torch.optim.SGD(task.model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    task.model.train()
    for _ in range(epochs):
        forget = [*task.forget.batches(size)] * 100
        for kept, lost in zip(task.retain.batches(size), forget, strict=False):
            updates.zero_grad()
            loss = alpha * F.cross_entropy(task.model(kept.x), kept.y)
            loss = loss - (1 - alpha) * F.cross_entropy(task.model(lost.x), lost.y)
            loss.backward()
            updates.step()
    return task.model.state_dict()


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
def test_is_a_weighted_difference_of_separate_passes(alpha: float) -> None:
    settings = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "batch_size": 4, "epochs": 2, "alpha": alpha}
    task, expected = make(), by_hand(alpha, 4, 2)
    unlearn(task, "neggrad_plus", settings)
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, expected[key], atol=1e-5), key


def test_both_batches_are_counted() -> None:
    task = make()
    unlearn(task, "neggrad_plus", {"batch_size": 5, "epochs": 1})
    steps = -(-len(task.retain) // 5)
    assert task.passes.forward == task.passes.backward == len(task.retain) + 5 * steps


def test_a_last_batch_of_one_forget_image_is_no_obstacle(task: Task) -> None:
    task.forget = task.forget.take(torch.arange(65))
    unlearn(task, "neggrad_plus", {"epochs": 1, "batch_size": 64})
    assert task.diverged is None
