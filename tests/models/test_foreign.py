"""Weights of other programs, in the forms in which those write them."""

import argparse
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from salun.errors import SalunError
from salun.models.checkpoint import load_checkpoint
from salun.models.foreign import fit_weights, read_foreign

Weights = dict[str, Tensor]


def network(classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(72, classes))


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def official(weights: Weights) -> dict[str, Any]:
    normalize = {"normalize.mean": torch.tensor([0.1, 0.2, 0.3]), "normalize.std": torch.ones(3)}
    return {"state_dict": normalize | weights, "epoch": 3, "best_sa": np.float64(93.2), "result": {"SA": [1.0]}}


def without_counters(weights: Weights) -> Weights:
    return {name: tensor for name, tensor in weights.items() if "num_batches" not in name}


FORMS: dict[str, Callable[[Weights], Any]] = {
    "a state_dict": lambda weights: weights,
    "DataParallel": lambda weights: {"net": prefixed(weights, "module."), "acc": 93.1, "epoch": 3},
    "compiled": lambda weights: {"model_state_dict": prefixed(weights, "_orig_mod.")},
    "Lightning": lambda weights: {
        "state_dict": prefixed(weights, "model._orig_mod.") | {"loss.weight": torch.ones(4)},
        "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.1", "global_step": 7,
    },
    "a wrapper": lambda weights: prefixed(weights, "backbone."),
    "timm": lambda weights: {"state_dict": weights, "args": argparse.Namespace(lr=0.1), "arch": "resnet18"},
    "the official code": official,
    "before counters of batches": without_counters,
    "half precision": lambda weights: {name: tensor.half() if tensor.is_floating_point() else tensor
                                       for name, tensor in weights.items()},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_model_back(tmp_path: Path, form: str) -> None:
    model, path = network(), tmp_path / "weights.pth"
    torch.save(FORMS[form](model.state_dict()), path)
    found = fit_weights(path, read_foreign(path), network())
    exact = 1e-3 if form == "half precision" else 0
    assert list(found.weights) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.allclose(found.weights[name], tensor, atol=exact, rtol=0), name
        assert found.weights[name].dtype == tensor.dtype
    assert found.mean == (pytest.approx((0.1, 0.2, 0.3)) if form == "the official code" else ())


def test_safetensors_and_moving_averages(tmp_path: Path) -> None:
    model, path = network(), tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    assert torch.equal(read_foreign(path).weights["3.bias"], model.state_dict()["3.bias"])
    torch.save({"state_dict": model.state_dict(), "state_dict_ema": network().state_dict()}, path)
    assert read_foreign(path).holder == "state_dict"
    assert read_foreign(path, averaged=True).holder == "state_dict_ema"
    torch.save(model.state_dict(), path)
    with pytest.raises(SalunError, match="holds no moving average; known are the keys state_dict_ema, model_ema"):
        read_foreign(path, averaged=True)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"epoch": 3, "best": 0.5}, "holds no weights; its keys are epoch, best; known are state_dict"),
        ([1, 2], "holds a list, not the weights of a model"),
        (nn.Sequential(nn.Conv2d(3, 5, 3)).state_dict(), r"'0\.weight' is \(5, 3, 3, 3\), the model's \(2, 3, 3, 3\)$"),
        (network(10).state_dict(), r"'3\.weight' is \(10, 72\), the model's \(4, 72\): a model of 10 classes, not 4"),
        ({"conv.weight": torch.ones(2)}, r"lacks the weight '0\.weight' of the model; it holds 'conv\.weight'"),
        (network().state_dict() | {"fc.bias": torch.ones(2)}, r"holds the weight 'fc\.bias', which the model has not"),
        (network().state_dict() | {"0.bias": torch.full((2,), torch.nan)}, r"'0\.bias' holds .* no numbers"),
        ({"model": {}, "config": {}}, "a checkpoint of salun; every command reads it as it is"),
        (network(), "holds a torch.nn.modules.container.Sequential, whose code would have to run"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line(tmp_path: Path, content: Any, line: str) -> None:
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(SalunError, match=line) as caught:
        fit_weights(path, read_foreign(path), network())
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) == 1


PARALLEL = {f"module.{name}": tensor for name, tensor in network().state_dict().items()}


def test_a_foreign_file_in_the_place_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: save_file(network().state_dict(), path), "a safetensors file; salun-import reads it"),
        (lambda: torch.save(network().state_dict(), path), "salun-import makes one of the weights of other programs$"),
        *(
            (partial(torch.save, content, path), r"of other programs whose names begin with 'module\.'$")
            for content in (PARALLEL, {"state_dict": PARALLEL, "epoch": 3})
        ),
        (lambda: torch.save({"x": 1}, path, _use_new_zipfile_serialization=False), "in the form of torch before 1.6"),
        (lambda: path.write_bytes(pickle.dumps(Path)), "or a plain pickle"),
        (lambda: torch.save(network(), path), "holds a torch.nn.modules.container.Sequential, whose code"),
    ]
    for write, line in cases:
        write()
        with pytest.raises(SalunError, match=line):
            load_checkpoint(path)
