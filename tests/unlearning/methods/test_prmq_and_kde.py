import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from plain_training import record_losses, small_task
from problems import same_weights
from torch import Tensor, nn

from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, find_method, unlearn

PLAIN = {"momentum": 0.9, "weight_decay": 0.01, "batch_size": 6}


def before_training(task: Task, name: str, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
    monkeypatch.setattr(task, "fit", lambda stream, **rest: None)
    find_method(name).run(task, **settings)


def entropies(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits).entropy()


@pytest.mark.parametrize("share", [0.25, 0.99])
def test_prmq_draws_the_smallest_weights_anew(
    share: float, task: Task, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_training(task, "prmq", monkeypatch, share=share)
    layers = {name: part for name, part in task.model.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}
    names = [f"{name}.{own}" for name, part in layers.items() for own, _ in part.named_parameters()]
    known = {name: values.half().to(values.dtype) for name, values in trained.weights.items()}
    old = torch.cat([known[name].flatten() for name in names])
    new = torch.cat([task.model.get_parameter(name).detach().flatten() for name in names])
    changed = old != new
    first = torch.cat([trained.weights[name].flatten() for name in names]).abs()
    smallest = torch.zeros_like(changed)
    smallest[first.argsort()[: round(share * len(first))]] = True
    assert not bool((changed & ~smallest).any())
    assert int(changed.sum()) > 0.99 * int(smallest.sum())  # in half precision a few are drawn as they were
    for name, layer in layers.items():
        moved = layer.weight.detach()[layer.weight.detach() != known[f"{name}.weight"]]
        bound = 1 / math.sqrt(layer.weight[0].numel())
        assert float(moved.abs().max()) <= 1.001 * bound
        if len(moved) > 2000:
            assert float(moved.std()) == pytest.approx(bound / math.sqrt(3), rel=0.05)
    others = {name: weight for name, weight in task.model.named_parameters() if name not in names}
    assert all(torch.equal(weight, known[name]) for name, weight in others.items())


def test_prmq_matches_entropies_and_rounds_to_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    task, base = small_task(10, 28), small_task(10, 28)
    steps = record_losses(task, monkeypatch)
    unlearn(task, "prmq", PLAIN | {"epochs": 1, "lr": 1e-12, "share": 0.0})
    model, teacher = base.model.train(), small_task(10, 28).model.eval()
    weights = torch.bincount(base.retain.labels, minlength=base.classes).clamp(min=1).float() ** -0.1
    for (found, _), batch in zip(steps, base.retain.batches(6), strict=True):
        logits = model(batch.x)
        each = weights[batch.y]
        plain = (each * F.cross_entropy(logits, batch.y, reduction="none")).sum() / each.sum()
        apart = (entropies(logits) - entropies(teacher(batch.x))).square().mean()
        assert found == pytest.approx(float((plain + apart).detach()), rel=1e-4)
    for key, tensor in task.model.state_dict().items():
        assert not tensor.is_floating_point() or torch.equal(tensor, tensor.half().float()), key


def test_kde_draws_first_and_last_layer_anew(task: Task, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = task.fresh()
    task.untrained = lambda: fresh
    with monkeypatch.context() as patch:
        patch.setattr(type(task), "fit", lambda self, stream, **rest: None)
        find_method("kde").run(task)
    changed = {
        name for name in trained.weights if not torch.equal(task.model.state_dict()[name], trained.weights[name])
    }
    assert changed == {"conv1.weight", "fc.weight", "fc.bias"}
    assert same_weights(task, fresh, changed)


def test_kde_distils_first_and_learns_labels_too_then() -> None:
    task, other = small_task(10, 28), small_task(10, 28)
    teacher = small_task(10, 28).model.eval()
    unlearn(task, "kde", PLAIN | {"lr": 0.05, "warmup_lr": 0.03, "warmup_epochs": 2, "epochs": 1, "temperature": 3.0})
    model = other.model.train()  # its fresh weights are those that it has
    for epochs, rate, labelled in ((2, 0.03, 0.0), (1, 0.05, 1.0)):
        updates = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, weight_decay=0.01)
        for _ in range(epochs):
            for batch in other.retain.batches(6):
                updates.zero_grad()
                wanted = F.softmax(teacher(batch.x).detach() / 3, 1)
                logits = model(batch.x)
                soft = -(wanted * F.log_softmax(logits / 3, 1)).sum(1).mean()
                own = -(wanted * wanted.log()).sum(1).mean()
                ((soft - own) + labelled * (soft + F.cross_entropy(logits, batch.y))).backward()
                updates.step()
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, model.state_dict()[key], atol=1e-5), key


def test_kde_looks_at_retain_images_alone() -> None:
    task = small_task(10, 28)
    task.validation = task.validation.take(torch.empty(0, dtype=torch.int64))
    unlearn(task, "kde", {"warmup_epochs": 2, "epochs": 1, "batch_size": 6})
    assert task.passes.backward == 3 * 28
    assert task.passes.forward == 2 * task.passes.backward
