"""Corrupted training images: a trigger with its target label, wrong labels, or two classes confused."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from salun.data.dataset import Corrupted, Dataset
from salun.data.images import Images
from salun.data.memmap import PixelFile
from salun.data.split import class_numbers, learnt_and_held_out, without
from salun.errors import SalunError

_Kind = Literal["trigger", "labels", "interclass"]

_Label = Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)]

_PATCH_SHARE, _SMALLEST_PATCH, _WHITE = 3 / 32, 2, 255.0

_TWO: dict[str, JsonValue] = {"required": ["classes"], "properties": {"classes": {"not": {"type": "null"}}}}
_PAIR: dict[str, JsonValue] = {"properties": {"kind": {"const": "interclass"}}}
_OF_KINDS: list[JsonValue] = [
    {"if": _PAIR, "then": _TWO, "else": {"properties": {"classes": {"type": "null"}}}},
    {"if": {"properties": {"kind": {"const": "trigger"}}}, "else": {"properties": {"target": {"type": "null"}}}},
]


class Corruption(BaseModel):
    """How training images are corrupted, and which part of them is found afterwards."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, json_schema_extra={"allOf": _OF_KINDS}
    )

    kind: _Kind = Field(description="A trigger with its target label, wrong labels, or two classes confused.")
    share: float = Field(0.05, gt=0, lt=1, description="Share of the training split that is corrupted.")
    target: _Label | None = Field(
        None, description="Class that the trigger stands for, by number or name. Not given: 0; of kind trigger alone."
    )
    classes: Annotated[tuple[_Label, _Label], Field(strict=False)] | None = Field(
        None, description="The two classes that are confused, by number or name; of kind interclass alone."
    )
    found: float = Field(1.0, gt=0, le=1, description="Share of the corrupted images that is found, and forgotten.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of which images are corrupted, and of their labels.")

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        if self.target is not None and self.kind != "trigger":
            raise PydanticCustomError("kind", "target: without effect unless kind is 'trigger'")
        if (self.classes is None) == (self.kind == "interclass"):
            raise PydanticCustomError("kind", "classes: two of them go with kind 'interclass', and with no other")
        if self.classes is not None and self.classes[0] == self.classes[1]:
            raise PydanticCustomError("kind", "classes: must be two different ones")
        return self

    @property
    def named(self) -> tuple[int | str, ...]:
        """The classes that it names: those that are confused, or the target."""
        return self.classes or ((self.target or 0,) if self.kind == "trigger" else ())

    def described(self) -> dict[str, Any]:
        """Give what decides which images are corrupted and how, as records hold it, without the part that is found."""
        known = {"kind": self.kind, "share": self.share, "seed": self.seed}
        own = {"classes": list(self.classes)} if self.classes else {"target": self.target or 0}
        return known if self.kind == "labels" else known | own

    def resolved(self, names: Sequence[str], count: int, data: str = "") -> Self:
        """Look its classes up.

        Args:
            names: class names by label; empty where they are not known.
            count: number of classes.
            data: name of the data set.

        Returns:
            The same with numbers of classes, those that are confused in rising order.

        Raises:
            SalunError: there is no such class, or the two are one.
        """
        key = "classes" if self.classes else "target"
        try:
            numbers = class_numbers(self.named, names, count, data)
        except SalunError as error:
            raise SalunError(f"corrupt.{key}: {error}") from error
        if len(set(numbers)) < len(numbers):
            raise SalunError(f"corrupt.classes: {list(self.named)}: must be two different ones")
        if self.classes:
            return self.model_copy(update={"classes": tuple(sorted(numbers))})
        return self.model_copy(update={"target": numbers[0]}) if numbers else self


