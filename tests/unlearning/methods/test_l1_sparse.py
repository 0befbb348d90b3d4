from typing import Any

import pytest
import reference
import torch
from plain_training import in_order, record_losses, reference_task

from salun.unlearning import Task, unlearn

RUNS = list(reference.settings("l1_sparse")["runs"])


def reference_run(run: dict[str, Any], size: int) -> dict[str, Any]:
    names = ("lr", "epochs", "alpha", "no_l1_epochs", "momentum", "weight_decay")
    return {name: run[name] for name in names} | {"batch_size": size}


def make() -> Task:
    data = reference.arrays("l1_sparse")
    retain = in_order(data["inputs"], data["labels"])
    return reference_task(reference.tensors("l1_sparse_initial"), retain, retain)


@pytest.mark.parametrize("name", RUNS)
def test_losses_are_the_reference_s(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, wanted = reference.settings("l1_sparse"), reference.arrays("l1_sparse")
    task = make()
    seen = record_losses(task, monkeypatch)
    unlearn(task, "l1_sparse", reference_run(case["runs"][name], case["batch_size"]))
    total, plain = torch.tensor(seen, dtype=torch.float64).T
    shape = wanted[f"{name}/total_loss"].shape
    assert torch.allclose(total.view(shape), wanted[f"{name}/total_loss"], rtol=1e-6, atol=1e-6)
    assert torch.allclose(plain.view(shape), wanted[f"{name}/ce_loss"], rtol=1e-6, atol=1e-6)
    assert torch.allclose((total - plain).view(shape), wanted[f"{name}/epoch_alpha_times_l1"], atol=1e-6)


def test_weights_are_the_reference_s_after_training() -> None:
    case, task = reference.settings("l1_sparse"), make()
    unlearn(task, "l1_sparse", reference_run(case["runs"]["trained"], case["batch_size"]))
    final = reference.tensors("l1_sparse_final_trained")
    for key, tensor in task.model.state_dict().items():
        assert torch.allclose(tensor, final[key], atol=1e-5), key


def test_more_epochs_without_the_penalty_than_there_are_leave_none(monkeypatch: pytest.MonkeyPatch) -> None:
    task = make()
    seen = record_losses(task, monkeypatch)
    unlearn(task, "l1_sparse", {"epochs": 2, "no_l1_epochs": 5, "alpha": 1.0})
    assert [total for total, _ in seen] == pytest.approx([plain for _, plain in seen])
