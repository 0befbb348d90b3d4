"""Forgetting problems for tests, and what a mask lets move."""

from collections.abc import Iterable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.images import Images
from salun.data.sets import Sets, make_sets, prepare
from salun.data.split import ForgetRequest, make_split
from salun.models.build import build
from salun.models.checkpoint import Checkpoint
from salun.training.recipe import Recipe
from salun.unlearning import Task
from salun.unlearning.mask import Mask

DEFAULT = Recipe()


def sets_of(dataset: Dataset, request: ForgetRequest, most: int | None = None) -> Sets:
    """The sets of a forgetting problem, of each the first `most` images."""
    split = make_split(dataset, request)
    sets = make_sets(dataset, split, prepare(dataset, split), torch.device("cpu"))
    return sets if most is None else first_of(sets, most)


def first_of(sets: Sets, most: int) -> Sets:
    def first(images: Images) -> Images:
        return images.take(torch.arange(min(most, len(images))))

    return Sets(**{name: first(images) for name, images in vars(sets).items() if isinstance(images, Images)})


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


Model = Task | Checkpoint | nn.Module


def weights_of(model: Model) -> Mapping[str, Tensor]:
    if isinstance(model, Checkpoint):
        return model.weights
    return (model.model if isinstance(model, Task) else model).state_dict()


def same_weights(one: Model, other: Model, names: Iterable[str] | None = None) -> bool:
    """Whether two models have the same values bit for bit, buffers too unless weights are named."""
    first, second = weights_of(one), weights_of(other)
    return all(torch.equal(first[name], second[name]) for name in names or first)


def mask_share(mask: Mask) -> float:
    return sum(int(chosen.sum()) for chosen in mask.values()) / sum(map(torch.numel, mask.values()))
