"""Forgetting problems for tests, and what a mask lets move."""

from functools import partial

import torch

from salun.data.sets import Sets
from salun.models.build import build
from salun.models.checkpoint import Checkpoint
from salun.training.recipe import Recipe
from salun.unlearning import Task
from salun.unlearning.mask import Mask

DEFAULT = Recipe()


def make_task(
    trained: Checkpoint, sets: Sets, forgotten: tuple[int, ...] = (0,), recipe: Recipe = DEFAULT, seed: int = 0
) -> Task:
    return Task(
        model=trained.restore(),
        forget=sets.forget,
        retain=sets.retain,
        validation=sets.validation,
        classes=10,
        forgotten=forgotten,
        recipe=recipe,
        fresh=partial(build, trained.architecture),
        generator=torch.Generator().manual_seed(seed),
    )


def mask_share(mask: Mask) -> float:
    return sum(int(chosen.sum()) for chosen in mask.values()) / sum(map(torch.numel, mask.values()))
