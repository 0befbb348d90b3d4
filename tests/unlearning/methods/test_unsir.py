from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steps import steps_of, task_of

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn
from salun.unlearning.methods.unsir import draw_samples, make_noise, noisy_batches

SMALL: dict[str, Any] = {"batch_size": 16, "noise_batches": 3, "noise_steps": 5, "samples_per_class": 20}


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0, 4)))


def test_noise_is_what_the_model_takes_least_for_its_class(task: Task, trained: Checkpoint) -> None:
    noise, labels = make_noise(task, 32, 0.1, 20, 0.0)
    plain, _ = make_noise(task, 32, 1e-9, 1, 0.0)
    small, _ = make_noise(task, 32, 0.1, 20, 10.0)
    assert labels.tolist() == [0] * 32 + [4] * 32
    assert noise.shape == (64, *next(task.forget.batches(1)).x.shape[1:])
    with torch.no_grad():
        model = task.model.eval()
        found = F.cross_entropy(model(noise), labels, reduction="none")
        other = F.cross_entropy(model(plain), labels, reduction="none")
    for rows in (slice(0, 32), slice(32, 64)):
        assert float(found[rows].mean()) > 2 * float(other[rows].mean())
    assert float(small.norm()) < 0.5 * float(plain.norm())
    assert all(torch.equal(tensor, trained.weights[name]) for name, tensor in model.state_dict().items())


def test_impairs_with_noise_and_samples_then_repairs_with_samples(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    impair, repair = steps_of(task, "unsir", monkeypatch, **SMALL)
    noisy = 3 * 2 * 16
    at = torch.cat([step.batch.at for step in impair])
    labels = torch.cat([step.batch.y for step in impair])
    assert sorted(at.tolist()) == list(range(noisy + 8 * 20))
    counts = torch.bincount(labels, minlength=10).tolist()
    assert counts == [48, 20, 20, 20, 48, 20, 20, 20, 20, 20]
    assert all(len(step.batch.x) == len(step.batch.y) for step in impair)
    assert torch.cat([step.batch.y for step in repair]).bincount(minlength=10).tolist() == [
        0 if n in (0, 4) else 20 for n in range(10)
    ]
    rows = torch.cat([step.batch.x[step.batch.y == 0] for step in impair]).flatten(1)
    assert len(rows.unique(dim=0)) == 16


def test_positions_are_those_of_the_images_in_the_batch(task: Task) -> None:
    noise, labels = make_noise(task, 4, 0.1, 1, 0.0)
    samples = draw_samples(task, 5)
    x = torch.cat([noise, noise, samples.view(samples.pixels[samples.rows], None)])
    y = torch.cat([labels, labels, samples.labels])
    batches = [*noisy_batches(noise, labels, samples, 2, 16, task.generator)]
    assert all(torch.equal(batch.y, y[batch.at]) for batch in batches)
    assert all(torch.allclose(batch.x, x[batch.at], atol=1e-5) for batch in batches)


def test_the_forget_images_are_never_looked_at(task: Task, digits: Dataset, trained: Checkpoint) -> None:
    blind = task_of(digits, trained, ForgetRequest(classes=(0, 4)))
    blind.forget = replace(blind.forget, pixels=torch.zeros_like(blind.forget.pixels))
    for each in (task, blind):
        unlearn(each, "unsir", SMALL)
    assert all(
        torch.equal(tensor, other)
        for tensor, other in zip(task.model.state_dict().values(), blind.model.state_dict().values(), strict=True)
    )


def test_a_spent_budget_ends_the_noise(task: Task) -> None:
    task.passes.budget = 100
    unlearn(task, "unsir", SMALL | {"noise_steps": 1000})
    assert 100 - 2 < task.passes.total <= 100
