from typing import Any

import pytest
import torch
from torch import Tensor, nn

from salun.data.sets import Sets
from salun.experiments.schema import validate
from salun.models.checkpoint import Checkpoint
from salun.unlearning import Task, find_method, unlearn

CPU = torch.device("cpu")


def before_training(task: Task, name: str, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """Run a method up to the point where it begins to train."""
    kept = [id(weight) for weight in task.model.parameters()]
    seen: list[Tensor] = []

    def record(stream: Any, **rest: Any) -> None:
        seen.extend(batch.y for batch in stream(0))

    monkeypatch.setattr(task, "fit", record)
    find_method(name).run(task)
    assert kept == [id(weight) for weight in task.model.parameters()]
    labels = torch.cat(seen)
    assert len(labels) == len(task.retain)
    assert 0 not in labels
    return task.model


def test_negate_turns_the_first_convolution_alone(
    task: Task, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = before_training(task, "negate", monkeypatch)
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    for name, before in trained.restore().named_parameters():
        after = model.get_parameter(name)
        assert torch.equal(after, -before if name == f"{first}.weight" else before), name


def test_negate_turns_the_first_layer_of_a_model_without_convolutions(
    task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    task.model = nn.Sequential(nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 10))
    before = [weight.detach().clone() for weight in task.model.parameters()]
    before_training(task, "negate", monkeypatch)
    signs = [-1 if torch.equal(w, -b) else 1 for w, b in zip(task.model.parameters(), before, strict=True)]
    assert [place for place, sign in enumerate(signs) if sign < 0 and bool(before[place].any())] == [2]


def test_negate_is_called_not_in_json() -> None:
    entries = [{"method": "not", "dataset": "digits", "class_to_forget": 0, "lr": 0.02}]
    found = validate(entries, "command line")[0]
    assert (found.method, found.settings["lr"]) == ("negate", 0.02)
    assert find_method("not") is find_method("negate")


@torch.no_grad()
def test_ct_sees_transposed_images_as_the_base_model_saw_them_upright(
    task: Task, sets: Sets, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = next(iter(sets.test.batches(64))).x
    base = trained.restore().eval()
    model = before_training(task, "ct", monkeypatch).eval()
    assert torch.allclose(model(x.transpose(2, 3)), base(x), atol=1e-4)
    assert not torch.allclose(model(x), base(x), atol=0.1)


def test_ct_leaves_kernels_that_are_not_square(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    task.model = nn.Sequential(nn.Conv2d(1, 2, (1, 3)), nn.Conv2d(2, 2, 3))
    long, square = (layer.weight.detach().clone() for layer in task.model)
    before_training(task, "ct", monkeypatch)
    assert torch.equal(task.model[0].weight, long)
    assert torch.equal(task.model[1].weight, square.transpose(2, 3))


@pytest.mark.parametrize("name", ["negate", "ct", "msg", "eu_k"])
def test_no_image_sees_an_edited_weight_that_a_mask_holds(name: str, trained: Checkpoint, task: Task) -> None:
    nothing = {key: torch.zeros_like(weight, dtype=torch.bool) for key, weight in task.model.named_parameters()}
    seen: list[bool] = []

    def compare(model: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        seen.append(all(torch.equal(w, trained.weights[key]) for key, w in model.named_parameters()))

    task.model.register_forward_pre_hook(compare)
    unlearn(task, name, {"epochs": 1, "batch_size": 256, "lr": 0.1}, nothing)
    assert seen
    assert all(seen)
