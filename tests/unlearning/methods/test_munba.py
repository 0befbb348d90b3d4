from itertools import zip_longest

import pytest
import torch
import torch.nn.functional as F
from plain_training import in_order, small_task
from torch import Tensor, nn

from salun.training.recipe import Recipe
from salun.unlearning import Task, unlearn

SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01, "batch_size": 6, "epochs": 2}


def fixed_labels(task: Task, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    drawn = (task.forget.labels + 1) % task.classes
    monkeypatch.setattr(task, "random_labels", lambda labels: drawn)
    return drawn


def shares(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The solution as the authors' code writes it."""
    a, b, c = first @ first, first @ second, second @ second
    kept = torch.sqrt((a * c - b * torch.sqrt(a * c)) / (a * a * c - a * b * b))
    return kept, (1 - a * kept * kept) / (b * kept)


def by_hand(task: Task, drawn: Tensor, clip: float) -> dict[str, Tensor]:
    model, weights = task.model.double(), list(task.model.parameters())
    updates = torch.optim.SGD(weights, lr=0.05, momentum=0.9, weight_decay=0.01)
    model.train()
    for _ in range(2):
        for kept, lost in zip_longest(task.retain.batches(6), task.forget.batches(6)):
            updates.zero_grad()
            loss = F.cross_entropy(model(kept.x.double()), kept.y)
            if lost is not None:
                other = F.cross_entropy(model(lost.x.double()), drawn[lost.at])
                found = [torch.autograd.grad(each, weights, retain_graph=True) for each in (loss, other)]
                alphas = shares(*(torch.cat([part.flatten() for part in parts]) for parts in found))
                loss = alphas[0] * loss + alphas[1] * other
            loss.backward()
            nn.utils.clip_grad_norm_(weights, clip)
            updates.step()
    return model.state_dict()


@pytest.mark.parametrize("clip", [1.0, 100.0])
def test_weighs_both_losses_by_the_bargain(clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    task, other = small_task(9, 28), small_task(9, 28)
    drawn = fixed_labels(task, monkeypatch)
    unlearn(task, "munba", SETTINGS | {"grad_clip": clip})
    expected = by_hand(other, drawn, clip)
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor.double(), expected[key].double(), atol=1e-4), key


def test_no_pass_is_made_twice_and_all_are_counted() -> None:
    task = small_task(9, 28)
    unlearn(task, "munba", {"batch_size": 6, "epochs": 1})
    assert task.passes.forward == task.passes.backward == len(task.retain) + len(task.forget)


def test_forget_images_beyond_the_retain_batches_are_left_out() -> None:
    task = small_task(28, 9)
    unlearn(task, "munba", {"batch_size": 6, "epochs": 1})
    assert task.passes.forward == len(task.retain) + 12


def test_opposed_gradients_are_no_bargain(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    image, label = torch.rand(1, 3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.tensor([0])
    task = Task(
        model=model,
        forget=in_order(image, label),
        retain=in_order(image, label),
        validation=in_order(image, label),
        classes=2,
        forgotten=(),
        recipe=Recipe(),
        fresh=lambda: model,
        generator=torch.Generator().manual_seed(0),
    )
    fixed_labels(task, monkeypatch)
    plain = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1, "epochs": 1, "grad_clip": None}
    unlearn(task, "munba", plain)
    # At equal logits the gradients under the two labels are opposite: 1 - 0.1 of the retain image's is left.
    expected = 0.5 * 0.9 * 0.5 * image.flatten()
    torch.testing.assert_close(model[1].weight.detach(), torch.stack([expected, -expected]))
