from typing import Any

import pytest
import torch
from steps import task_of
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest
from salun.models.checkpoint import Checkpoint
from salun.training.runtime import Runtime
from salun.unlearning import Task, unlearn


@pytest.fixture
def task(digits: Dataset, trained: Checkpoint) -> Task:
    return task_of(digits, trained, ForgetRequest(classes=(0,)), 32)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", ["bad_teacher", "delete", "scar", "scrub"])
def test_teachers_run_in_the_precision_of_the_training(name: str, precision: Any, task: Task) -> None:
    seen: list[torch.dtype] = []

    def see(model: nn.Module, inputs: Any, logits: Tensor) -> None:
        if model is not task.model:
            seen.append(logits.dtype)

    def fresh(build: Any = task.fresh) -> nn.Module:
        model: nn.Module = build()
        model.register_forward_hook(see)
        return model

    task.runtime, task.fresh = Runtime(precision), fresh
    task.model.register_forward_hook(see)
    unlearn(task, name, {"epochs": 1, "batch_size": 32})
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}


def test_a_teachers_logits_are_float32_and_take_no_gradient(task: Task) -> None:
    task.runtime = Runtime("bf16")
    logits = task.logits(next(task.forget.batches(4)).x, task.frozen())
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
