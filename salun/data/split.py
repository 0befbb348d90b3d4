"""Train, validation and test; forget and retain: functions of their seeds, and the forget-set file."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from salun.data.dataset import Dataset, Subset, held_out
from salun.data.forget_file import Order, read_forget, unknown_names
from salun.data.images import Images
from salun.errors import SalunError, did_you_mean, enumerated, whole_number

VALIDATION_SHARE = 0.1
Choice = Literal["random", "memorized", "easy", "worst"]  # how the images of a share are chosen


@dataclass(frozen=True)
class ForgetRequest:
    """Which training images are to be forgotten: by class, share or index, or the corrupted ones. At most one."""

    classes: tuple[int | str, ...] = ()  # numbers or names of the classes to forget, all of their images
    share: float | None = None  # part of the training split, in (0, 1), drawn with `seed`
    seed: int = 0  # of the share
    indices: Path | None = None  # file that lists images by index, path or digest
    stratified: bool = False  # whether the share is taken of each class
    order: Order = "salun"  # that the file's indices count in
    names: tuple[str, ...] = ()  # of the classes or subclasses, once the data set is known
    found: float | None = None  # part of the corrupted images that was found, in (0, 1]
    subclasses: tuple[int | str, ...] = ()  # numbers or names of the subclasses to forget, all of their images
    choice: Choice = "random"  # how the images of the share are chosen

    @property
    def is_given(self) -> bool:
        """Whether anything is to be forgotten."""
        ways = (self.share, self.indices, self.found)
        return bool(self.classes or self.subclasses) or any(way is not None for way in ways)

    @property
    def is_drawn(self) -> bool:
        """Whether another seed gives another forget set."""
        return self.share is not None and self.choice in ("random", "worst")

    def __str__(self) -> str:
        if self.classes or self.subclasses:
            names = self.names or map(str, self.classes or self.subclasses)
            return f"{'' if self.classes else 'sub'}class {'+'.join(name.removeprefix('class ') for name in names)}"
        if self.share is not None:
            how = self.choice if self.choice != "random" else "stratified" if self.stratified else ""
            return f"{self.share:.4g} of the training split" + (f", {how}" if how else "")
        if self.found is not None:
            return "all corrupted images" if self.found == 1 else f"the found {self.found:.4g} of the corrupted images"
        return f"the images in {self.indices}" if self.indices else "nothing"


@dataclass(frozen=True)
class Split:
    """Which image belongs where, as sorted indices into the data set's training or test part."""

    train: Tensor  # what the base model learns
    validation: Tensor  # held out of training, without forgotten (sub)classes and those that the base model never saw
    test: Tensor  # the test part without the same classes
    forget: Tensor  # what is to be forgotten, a part of `train`
    retain: Tensor  # the rest of `train`
    forgotten_test: Tensor  # test images of the forgotten classes or subclasses; empty for other forget sets
    classes: tuple[int, ...]  # the forgotten classes
    listed: Tensor  # every index that the forget file names, those in the validation split included
    fingerprint: str  # of train, validation and test before anything is forgotten
    seed: int = 0  # of the validation split
    absent: tuple[int, ...] = ()  # training images that are recorded, but are not there any more
    notices: tuple[str, ...] = ()  # lines on what the request may not have meant
    undiscovered: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))  # corrupted, in `retain`
    subclasses: tuple[int, ...] = ()  # the forgotten subclasses
    before: "Split | None" = None  # of the request before this one, whose images are in none of the sets above

    @cached_property
    def forget_fingerprint(self) -> str:
        """Identity of the forget set, of what cannot be retained any more, and of the requests before."""
        gone = [torch.tensor(self.absent)] if self.absent else []
        parts = [torch.tensor([-1, *self.subclasses])] if self.subclasses else []
        earlier = [torch.tensor(list(bytes.fromhex(self.before.forget_fingerprint)))] if self.before else []
        return digest(self.listed, torch.tensor(self.classes), *gone, *parts, *earlier)

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
    """Look up the classes or subclasses of a request in a data set.

    Args:
        request: what is to be forgotten.
        dataset: the data.

    Returns:
        The request with the numbers of the classes or subclasses, sorted, each once, and their names.

    Raises:
        SalunError: the data set has no such class or subclass, or no others.
    """
    names, parts = dataset.classes, dataset.subclasses
    classes = tuple(sorted(set(class_numbers(request.classes, names, len(names), dataset.name))))
    check_classes(classes, len(names), dataset.name)
    if request.subclasses:
        check_subclasses(request.subclasses, len(parts), dataset.name)
    numbers = class_numbers(request.subclasses, parts, len(parts), dataset.name, "subclass")
    subclasses = tuple(sorted(set(numbers)))
    found = tuple([names[label] for label in classes] or [parts[number] for number in subclasses])
    return replace(request, classes=classes, subclasses=subclasses, names=found)


