"""The images and models that both sides work on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import torch
from torch import nn

from benchmarks.control import Loaders, Pictures, as_torch_comes, pictures_of, sgd, train_epoch
from benchmarks.items import Bench
from benchmarks.measure import Side, timed
from salun.data.images import Batch, Images
from salun.data.sets import Sets, make_sets, prepare, to_device
from salun.data.sources import load
from salun.data.split import VALIDATION_SHARE, ForgetRequest, make_split
from salun.data.transforms import Preparation
from salun.device import Precision, pick_device, placed, precision_for, seed_globally, seeded, settle_threads
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.training.loop import fit
from salun.training.recipe import TrainingConfig
from salun.training.runtime import Runtime, WeightHold

LR = 0.1
FREE = WeightHold()


def settle(bench: Bench, size: int) -> None:
    """Let the package choose torch's settings, as its commands do.

    Args:
        bench: says where.
        size: side of the images in pixels.
    """
    pick_device(str(bench.device))
    settle_threads(size)


@dataclass(frozen=True)
class Ground:
    """Images of one data set, and fresh models for them.

    Attributes:
        bench: where, and how much, is measured.
        name: of the data set.
        architecture: of the models.
        share: of the images that are forgotten.
    """

    bench: Bench
    name: str
    architecture: Architecture
    share: float = 0.1

    @cached_property
    def prepared(self) -> tuple[Sets, Preparation]:
        """The sets, on the device, and how their pixels become model input."""
        dataset = to_device(load(self.name, self.bench.folder, download=False), self.bench.device)
        parts = make_split(dataset, ForgetRequest(share=self.share))
        preparation = prepare(dataset, parts)
        return make_sets(dataset, parts, preparation, self.bench.device), preparation

    @property
    def sets(self) -> Sets:
        """The sets, on the device."""
        return self.prepared[0]

    def ours(self) -> nn.Module:
        """Build a model as the package trains it.

        Returns:
            The model on the device.
        """
        seed_globally(0)
        return placed(build(self.architecture), self.bench.device)

    def theirs(self) -> nn.Module:
        """Build the same model as the control trains it.

        Returns:
            The model on the device, in NCHW.
        """
        seed_globally(0)
        return build(self.architecture).to(self.bench.device)

    def precision(self) -> Precision:
        """Settle threads and precision as the package does.

        Returns:
            Of forward passes of ours.
        """
        settle(self.bench, self.architecture.size)
        return precision_for("auto", self.bench.device, self.architecture.size)

    def pictures(self, images: Images, training: bool = False) -> Pictures:
        """Make PIL images of some of ours.

        Args:
            images: of this ground.
            training: whether they are cropped and mirrored at random.

        Returns:
            The same images.
        """
        return pictures_of(images, self.prepared[1], training)

    def loaders(self, batch: int) -> Loaders:
        """Load pictures as the control does.

        Args:
            batch: images a step.

        Returns:
            The loaders.
        """
        return Loaders(batch, self.bench.workers, self.bench.device)


def ground_for(bench: Bench, train: int, architecture: Architecture | None = None, share: float = 0.1) -> Ground:
    """Generate images.

    Args:
        bench: where, and how much, is measured.
        train: how many there are to train on.
        architecture: of the models; None for the bench's own.
        share: of the images that are forgotten.

    Returns:
        The ground.
    """
    of = architecture or bench.architecture
    count = max(10 * of.classes, ceil(train / (1 - VALIDATION_SHARE)) + of.classes)
    options = f"n={count},size={of.size},classes={of.classes}"
    return Ground(bench, f"synthetic:{options}", of, share)


def first(images: Images, count: int) -> Images:
    """Take the first images of a set.

    Args:
        images: the set.
        count: how many at most.

    Returns:
        They.
    """
    return images.take(torch.arange(min(count, len(images))))


def our_epochs(
    ground: Ground,
    model: nn.Module,
    batches: Callable[[], Iterable[Batch]],
    epochs: int = 1,
    hold: WeightHold = FREE,
    compiled: bool = False,
    cuda_graphs: bool = False,
) -> None:
    """Train as the package does, with the settings that it chooses.

    Args:
        ground: of the model.
        model: is trained in place.
        batches: of an epoch.
        epochs: how many.
        hold: what a mask holds.
        compiled: whether steps use `torch.compile`.
        cuda_graphs: whether steps are recorded as a CUDA graph.
    """
    runtime = Runtime(ground.precision(), hold=hold, compiled=compiled, cuda_graphs=cuda_graphs)
    fit(model, lambda epoch: batches(), TrainingConfig(LR, epochs), runtime)


def our_epoch(ground: Ground, images: Images, batch: int, epochs: int = 1) -> Side:
    """Make a side that trains for an epoch or more, data and all; the model goes on from where it was.

    Args:
        ground: of the images.
        images: of the epoch.
        batch: images a step.
        epochs: how many, in one training.

    Returns:
        The side.
    """
    model, generator = ground.ours(), seeded(0, ground.bench.device)

    def run() -> None:
        our_epochs(ground, model, lambda: images.batches(batch, generator), epochs)

    return timed(run, ground.bench.device)


def their_epoch(ground: Ground, images: Images, batch: int) -> Side:
    """Make a side that trains for an epoch as the control does.

    Args:
        ground: of the images.
        images: of the epoch.
        batch: images a step.

    Returns:
        The side.
    """
    model, device = ground.theirs(), ground.bench.device
    optimizer, loader = sgd(model), ground.loaders(batch).over(ground.pictures(images, training=True), shuffle=True)

    def epoch() -> None:
        with as_torch_comes(device):
            train_epoch(model, loader, optimizer, device)

    return timed(epoch, device)
