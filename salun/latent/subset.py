"""Which images a comparison is made on: the notebook's subset, and what was forgotten beside the rest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split, without
from salun.latent.extraction import Model, Sample, Subset, forgotten_classes

NOTEBOOK_COUNT = 2000
_NOTEBOOK_SEED = 2048


def notebook_subset(labels: Tensor, classes: int, count: int = NOTEBOOK_COUNT, seed: int = _NOTEBOOK_SEED) -> Tensor:
    """Draw images, equally many of each class, as the notebook does: one permutation a class, in turn.

    Args:
        labels: (N,) int64.
        classes: how many there are.
        count: images in all, at most.
        seed: of the permutations.

    Returns:
        (classes * n,) int64 positions, class by class; n is count // classes, at least 1, at most the smallest class's
        number of images. A class without images has no part.
    """
    generator = torch.Generator().manual_seed(seed)
    members = [(labels.cpu() == label).nonzero().flatten() for label in range(classes)]
    each = min([max(1, count // classes), *(len(found) for found in members if len(found))])
    drawn = [found[torch.randperm(len(found), generator=generator)[:each]] for found in members]
    return torch.cat(drawn)


@dataclass(frozen=True)
class Side:
    """Images, in index order, of the training split or the test part: what was to be forgotten, or the rest."""

    part: Subset
    forgotten: bool
    sample: Sample

    def first(self, count: int) -> "Side":
        """Keep the first images, so many at most."""
        return replace(self, sample=replace(self.sample, indices=self.sample.indices[:count]))


def four_sides(dataset: Dataset, model: Model) -> Iterator[Side]:
    """Part a data set by what a model was to forget; of the test part by the classes that it was to forget whole.

    Yields:
        Forgotten and other training images, forgotten and other test images; each may be empty.
    """
    seed = model.spec.split_seed
    split = make_split(dataset, ForgetRequest(), seed)
    listed = torch.tensor(model.excluded, dtype=torch.int64)
    classes = forgotten_classes(dataset, listed, seed)
    gone = {
        "train": split.train[torch.isin(split.train, listed)],
        "test": split.test[torch.isin(dataset.test.labels.cpu()[split.test], classes)],
    }
    sets: tuple[tuple[Subset, Tensor], ...] = (("train", split.train), ("test", split.test))
    for part, whole in sets:
        yield Side(part, True, Sample(dataset, gone[part], part, listed))
        yield Side(part, False, Sample(dataset, without(whole, gone[part]), part, listed))
