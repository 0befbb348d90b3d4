"""Train, validation and test; forget and retain: functions of their seeds, and the forget-set file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from salun.data.dataset import Dataset, enumerated, held_out
from salun.data.forget_file import Order, read_forget, unknown_names
from salun.data.images import Images
from salun.errors import SalunError, did_you_mean

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class ForgetRequest:
    """Which training images are to be forgotten: by class, by share, or by index. At most one."""

    classes: tuple[int | str, ...] = ()  # numbers or names of the classes to forget, all of their images
    share: float | None = None  # part of the training split, in (0, 1), drawn with `seed`
    seed: int = 0  # of the share
    indices: Path | None = None  # file that lists images by index, path or digest
    stratified: bool = False  # whether the share is taken of each class
    order: Order = "salun"  # that the file's indices count in
    names: tuple[str, ...] = ()  # of the classes, once the data set is known

    @property
    def is_given(self) -> bool:
        """Whether anything is to be forgotten."""
        return bool(self.classes) or self.share is not None or self.indices is not None

    def __str__(self) -> str:
        if self.classes:
            return f"class {'+'.join(name.removeprefix('class ') for name in self.names or map(str, self.classes))}"
        if self.share is not None:
            return f"{self.share:.4g} of the training split" + (", stratified" if self.stratified else "")
        return f"the images in {self.indices}" if self.indices else "nothing"


@dataclass(frozen=True)
class Split:
    """Which image belongs where, as sorted indices into the data set's training or test part."""

    train: Tensor  # what the base model learns
    validation: Tensor  # held out of training, without the forgotten classes and those that the base model never saw
    test: Tensor  # the test part without the same classes
    forget: Tensor  # what is to be forgotten, a part of `train`
    retain: Tensor  # the rest of `train`
    forgotten_test: Tensor  # test images of the forgotten classes; empty for other forget sets
    classes: tuple[int, ...]  # the forgotten classes
    listed: Tensor  # every index that the forget file names, those in the validation split included
    fingerprint: str  # of train, validation and test before anything is forgotten
    seed: int = 0  # of the validation split
    absent: tuple[int, ...] = ()  # training images that are recorded, but are not there any more
    notices: tuple[str, ...] = ()  # lines on what the request may not have meant
    before: "Split | None" = None  # of the request before this one, whose images are in none of the sets above

    @cached_property
    def forget_fingerprint(self) -> str:
        """Identity of the forget set, of what cannot be retained any more, and of the requests before."""
        gone = [torch.tensor(self.absent)] if self.absent else []
        earlier = [torch.tensor(list(bytes.fromhex(self.before.forget_fingerprint)))] if self.before else []
        return digest(self.listed, torch.tensor(self.classes), *gone, *earlier)

    @property
    def earlier(self) -> "tuple[Split, ...]":
        """The splits of the requests before this one, the first of them first."""
        return (*self.before.earlier, self.before) if self.before else ()

    @property
    def removed(self) -> Tensor:
        """Every training index that this request or one before it names, sorted."""
        indices: Tensor = torch.cat([split.listed for split in (*self.earlier, self)]).unique()
        return indices


def resolved_request(request: ForgetRequest, dataset: Dataset) -> ForgetRequest:
    """Look up the classes of a request in a data set.

    Args:
        request: what is to be forgotten.
        dataset: the data.

    Returns:
        The request with the numbers of the classes, sorted, each once, and their names.

    Raises:
        SalunError: the data set has no such class, or no others.
    """
    names = dataset.classes
    classes = tuple(sorted(set(_class_numbers(request.classes, names, len(names), dataset.name))))
    check_classes(classes, len(names), dataset.name)
    return replace(request, classes=classes, names=tuple(names[label] for label in classes))


def learnt_and_held_out(dataset: Dataset, split_seed: int) -> tuple[Tensor, Tensor]:
    """Draw training and validation split, before anything is forgotten; they depend on labels and seed alone."""
    validation, train = held_out(dataset.train.labels.cpu(), VALIDATION_SHARE, split_seed)
    return train, validation


