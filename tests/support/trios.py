"""Checkpoints of a base model, of what was unlearned from it, and of what was retrained, untrained all."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from salun.data.dataset import Dataset
from salun.data.sets import prepare
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.experiments.base_model import checkpoint_config, saved_spec, weights_identity
from salun.experiments.record import run_id
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from salun.training.recipe import Recipe

NAME = "synthetic:n=240,size=8,classes=4"
RECIPE = Recipe(epochs=1, lr=0.1, batch_size=32, schedule="cosine")


@lru_cache
def pictures(name: str = NAME) -> Dataset:
    return load(name)


CLASS_1 = ForgetRequest(classes=(1,))


def forget_of(request: ForgetRequest = CLASS_1, name: str = NAME) -> tuple[int, ...]:
    return tuple(make_split(pictures(name), request).forget.tolist())


def put(
    place: str, seed: int = 0, excluded: tuple[int, ...] = (), name: str = NAME, split_seed: int = 0, **config: Any
) -> Path:
    """Write a model of the weights that a seed gives; `config` is added to what a checkpoint records."""
    dataset = pictures(name)
    torch.manual_seed(seed)
    architecture = Architecture(config.pop("model", "resnet_tiny"), len(dataset.classes), 3, dataset.size)
    network = build(architecture)
    split = make_split(dataset, ForgetRequest(), split_seed)
    described = checkpoint_config(
        architecture.model, dataset, config.pop("recipe", RECIPE), prepare(dataset, split), split
    )
    path = Path(place)
    weights = dict(network.state_dict())
    save_checkpoint(path, Checkpoint(weights, architecture, name, None, described | config, excluded))
    return path


def identity(path: Path, by_weights: bool = False) -> str:
    """What a run records of its base model."""
    return weights_identity(load_checkpoint(path)) if by_weights else saved_spec(path).identity


def run(method: str = "rl", seed: int = 0, base: str | None = None, **more: Any) -> dict[str, Any]:
    """What the checkpoint of a run records of it."""
    known = {
        "base": {"identity": base},
        "forget": {"request": "class 1", "classes": [1]},
        "method": method,
        "settings": {"epochs": 3, "lr": 0.05, "batch_size": 64},
        "mask": None,
    }
    settings = known | more
    number = run_id(settings, seed) if method == "retrain" else f"{method}{seed}".encode().hex().ljust(16, "0")[:16]
    return {"id": number, "seed": seed} | settings


def put_trio(folder: str = "checkpoints") -> dict[str, Path]:
    """Write a base model, one that was to forget class 1, and one that was retrained without it."""
    base = put(f"{folder}/base.pt")
    forget = forget_of()
    name = identity(base)
    return {
        "base": base,
        "unlearned": put(f"{folder}/study/rl.pt", 1, forget, unlearned=run("rl", 0, name)),
        "retrained": put(f"{folder}/study/retrain.pt", 2, forget, unlearned=run("retrain", 0, name)),
    }
