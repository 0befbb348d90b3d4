from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from problems import same_weights
from steps import steps_of, task_of
from torch import Tensor

from salun.data.dataset import Dataset
from salun.data.images import Batch
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn

SMALL: dict[str, Any] = {"batch_size": 16, "noise_batches": 3, "noise_steps": 5, "samples_per_class": 20}
NOISY = 3 * 2 * 16  # copies of the noise images of two classes


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0, 4)))


def impair(task: Task, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Batch:
    """What the impair step sees, by position: noise first."""
    steps = steps_of(task, "unsir", monkeypatch, **settings)[0]
    joined = Batch(*(torch.cat(parts) for parts in zip(*(step.batch for step in steps), strict=True)))
    return Batch(*(part[joined.at.argsort()] for part in joined))


def test_noise_is_what_the_model_takes_least_for_its_class(
    task: Task, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(**settings: Any) -> tuple[Tensor, Tensor]:
        seen = impair(task, monkeypatch, batch_size=32, noise_batches=1, samples_per_class=1, **settings)
        return seen.x[:64], seen.y[:64]

    noise, labels = made(noise_steps=20, noise_penalty=0.0)
    plain, _ = made(noise_steps=1, noise_lr=1e-9)
    small, _ = made(noise_steps=20, noise_penalty=10.0)
    assert labels.tolist() == [0] * 32 + [4] * 32
    with torch.no_grad():
        model = task.model.eval()
        found, other = (F.cross_entropy(model(x), labels, reduction="none") for x in (noise, plain))
    for rows in (slice(0, 32), slice(32, 64)):
        assert float(found[rows].mean()) > 2 * float(other[rows].mean())
    assert float(small.norm()) < 0.5 * float(plain.norm())
    assert same_weights(task, trained)


def test_impairs_with_noise_and_samples_then_repairs_with_samples(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    impaired, repaired = steps_of(task, "unsir", monkeypatch, **SMALL)
    wanted = [0 if label in (0, 4) else 20 for label in range(10)]
    assert torch.cat([step.batch.y for step in repaired]).bincount(minlength=10).tolist() == wanted
    labels = torch.cat([step.batch.y for step in impaired])
    assert labels.bincount(minlength=10).tolist() == [count or 48 for count in wanted]
    at = torch.cat([step.batch.at for step in impaired])
    assert sorted(at.tolist()) == list(range(NOISY + 8 * 20)) != at.tolist()


def test_positions_are_those_of_the_images_in_the_batch(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = impair(task, monkeypatch, **SMALL)
    assert seen.y[:NOISY].tolist() == ([0] * 16 + [4] * 16) * 3
    assert torch.equal(seen.x[:NOISY], seen.x[:32].repeat(3, 1, 1, 1))
    assert len(seen.x[:NOISY].flatten(1).unique(dim=0)) == 32
    retain = task.retain.view(task.retain.pixels[task.retain.rows], None).flatten(1)
    apart = torch.cdist(seen.x[NOISY:].flatten(1), retain, compute_mode="donot_use_mm_for_euclid_dist")
    assert float(apart.min(1).values.max()) < 1e-4
    assert torch.equal(task.retain.labels[apart.argmin(1)], seen.y[NOISY:])


def test_the_forget_images_are_never_looked_at(task: Task, digits: Dataset, trained: Checkpoint) -> None:
    blind = task_of(digits, trained, ForgetRequest(classes=(0, 4)))
    blind.forget = replace(blind.forget, pixels=torch.zeros_like(blind.forget.pixels))
    for each in (task, blind):
        unlearn(each, "unsir", SMALL)
    assert same_weights(task, blind)


def test_a_spent_budget_ends_the_noise(task: Task) -> None:
    task.passes.budget = 100
    unlearn(task, "unsir", SMALL | {"noise_steps": 1000})
    assert 100 - 2 < task.passes.total <= 100
