import pytest
import torch
import torch.nn.functional as F
from plain_training import small_task
from steps import task_of
from torch import Tensor

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn
from salun.unlearning.mask import saliency

SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "batch_size": 8, "epochs": 3}


def make() -> Task:
    return small_task(10, 30)


def flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def by_hand(ratio: float, anchor: str) -> Tensor:
    task = make()
    updates = torch.optim.SGD(task.model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    task.model.train()
    start = flat(task.model)
    batches = -(-len(task.forget) // 8) - (-len(task.retain) // 8)
    for epoch in range(3):
        if anchor == "epoch":
            start = flat(task.model)
        mixed = task.forget.relabel(task.random_labels("any")).join(task.retain)
        for batch in mixed.batches(8):
            updates.zero_grad()
            F.cross_entropy(task.model(batch.x), batch.y).backward()
            updates.step()
            change = flat(task.model) - start
            total = 3 * batches
            undone = int(ratio * ((total - (epoch * batches + 1)) / total) * len(change))
            threshold = change.abs().sort().values[undone - 1] if undone else torch.tensor(0.0)
            shrunk = start + torch.sign(change) * (change.abs() - threshold).clamp_min(0)
            torch.nn.utils.vector_to_parameters(shrunk, task.model.parameters())
    return flat(task.model)


@pytest.mark.parametrize("anchor", ["base", "epoch"])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.95])
def test_is_soft_thresholding_after_every_step(ratio: float, anchor: str) -> None:
    task = make()
    unlearn(task, "salun_soft", SETTINGS | {"ratio": ratio, "anchor": anchor})
    assert torch.allclose(flat(task.model), by_hand(ratio, anchor), atol=1e-5)


def test_the_smallest_changes_are_undone_exactly() -> None:
    task = make()
    before = flat(task.model)
    unlearn(task, "salun_soft", SETTINGS | {"epochs": 1, "ratio": 0.8})
    batches = -(-len(task.forget) // 8) - (-len(task.retain) // 8)
    undone = int(0.8 * (1 - 1 / batches) * len(before))
    assert int((flat(task.model) == before).sum()) == pytest.approx(undone, abs=2)


def test_under_a_mask_held_weights_stay_and_others_move(digits: Dataset, trained: Checkpoint) -> None:
    task = task_of(digits, trained, ForgetRequest(share=0.1))
    mask = saliency(trained.restore(), task.forget, 0.3)
    unlearn(task, "salun_soft", {"epochs": 1, "lr": 0.05, "batch_size": 128, "ratio": 0.5}, mask)
    moved = {name: weight != trained.weights[name] for name, weight in task.model.named_parameters()}
    assert not any(bool((moved[name] & ~mask[name]).any()) for name in mask)
    assert sum(int(where.sum()) for where in moved.values()) > 0.5 * sum(int(free.sum()) for free in mask.values())