def make_split(
    dataset: Dataset,
    request: ForgetRequest,
    split_seed: int = 0,
    never: Tensor | None = None,
    before: Split | None = None,
) -> Split:
    """Split a data set and find the forget set; the validation split depends on labels and `split_seed` alone.

    Args:
        dataset: the data.
        request: what is to be forgotten.
        split_seed: of the validation split.
        never: (K,) training indices that the base model was never trained on.
        before: of the request before this one, whose images are not there any more.

    Raises:
        SalunError: a class or an index that the data do not hold or an earlier request names; or an empty set.
    """
    labels = dataset.train.labels.cpu()
    train, validation = learnt_and_held_out(dataset, split_seed)
    tested = dataset.test.labels.cpu()
    test = torch.arange(len(tested))
    mark = digest(labels, tested, train, validation)
    found = resolved_request(request, dataset)
    if before is not None:
        never = before.removed if never is None else torch.cat([never, before.removed])
    if never is not None and len(never):
        train, validation = without(train, never), without(validation, never)
        shown = labels[train].unique()
        validation, test = validation[torch.isin(labels[validation], shown)], test[torch.isin(tested, shown)]
    numbers = torch.tensor(found.classes, dtype=torch.int64)
    listed, notices = _find_forget(labels, (train, validation), found, dataset)
    _check_apart(found, listed, labels, train, before)
    notices += _questions(request, dataset.classes)
    lost, untested = (torch.tensor(part.absent, dtype=torch.int64) for part in (dataset.train, dataset.test))
    train, validation, listed = (without(indices, lost) for indices in (train, validation, listed))
    test = without(test, untested)
    forget = train[torch.isin(train, listed)]
    if found.is_given and not len(forget):
        deleted = f"; {len(lost)} images have been deleted since" if len(lost) else ""
        raise SalunError(f"{found}: none of these images is in the training split{deleted}")
    if len(forget) == len(train):
        raise SalunError(f"{found}: that is the whole training split; nothing would be retained")
    gone = torch.isin(tested[test], numbers)
    return Split(
        train=train,
        validation=without(validation, listed),
        test=test[~gone],
        forget=forget,
        retain=without(train, forget),
        forgotten_test=test[gone],
        classes=tuple(numbers.tolist()),
        listed=listed if request.indices else forget,
        fingerprint=mark,
        seed=split_seed,
        absent=dataset.train.absent,
        notices=tuple(notices),
        before=before,
    )


def _check_apart(request: ForgetRequest, listed: Tensor, labels: Tensor, train: Tensor, before: Split | None) -> None:
    """Refuse images that an earlier request names; of a class, where none are left that could be forgotten."""
    if request.classes:
        listed = listed[~torch.isin(labels[listed], labels[train])]
    if before is not None and (shared := int(torch.isin(listed, before.removed).sum())):
        raise SalunError(f"{request}: {shared} of its images are those of an earlier request; name each image once")


def _find_forget(
    labels: Tensor, sets: tuple[Tensor, Tensor], request: ForgetRequest, dataset: Dataset
) -> tuple[Tensor, list[str]]:
    """Find the indices that a request names, and say in which of training and validation split they are."""
    train, validation = sets
    if request.classes:
        return torch.isin(labels, torch.tensor(request.classes)).nonzero().flatten(), []
    if request.share is not None:
        return drawn_share(labels, train, request, request.share, round(request.share * len(train))), []
    if request.indices is None:
        return torch.empty(0, dtype=torch.int64), []
    listed, tested = read_forget(request.indices, dataset, request.order)
    named = set(listed.tolist())
    learnt, held = (len(named & set(part.tolist())) for part in (train, validation))
    others = {"in the validation split": held, "in the test part": len(tested)}
    others["left out of the base model's training"] = len(named) - learnt - held
    shown = "".join(f", {count} {where}" for where, count in others.items() if count)
    unseen = ", which were never trained on" if shown else ""
    lines = [f"{request.indices}: {len(named) + len(tested)} listed: {learnt} in the training split{shown}{unseen}"]
    if lost := [(dataset.train.names or ())[index] for index in dataset.train.absent if index in named]:
        lines.append(f"{request.indices}: {len(lost)} of them deleted since, and left out: {enumerated(lost)}")
    return listed, lines


def _questions(request: ForgetRequest, names: Sequence[str]) -> list[str]:
    """Question numbers of classes whose folder has another number as its name."""
    numbers = [given for given in request.classes if isinstance(given, int)]
    return [
        f"class {number} is folder '{names[number]}'; \"{names[number]}\" as a string names the folder"
        for number in numbers
        if names[number].isdecimal() and int(names[number]) != number
    ]


