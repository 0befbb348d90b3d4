from typing import Any

import pytest
import torch
import torch.nn.functional as F
from steps import task_of

from features import features_of
from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, unlearn
from salun.unlearning.methods.scar import class_statistics, inverse_correlation, mahalanobis, moments, tukey


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0,)))


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_distances_follow_the_definition() -> None:
    features, means = drawn(7, 4).abs(), drawn(3, 4, seed=1).abs()
    half = drawn(3, 4, 4, seed=2)
    inverses = half @ half.transpose(1, 2)
    found = mahalanobis(features, means, inverses, 0.5)
    for row in range(7):
        for label in range(3):
            root = features[row] ** 0.5
            apart = root / root.norm() - means[label] / means[label].norm()
            assert float(found[row, label]) == pytest.approx(float(apart @ inverses[label] @ apart), rel=1e-4)
    at_mean = mahalanobis(means[:1] ** 2, means, inverses, 0.5)
    assert float(at_mean[0, 0]) == pytest.approx(0, abs=1e-6)


def test_a_shrunken_correlation_is_inverted() -> None:
    samples = drawn(50, 5) @ drawn(5, 5, seed=1)
    covariance = torch.cov(samples.T)
    shrunken = covariance.clone()
    for _ in range(2):
        off = ~torch.eye(5, dtype=torch.bool)
        spread, shared = shrunken.diagonal().mean(), shrunken[off].mean()
        shrunken = shrunken + torch.where(off, 3 * shared, 2 * spread)
    scale = shrunken.diagonal().sqrt()
    wanted = torch.linalg.inv(shrunken / scale / scale[:, None])
    torch.testing.assert_close(inverse_correlation(covariance, 2.0, 3.0), wanted, rtol=1e-3, atol=1e-4)
    plain = inverse_correlation(torch.diag(torch.tensor([1.0, 4.0, 9.0])), 0.0, 0.0)
    torch.testing.assert_close(plain, torch.eye(3), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [3, 500])
def test_statistics_in_batches_are_those_in_one_piece(digits: Dataset, trained: Checkpoint, batch_size: int) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)), 80)
    means, inverses, present = class_statistics(task, batch_size, 0.5, 3.0, 3.0)
    features = tukey(features_of(task.model, task.retain), 0.5)
    for label in present.nonzero().flatten().tolist():
        members = features[task.retain.labels == label]
        torch.testing.assert_close(means[label], members.mean(0), rtol=1e-4, atol=1e-5)
        # A singular matrix has an ill-conditioned inverse: what counts is how far images are.
        plain = inverse_correlation(torch.cov(members.T), 3.0, 3.0)[None]
        found = mahalanobis(features[:20] ** 2, means[label, None], inverses[label, None], 0.5)
        torch.testing.assert_close(
            found, mahalanobis(features[:20] ** 2, members.mean(0)[None], plain, 0.5), rtol=1e-3, atol=1e-4
        )
    assert present.tolist() == [int((task.retain.labels == label).sum()) > 1 for label in range(10)]


def test_moments_of_batches_are_those_of_all() -> None:
    rows = 1000 + drawn(23, 4) @ drawn(4, 4, seed=1)
    mean, scatter = moments(rows.split(5))
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(scatter / 22, torch.cov(rows.T), rtol=1e-3, atol=1e-3)


def test_features_of_zero_and_below_have_a_gradient() -> None:
    features = torch.tensor([[0.0, -4.0, 9.0]], requires_grad=True)
    found = tukey(features, 0.5)
    torch.testing.assert_close(found, torch.tensor([[0.0, -2.0, 3.0]]))
    mahalanobis(features, torch.ones(2, 3), torch.eye(3).expand(2, 3, 3), 0.5).sum().backward()
    assert features.grad is not None
    assert bool(features.grad.isfinite().all())


def test_forget_features_come_close_to_another_class(task: Task) -> None:
    means, inverses, present = class_statistics(task, 500, 0.5, 3.0, 3.0)
    assert present.tolist() == [False] + [True] * 9

    def nearest() -> float:
        distances = mahalanobis(features_of(task.model, task.forget), means, inverses, 0.5)
        return float(distances[:, 1:].min(1).values.mean())

    before = nearest()
    unlearn(task, "scar", {"batch_size": 256, "epochs": 4, "lr": 3e-3})
    assert nearest() < 0.5 * before


def test_the_base_model_is_obeyed_but_for_the_forgotten_class(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[float] = []

    def first_loss(stream: Any, **rest: Any) -> None:
        step = next(iter(stream(0)))
        task.model.eval()
        kept = step.loss.keywords["kept"]
        base = task.model(kept.x).detach()
        wanted = base.clone()
        wanted[:, 0] = base.min()
        kl = F.kl_div(base.log_softmax(1), wanted.softmax(1), reduction="batchmean")
        found.extend([float(step.loss(task.model(step.batch.x), step.batch)), float(2 * kl)])

    monkeypatch.setattr(task, "fit", first_loss)
    unlearn(task, "scar", {"lambda_1": 0.0, "lambda_2": 2.0, "batch_size": 200})
    assert found[0] == pytest.approx(found[1], rel=1e-3)


@pytest.mark.parametrize(("target", "epochs"), [(1.0, 3), (0.0, 4)])
def test_stops_from_the_third_epoch_on(digits: Dataset, trained: Checkpoint, target: float, epochs: int) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)), 96)
    unlearn(task, "scar", {"batch_size": 96, "epochs": 4, "target_accuracy": target, "lr": 5e-3})
    assert len(task.curve) == epochs


def test_a_class_that_is_known_little_is_pulled_no_more(digits: Dataset, trained: Checkpoint) -> None:
    task, still = (task_of(digits, trained, ForgetRequest(share=0.1), 200) for _ in range(2))
    settings: dict[str, Any] = {"batch_size": 256, "epochs": 2, "lambda_2": 0.0, "optimizer": "sgd", "momentum": 0.0}
    for each in (task, still):
        each.forget = each.forget.relabel((each.forget.labels + 1) % 10)
    unlearn(task, "scar", settings)
    unlearn(still, "scar", settings | {"epochs": 1})
    # Labels that the model never gives: from the second epoch on nothing is pulled, so no weight moves.
    assert all(
        torch.equal(weight, other)
        for weight, other in zip(task.model.parameters(), still.model.parameters(), strict=True)
    )
