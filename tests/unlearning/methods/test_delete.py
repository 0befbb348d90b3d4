from typing import Any

import pytest
import torch
from steps import steps_of, task_of

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.training.evaluate import predict
from salun.unlearning import Task, unlearn


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0, 4)))


def test_the_base_model_without_the_own_class_is_what_is_learned(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of(task, "delete", monkeypatch, epochs=1, batch_size=64)[0]
    assert sum(len(step.batch.x) for step in steps) == len(task.forget)
    batch, loss = steps[0].batch, steps[0].loss
    assert loss is not None
    with torch.no_grad():
        base = task.model.eval()(batch.x)
    own = torch.nn.functional.one_hot(batch.y, 10).bool()
    assert float(loss(base.masked_fill(own, -50.0), batch)) == pytest.approx(0, abs=1e-5)
    rest = base.masked_fill(own, -torch.inf).softmax(1)
    entropy = torch.special.entr(rest).sum(1).mean()
    assert float(loss(torch.zeros_like(base), batch)) == pytest.approx(
        float(torch.tensor(10.0).log() - entropy), rel=1e-4
    )
    assert float(loss(base, batch)) > 1


@pytest.mark.parametrize("frozen", [True, False])
def test_freezing_leaves_the_statistics_of_normalisation(frozen: bool, task: Task, trained: Checkpoint) -> None:
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 64, "freeze_norms": frozen}
    task.forget = task.forget.take(torch.arange(129))
    unlearn(task, "delete", settings)
    same = [
        torch.equal(buffer, trained.weights[name]) for name, buffer in task.model.named_buffers() if "running" in name
    ]
    assert all(same) if frozen else not any(same)


def test_a_forgotten_class_goes_where_the_base_model_saw_the_next_best(digits: Dataset, trained: Checkpoint) -> None:
    task = task_of(digits, trained, ForgetRequest(classes=(0,)))
    before = predict(task.model, task.forget)
    second = before.logits.scatter(1, before.labels[:, None], -torch.inf).argmax(1)
    unlearn(task, "delete", {"lr": 5e-4, "epochs": 10, "batch_size": 64, "freeze_norms": True})
    after = predict(task.model, task.forget).logits.argmax(1)
    assert float((after == before.labels).float().mean()) < 0.1
    assert float((after == second).float().mean()) > 0.5