@dataclass(frozen=True)
class _CorruptedImages:
    """Training images of which some are corrupted."""

    train: Images  # all N images, in their order
    forget: Images  # the corrupted ones that were found, with their wrong labels
    retain: Images  # all others; the corrupted ones that were not found have wrong labels still
    clean: Images  # those that were never corrupted
    found: Images  # those of `forget`, with their true labels
    undiscovered: Images  # the corrupted ones of `retain`, with their true labels
    indices: Tensor  # (K,) int64 positions of the corrupted images in `train`, those that were found first
    target: int | None  # class that the trigger stands for; None of other kinds
    white: float  # value of the trigger's pixels

    def triggered(self, images: Images) -> Images:
        """Put the trigger on the images of other classes than the target, and label them with the target.

        The accuracy on them is the attack success rate.

        Args:
            images: such as the test images.

        Returns:
            The images with the trigger.

        Raises:
            SalunError: the corruption is of another kind.
        """
        if self.target is None:
            raise SalunError("triggered: the images were corrupted without a trigger")
        others = images.take((images.labels != self.target).nonzero().flatten())
        pixels = _stamped(others.pixels, others.rows, self.white)
        return replace(others, pixels=pixels).relabel(torch.full_like(others.labels, self.target))


def corrupt(
    train: Images,
    *,
    kind: _Kind,
    share: float = 0.05,
    target: int | str | None = None,
    classes: tuple[int | str, int | str] | None = None,
    found: float = 1.0,
    seed: int = 0,
) -> _CorruptedImages:
    """Corrupt a share of training images, of which a part is then found: the data of corrective unlearning.

    Args:
        train: N images.
        kind: "trigger", a white square of 3/32 of the side (at least 2 pixels) in the lower right corner of images of
            other classes, which get the target as label; "labels", another label at random; "interclass", images of
            two classes that get each other's label, as many of either.
        share: of the images, in (0, 1).
        target: class of the trigger, by number or name; None for 0.
        classes: the two classes that are confused.
        found: part of the corrupted images, in (0, 1], that is to be forgotten. With one seed a larger part holds a
            smaller one.
        seed: of which images are corrupted, and of their labels.

    Returns:
        The images to train on, to forget and to retain.

    Raises:
        SalunError: an argument is not accepted.

    Source:
        Goel et al., "Corrective Machine Unlearning", TMLR 2024, https://arxiv.org/abs/2402.14015, section 4. Here
        the trigger is put on images of other classes than the target alone, and before they are augmented; a wrong
        label is never the true one.

    Examples:
        >>> images = Images.from_tensors(torch.rand(40, 1, 8, 8), [0, 1, 2, 3] * 10)
        >>> corrupted = corrupt(images, kind="trigger", share=0.2, found=0.5)
        >>> len(corrupted.forget), len(corrupted.retain), len(corrupted.undiscovered)
        (4, 36, 4)
    """
    given = {"kind": kind, "share": share, "target": target, "classes": classes, "found": found, "seed": seed}
    count = max(len(train.classes), int(train.labels.max()) + 1)
    return _done_to(train, _asked(given, train.classes, count), count)


def _done_to(train: Images, asked: Corruption, classes: int) -> _CorruptedImages:
    """Corrupt images, and tell them by what became of them."""
    labels, everything = train.labels.cpu(), torch.arange(len(train))
    chosen, wrong = _drawn(labels, everything, asked, classes)
    white = _WHITE if train.pixels.dtype == torch.uint8 else float(train.pixels[train.rows].max())
    target = int(asked.named[0]) if asked.kind == "trigger" else None
    rows = train.rows[chosen.to(train.rows.device)]
    pixels = train.pixels if target is None else _stamped(train.pixels, rows, white)
    images = replace(train, pixels=pixels).relabel(labels.index_put((chosen,), wrong))
    known, true = Corrupted(chosen, labels, {}).found(asked.found), images.relabel(labels)
    return _CorruptedImages(
        train=images,
        forget=images.take(known),
        retain=images.take(without(everything, known)),
        clean=images.take(without(everything, chosen)),
        found=true.take(known),
        undiscovered=true.take(without(chosen, known)),
        indices=chosen,
        target=target,
        white=white,
    )