def learnt_and_held_out(dataset: Dataset, split_seed: int) -> tuple[Tensor, Tensor]:
    """Draw training and validation split, before anything is forgotten; they depend on labels and seed alone."""
    validation, train = held_out(dataset.true_labels.cpu(), VALIDATION_SHARE, split_seed)
    return train, validation


def make_split(
    dataset: Dataset,
    request: ForgetRequest,
    split_seed: int = 0,
    never: Tensor | None = None,
    chosen: Tensor | None = None,
    before: Split | None = None,
) -> Split:
    """Split a data set and find the forget set; the validation split depends on labels and `split_seed` alone.

    Args:
        dataset: the data.
        request: what is to be forgotten.
        split_seed: of the validation split.
        never: (K,) training indices that the base model was never trained on.
        chosen: (K,) training indices of the share, where it is not drawn at random.
        before: of the request before this one, whose images are not there any more.

    Raises:
        SalunError: a class or an index that the data do not hold or an earlier request names; or an empty set.
    """
    labels, tested = dataset.true_labels.cpu(), dataset.test.labels.cpu()
    train, validation = learnt_and_held_out(dataset, split_seed)
    mark = digest(labels, tested, train, validation)
    found = resolved_request(request, dataset)
    removed = [indices for indices in (never, before.removed if before else None) if indices is not None]
    train, validation, test = _known_parts((labels, tested), train, validation, removed)
    asked, notices = (chosen, []) if chosen is not None else _find_forget((train, validation), found, dataset)
    _check_apart(found, asked, labels, train, before)
    notices += _questions(request, dataset.classes)
    lost, untested = (torch.tensor(part.absent, dtype=torch.int64) for part in (dataset.train, dataset.test))
    train, validation, listed = (without(indices, lost) for indices in (train, validation, asked))
    test = without(test, untested)
    forget = train[torch.isin(train, listed)]
    if found.is_given and not len(forget):
        count = int(torch.isin(asked, lost).sum())
        deleted = f"; {count} of them deleted since: unlearning needs the images" if count else ""
        raise SalunError(f"{found}: none of these images is in the training split{deleted}")
    if len(forget) == len(train):
        raise SalunError(f"{found}: that is the whole training split; nothing would be retained")
    retain = without(train, forget)
    wrong = retain[torch.isin(retain, dataset.corrupted.drawn)] if dataset.corrupted else retain[:0]
    gone = _is_of(dataset.test, found)[test]
    return Split(
        train=train,
        validation=without(validation, listed),
        test=test[~gone],
        forget=forget,
        retain=retain,
        forgotten_test=test[gone],
        classes=tuple(map(int, found.classes)),
        listed=listed if request.indices else forget,
        fingerprint=mark,
        seed=split_seed,
        absent=dataset.train.absent,
        notices=tuple(notices),
        undiscovered=wrong,
        subclasses=tuple(map(int, found.subclasses)),
        before=before,
    )