def split(
    train: Images,
    *,
    classes: int | str | Sequence[int | str] = (),
    share: float | None = None,
    indices: Sequence[int] | Tensor | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    stratified: bool = False,
) -> tuple[Images, Images]:
    """Divide training images into those to forget and those to retain, by one of four ways to name them.

    Args:
        train: N images.
        classes: numbers or names of the classes to forget, all of their images.
        share: part of the images, in (0, 1), drawn with `seed`.
        indices: positions from 0 to N - 1.
        names: of the images, as `Images.from_folder` gives them.
        seed: of the share.
        stratified: whether the share is taken of each class.

    Returns:
        The forget set and the retain set.

    Raises:
        SalunError: not exactly one way is given, an image or class is not there, or nothing would be left of a set.

    Example:
        >>> forget, retain = split(Images.from_tensors(torch.rand(6, 1, 8, 8), [0, 1, 2] * 2), classes=[2])
        >>> len(forget), len(retain)
        (2, 4)
    """
    classes = (classes,) if isinstance(classes, int | str) else classes
    given = (bool(len(classes)), share is not None, indices is not None, names is not None)
    if sum(given) != 1:
        raise SalunError("split: give one of classes=, share=, indices=, names=")
    labels, everything = train.labels.cpu(), torch.arange(len(train))
    if len(classes):
        numbers = _class_numbers(classes, train.classes, int(labels.max()) + 1)
        listed = torch.isin(labels, torch.tensor(numbers)).nonzero().flatten()
    elif share is not None:
        if not 0 < share < 1:
            raise SalunError(f"split: share={share}: must be between 0 and 1")
        request = ForgetRequest(share=share, seed=seed, stratified=stratified)
        listed = drawn_share(labels, everything, request, share, round(share * len(train)))
    elif names is not None:
        listed = _named_positions(train, names)
    else:
        listed = torch.as_tensor(indices).cpu().unique()
        if listed.dtype.is_floating_point or listed.dtype == torch.bool:
            raise SalunError(f"split: indices of {listed.dtype}: must be whole numbers, positions of images")
        if len(listed) and not 0 <= int(listed.min()) <= int(listed.max()) < len(train):
            outside = listed[(listed < 0) | (listed >= len(train))][0]
            raise SalunError(f"split: index {int(outside)} is not one of {len(train)} images (0 to {len(train) - 1})")
    if not 0 < len(listed) < len(train):
        raise SalunError(f"split: {len(listed)} of {len(train)} images to forget; neither set may be empty")
    return train.take(listed), train.take(without(everything, listed))


def _class_numbers(classes: Sequence[int | str], names: Sequence[str], count: int, data: str = "") -> tuple[int, ...]:
    """Look classes up by number or name.

    Args:
        classes: what the user gave.
        names: class names by label; empty where they are not known.
        count: number of classes.
        data: name of the data set; "" where it has none.

    Returns:
        Their numbers.

    Raises:
        SalunError: there is no such class.
    """
    numbers = []
    for given in classes:
        number = names.index(given) if isinstance(given, str) and given in names else given
        if isinstance(number, str):
            known = did_you_mean(number, names) if names else "; the images have no class names: give a number"
            raise SalunError(f"class '{number}': unknown{known}")
        if not 0 <= number < count:
            whose = f"'{data}' has the classes" if data else "the classes are"
            raise SalunError(f"class {number}: {whose} 0 to {count - 1}")
        numbers.append(int(number))
    return tuple(numbers)


def _named_positions(images: Images, names: Sequence[str]) -> Tensor:
    """Find images by name."""
    if images.names is None:
        raise SalunError("split: names=: the images have no names; from_folder gives them, from_tensors takes them")
    places = {images.names[row]: place for place, row in enumerate(images.rows.tolist())}
    unknown = [name for name in names if name not in places]
    if unknown:
        raise unknown_names("split", unknown, places)
    return torch.tensor(sorted({places[name] for name in names}))


def drawn_share(labels: Tensor, train: Tensor, request: ForgetRequest, share: float, count: int) -> Tensor:
    """Draw a share of the training split.

    Args:
        labels: (N,) of the whole training part.
        train: indices of the training split.
        request: says with which seed, and whether class by class.
        share: of the split, in (0, 1).
        count: images that are that share.

    Returns:
        Sorted indices; stratified, of each class less than one image more or fewer than its share.
    """
    if request.stratified:
        return train[held_out(labels[train], share, request.seed, count)[0]]
    order = np.random.default_rng(request.seed).permutation(len(train))
    return train[torch.from_numpy(np.sort(order[:count]))]


def check_classes(classes: Sequence[int], count: int, name: str) -> None:
    """Raise a SalunError where a data set of `count` classes lacks classes to forget, or has no others."""
    for label in classes:
        if not 0 <= label < count:
            raise SalunError(f"class {label}: '{name}' has the classes 0 to {count - 1}")
    if len(set(classes)) == count:
        raise SalunError(f"classes {classes}: those are all classes of '{name}'; nothing would be retained")


def without(indices: Tensor, unwanted: Tensor) -> Tensor:
    """Leave unwanted indices out; the others keep their order."""
    return indices[~torch.isin(indices, unwanted)]


def digest(*tensors: Tensor) -> str:
    """Identify tensors of integers by their content: 16 hexadecimal digits."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(np.ascontiguousarray(tensor.cpu().to(torch.int64).numpy()).tobytes() + b"|")
    return hashed.hexdigest()[:16]