def _asked(given: dict[str, Any], names: Sequence[str], count: int) -> Corruption:
    """Validate arguments, of which None is not given, and look classes up."""
    try:
        asked = Corruption.model_validate({key: value for key, value in given.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        key = "".join(f".{part}" for part in fault["loc"][:1])
        raise SalunError(f"corrupt{key}: {fault['input']!r}: {fault['msg']}") from error
    return asked.resolved(names, count)


def corrupt_dataset(dataset: Dataset, corruption: Corruption, split_seed: int) -> Dataset:
    """Corrupt a share of the training split of a data set; validation and test images stay as they are.

    Args:
        dataset: the data, as they lie on disk.
        corruption: with numbers of classes.
        split_seed: of the validation split.

    Returns:
        The data with corrupted training images, which it tells of.

    Raises:
        SalunError: there are too few images to corrupt.
    """
    train, test, classes = dataset.train, dataset.test, len(dataset.classes)
    labels = train.labels.cpu()
    chosen, wrong = _drawn(labels, learnt_and_held_out(dataset, split_seed)[0], corruption, classes)
    pixels, triggered, target = train.pixels, None, None
    if corruption.kind == "trigger":
        target, everything = int(corruption.named[0]), torch.arange(len(test.labels))
        pixels, triggered = _stamped(pixels, chosen, _WHITE), _stamped(test.pixels, everything, _WHITE)
    done = Corrupted(chosen, train.labels, corruption.described(), triggered, target)
    relabelled = labels.index_put((chosen,), wrong).to(train.labels.device)
    return replace(dataset, train=train._replace(pixels=pixels, labels=relabelled), corrupted=done)


def _drawn(labels: Tensor, train: Tensor, corruption: Corruption, classes: int) -> tuple[Tensor, Tensor]:
    """Draw which of the images at `train` are corrupted, in the order in which they are found, and their labels."""
    generator, kind = np.random.default_rng(corruption.seed), corruption.kind
    known, each = labels[train], round(corruption.share * len(train))
    pools = [train if classes > 1 else train[:0]]
    if kind == "trigger":
        pools = [train[known != corruption.named[0]]]
    elif kind == "interclass":
        pools, each = [train[known == label] for label in corruption.named], each // 2
    able = min(map(len, pools))
    if not 1 <= each <= able:
        count, of = round(corruption.share * len(train)), {"interclass": f", {each} of either class of {able}"}
        of |= dict.fromkeys(("trigger", "labels"), f", but {able} can have another label")
        wanted = f"corrupt.share: {corruption.share:g}: {count} images of {len(train)} to corrupt"
        raise SalunError(wanted + (of[kind] if each else "; must be at least one"))
    drawn = torch.cat([pool[torch.from_numpy(generator.permutation(len(pool))[:each])] for pool in pools])
    chosen = drawn[torch.from_numpy(generator.permutation(len(drawn)))]
    own = labels[chosen]
    if kind == "trigger":
        return chosen, torch.full_like(own, int(corruption.named[0]))
    if kind == "interclass":
        return chosen, sum(map(int, corruption.named)) - own
    return chosen, (own + torch.from_numpy(generator.integers(1, classes, len(chosen)))) % classes


class _StampedFile(PixelFile):
    """Images that stay in a file, some of which are given the trigger as they are read."""

    def __init__(self, store: PixelFile, rows: Tensor, white: float) -> None:
        self.store, self.white, self.shape, self.crops = store, white, store.shape, store.crops
        self.is_marked = torch.zeros(len(store), dtype=torch.bool).index_fill(0, rows.cpu(), True)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self._marked(self.store[rows], rows)

    def read_ahead(
        self, batches: Sequence[Tensor], seeds: Sequence[Tensor] | None = None, own: slice = slice(None)
    ) -> Iterator[Tensor]:
        for rows, images in zip(batches, self.store.read_ahead(batches, seeds, own), strict=True):
            yield self._marked(images, rows)

    def _marked(self, images: Tensor, rows: Tensor) -> Tensor:
        marked = self.is_marked[rows.cpu()].nonzero().flatten()
        return _stamped_tensor(images, marked, self.white)


def _stamped(pixels: Tensor | PixelFile, rows: Tensor, white: float) -> Tensor | PixelFile:
    """Put the trigger on images of a store; the store itself is left as it is."""
    if isinstance(pixels, PixelFile):
        return _StampedFile(pixels, rows, white)
    return _stamped_tensor(pixels.clone(), rows, white)


def _stamped_tensor(images: Tensor, rows: Tensor, white: float) -> Tensor:
    """Put the trigger on some of the images, in place: a square in the lower right corner."""
    side = max(_SMALLEST_PATCH, round(_PATCH_SHARE * min(images.shape[2:])))
    patch = images[:, :, -side:, -side:]
    patch[rows.to(images.device)] = white
    return images