def _known_parts(
    labels: tuple[Tensor, Tensor], train: Tensor, validation: Tensor, removed: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Leave removed images out of training and validation split, and classes of which none are left; so of the test."""
    known, tested = labels
    test = torch.arange(len(tested))
    if sum(map(len, removed)):
        gone = torch.cat([*removed])
        train, validation = without(train, gone), without(validation, gone)
        shown = known[train].unique()
        validation, test = validation[torch.isin(known[validation], shown)], test[torch.isin(tested, shown)]
    return train, validation, test


def _is_of(part: Subset, request: ForgetRequest) -> Tensor:
    """Tell which images of a part are of the classes or subclasses that a request names: (N,) bool."""
    if request.subclasses and part.fine is not None:
        return torch.isin(part.fine.cpu(), torch.tensor(request.subclasses))
    return torch.isin(part.labels.cpu(), torch.tensor(request.classes, dtype=torch.int64))


def _check_apart(request: ForgetRequest, listed: Tensor, labels: Tensor, train: Tensor, before: Split | None) -> None:
    """Refuse images that an earlier request names; of a class, where none are left that could be forgotten."""
    if request.classes:
        listed = listed[~torch.isin(labels[listed], labels[train])]
    if before is not None and (shared := int(torch.isin(listed, before.removed).sum())):
        raise SalunError(f"{request}: {shared} of its images are those of an earlier request; name each image once")


def _find_forget(sets: tuple[Tensor, Tensor], request: ForgetRequest, dataset: Dataset) -> tuple[Tensor, list[str]]:
    """Find the indices that a request names, and say in which of training and validation split they are."""
    train, validation = sets
    if request.classes or request.subclasses:
        return _is_of(dataset.train, request).nonzero().flatten(), []
    if request.share is not None:
        labels = dataset.train.labels.cpu()
        return drawn_share(labels, train, request, request.share, round(request.share * len(train))), []
    if request.found is not None and dataset.corrupted is not None:
        return dataset.corrupted.found(request.found).sort().values, []
    if request.indices is None:
        return torch.empty(0, dtype=torch.int64), []
    path = request.indices
    listed, tested, first = read_forget(path, dataset, request.order)
    named = set(listed.tolist())
    gone = [index for index in dataset.train.absent if index in named]
    learnt, held = (len((named - set(gone)) & set(part.tolist())) for part in (train, validation))
    others = {"in the validation split": held, "in the test part": len(tested)}
    others["left out of the base model's training"] = len(named) - len(gone) - learnt - held
    shown = "".join(f", {count} {where}" for where, count in others.items() if count)
    unseen = ", which were never trained on" if shown else ""
    deleted = f", {len(gone)} deleted since" if gone else ""
    total = len(named) + len(tested)
    lines = [f"{path}: {total} listed: {learnt} in the training split{shown}{unseen}{deleted}"]
    if gone:
        lost = enumerated([(dataset.train.names or ())[index] for index in gone])
        lines.append(f"{path}: {len(gone)} of them deleted since, and left out: {lost}")
    if first:
        lines.append(f"{path}: its indices begin with {', '.join(first)}")
    elif request.order != "salun":
        lines.append(f"{path}: holds no indices, so indices_in is without effect")
    return listed, lines


def _questions(request: ForgetRequest, names: Sequence[str]) -> list[str]:
    """Question numbers of classes whose folder has another number as its name."""
    numbers = [given for given in request.classes if isinstance(given, int)]
    meant = {number: str(number) if str(number) in names else names[number] for number in numbers}
    return [
        f"class {number} is folder '{names[number]}'; \"{name}\" as a string names the folder '{name}'"
        for number, name in meant.items()
        if name.isdecimal() and names[number] != str(number)
    ]


def divide(
    train: Images,
    *,
    classes: int | str | Sequence[int | str] = (),
    share: float | None = None,
    indices: Sequence[int] | Tensor | None = None,
    names: str | Sequence[str] | None = None,
    seed: int = 0,
    stratified: bool = False,
) -> tuple[Images, Images]:
    """Divide training images into those to forget and those to retain; arguments and errors are `salun.split`'s."""
    if not isinstance(train, Images):
        raise SalunError(f"split: a {type(train).__name__}; must be salun.Images, as Images.from_tensors gives")
    asked: Any = (classes,) if isinstance(classes, str) or np.ndim(classes) == 0 else classes
    given = (bool(len(asked)), share is not None, indices is not None, names is not None)
    if sum(given) != 1:
        raise SalunError("split: give one of classes=, share=, indices=, names=")
    labels, everything = train.labels.cpu(), torch.arange(len(train))
    if len(asked):
        numbers = class_numbers(asked, train.classes, int(labels.max()) + 1)
        listed = torch.isin(labels, torch.tensor(numbers)).nonzero().flatten()
    elif share is not None:
        if not isinstance(share, Real) or not 0 < share < 1:
            raise SalunError(f"split: share={share!r}: must be between 0 and 1")
        request = ForgetRequest(share=share, seed=whole_number("split: seed", seed), stratified=stratified)
        listed = drawn_share(labels, everything, request, share, round(share * len(train)))
    elif names is not None:
        listed = _named_positions(train, names)
    else:
        listed = _listed_positions(indices, len(train))
    if not 0 < len(listed) < len(train):
        raise SalunError(f"split: {len(listed)} of {len(train)} images to forget; neither set may be empty")
    return train.take(listed), train.take(without(everything, listed))


def _listed_positions(indices: Any, count: int) -> Tensor:
    """Check positions, or booleans of all images; gives the positions sorted, each once."""
    try:
        listed: Tensor = torch.as_tensor(indices).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise SalunError(f"split: indices={indices!r}: must be whole numbers, positions of images") from error
    if not listed.numel():
        raise SalunError("split: indices=: empty; must be positions of images")
    if listed.dtype == torch.bool:
        if listed.shape != (count,):
            raise SalunError(f"split: indices: {len(listed)} booleans for {count} images: must be one an image")
        return listed.nonzero().flatten()
    if listed.dtype.is_floating_point:
        raise SalunError(f"split: indices of {listed.dtype}: must be whole numbers, positions of images")
    if not 0 <= int(listed.min()) <= int(listed.max()) < count:
        outside = listed[(listed < 0) | (listed >= count)][0]
        raise SalunError(f"split: index {int(outside)} is not one of {count} images (0 to {count - 1})")
    positions: Tensor = listed.unique()
    return positions


def class_numbers(
    classes: Sequence[int | str], names: Sequence[str], count: int, data: str = "", kind: str = "class"
) -> tuple[int, ...]:
    """Look classes up by number or name.

    Args:
        classes: what the user gave.
        names: class names by label; empty where they are not known.
        count: number of classes.
        data: name of the data set; "" where it has none.
        kind: "class" or "subclass".

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
            raise SalunError(f"{kind} '{number}': unknown{known}")
        try:
            numbers.append(whole_number(kind, number, 0, count))
        except SalunError as error:
            whose = f"'{data}' has the {kind}es" if data else f"the {kind}es are"
            named = f"; \"{number}\" as a string names the {kind} '{number}'" if str(number) in names else ""
            raise SalunError(f"{kind} {number}: {whose} 0 to {count - 1}{named}") from error
    return tuple(numbers)


def _named_positions(images: Images, names: str | Sequence[str]) -> Tensor:
    """Find images by name."""
    if images.names is None:
        raise SalunError("split: names=: the images have no names; from_folder gives them, from_tensors takes them")
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise SalunError("split: names=: empty; must be names of images")
    places = {name: place for place, name in enumerate(images.names)}
    unknown = [str(name) for name in names if name not in places]
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


def check_subclasses(subclasses: Sequence[int | str], count: int, name: str) -> None:
    """Raise a SalunError where a data set of `count` subclasses has none, or lacks those of them given by number."""
    if not count:
        two = "cifar20, digits_grouped and folder:PATH:subclasses have subclasses"
        raise SalunError(f"subclass {'+'.join(map(str, subclasses))}: '{name}' has one level of classes; {two}")
    for number in subclasses:
        if isinstance(number, int) and not 0 <= number < count:
            raise SalunError(f"subclass {number}: '{name}' has the subclasses 0 to {count - 1}")


def without(indices: Tensor, unwanted: Tensor) -> Tensor:
    """Leave unwanted indices out; the others keep their order."""
    return indices[~torch.isin(indices, unwanted)]


def digest(*tensors: Tensor) -> str:
    """Identify tensors of integers by their content: 16 hexadecimal digits."""
    hashed = hashlib.sha256()
    for tensor in tensors:
        hashed.update(np.ascontiguousarray(tensor.cpu().to(torch.int64).numpy()).tobytes() + b"|")
    return hashed.hexdigest()[:16]
