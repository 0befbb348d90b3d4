"""Files of features: found, read, aligned, and grouped by what can be compared."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salun.errors import SalunError
from salun.io.files import each_once, find_place, mirrored_apart, name_part
from salun.latent.features import SUFFIXES, Features, read_features

_FEATURES = Path("features")
_ORDER = {"base": 0, "unlearned": 1, "retrained": 2}
_LONGEST = 60
_MOST = 0.5


@dataclass(frozen=True)
class FeatureFile:
    """A file of features, and where its figures go in the folder of figures."""

    path: Path
    place: Path
    features: Features

    @property
    def title(self) -> str:
        """What the model is, in a figure."""
        return self.features.source.title or self.path.stem


@dataclass(frozen=True)
class Group:
    """Models that may be compared: base models first, retrained last, with the same samples and forget marks."""

    name: str
    entries: tuple[FeatureFile, ...]


def find_features(paths: Sequence[str]) -> list[Path]:
    """List files of features.

    Args:
        paths: files and folders, looked for as given, then under `features/`; none for all under `features/`.

    Raises:
        SalunError: a path does not exist, or a folder holds no file.
    """
    found: list[Path] = []
    for given in paths or [str(_FEATURES)]:
        place = find_place(Path(given), _FEATURES)
        if place is None:
            hint = "; salun-extract writes features" if not paths else f", here or under {_FEATURES}/"
            raise SalunError(f"{given}: no such file or folder{hint}")
        files = [place] if place.is_file() else sorted(filter(_is_features, place.rglob("*")))
        if not files:
            raise SalunError(f"{place}: holds no features (*.npz, *.json); salun-extract writes them")
        found += files
    return each_once(found)


def _is_features(path: Path) -> bool:
    """Tell whether a file may hold features."""
    return path.suffix in SUFFIXES and not path.name.startswith(".") and path.is_file()


def read_entries(paths: Sequence[str], samples: int | None = None) -> list[FeatureFile]:
    """Read files of features.

    Args:
        paths: as `find_features` takes them.
        samples: of each file the first, at most; None for all.

    Raises:
        SalunError: a file is missing or cannot be read.
    """
    found = {path: read_features(path) for path in find_features(paths)}
    unlike = [path for path in found if not _is_copy(path, found)]
    places = mirrored_apart(unlike, _FEATURES)
    return [
        FeatureFile(path, place, found[path] if samples is None else found[path].first(samples))
        for path, place in zip(unlike, places, strict=True)
    ]


def _is_copy(path: Path, found: Mapping[Path, Features]) -> bool:
    """Tell whether a file is the JSON form of an archive beside it."""
    archive = path.with_suffix(".npz")
    if path.suffix != ".json" or archive not in found:
        return False
    return bool(found[path].source.key) and found[path].source.key == found[archive].source.key


def comparable(entries: Sequence[FeatureFile], strict: bool) -> list[Group]:
    """Group at least two models: for each forget set its unlearned and retrained models and all base models.

    Args:
        entries: files of features.
        strict: whether to refuse files that cannot be compared, and to join forget sets without a common base model.

    Raises:
        SalunError: the files are of different data, images or layers, and `strict` is set.
    """
    kinds: dict[tuple[object, ...], list[FeatureFile]] = {}
    for entry in entries:
        kinds.setdefault(_kind_of(entry), []).append(entry)
    if strict and len(kinds) > 1:
        first, second = (found[0] for found in list(kinds.values())[:2])
        raise SalunError(f"{first.path} and {second.path} cannot be compared: {_difference(first, second)}")
    groups = [group for found in kinds.values() for group in _by_forget_set(found, strict)]
    placed = {entry.path for group in groups for entry in group.entries}
    if strict and len(placed) < len(entries) > 1:
        ordered = sorted(entries, key=lambda entry: _ORDER[entry.features.source.role])
        return [Group(_group_name(ordered), align(ordered, strict))]
    return _named_apart(groups)


def _named_apart(groups: list[Group]) -> list[Group]:
    """Give groups of the same name a mark of what they are of."""
    names = [group.name for group in groups]
    return [
        replace(group, name=f"{group.name}-{_mark_of(group.entries[-1])}") if names.count(group.name) > 1 else group
        for group in groups
    ]


def _mark_of(entry: FeatureFile) -> str:
    identity = [*_kind_of(entry), entry.features.source.forget_key]
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:8]


def _kind_of(entry: FeatureFile) -> tuple[object, ...]:
    """Tell what must be equal for features to be compared."""
    features = entry.features
    source = features.source
    return source.dataset, source.split, source.layer, features.features.shape[1], features.classes


def _difference(first: FeatureFile, second: FeatureFile) -> str:
    """Say why two files cannot be compared."""
    names = ("data sets", "sets of images", "layers", "widths", "class names")
    for name, one, other in zip(names, _kind_of(first), _kind_of(second), strict=True):
        if one != other:
            return f"their {name} differ" + (f": {one}, {other}" if name != "class names" else "")
    return "they differ"


def _by_forget_set(entries: list[FeatureFile], strict: bool) -> list[Group]:
    """Group comparable models by what they were to forget."""
    keys = dict.fromkeys(entry.features.source.forget_key for entry in entries)
    base = [entry for entry in entries if not entry.features.source.forget_key]
    groups = []
    for key in [key for key in keys if key] or [""]:
        members = [entry for entry in entries if key and entry.features.source.forget_key == key]
        ordered = sorted([*base, *members], key=lambda entry: _ORDER[entry.features.source.role])
        if len(ordered) < 2:
            continue
        aligned = align(ordered, strict)
        if aligned:
            groups.append(Group(_group_name(ordered), aligned))
    return groups


def _group_name(entries: list[FeatureFile]) -> str:
    """Name the folder of a group's figures."""
    source = entries[-1].features.source
    forget = next((entry.features.source.forget for entry in entries if entry.features.source.forget), "models")
    split = "" if source.split == "train" else f"_{source.split}"
    return name_part(f"{source.dataset or 'features'}_{forget}"[:_LONGEST] + split)


def align(entries: list[FeatureFile], strict: bool) -> tuple[FeatureFile, ...]:
    """Keep the images that all models have, in the same order, with the same marks.

    Args:
        entries: at least two.
        strict: whether to refuse models without a common image.

    Returns:
        The entries; none where no image is common.

    Raises:
        SalunError: no image is common, or one image has two labels.
    """
    shared = reduce(np.intersect1d, (entry.features.indices for entry in entries))
    if not len(shared):
        if strict:
            raise SalunError(f"{entries[0].path} and the others have no image in common; extract them with one -S")
        return ()
    taken = [_taken_at(entry, shared) for entry in entries]
    if any((entry.features.labels != taken[0].features.labels).any() for entry in taken):
        raise SalunError(f"{entries[0].path} and the others label the same images differently")
    marks = np.any([entry.features.forgotten for entry in taken], axis=0)
    return tuple(replace(entry, features=replace(entry.features, forgotten=marks)) for entry in taken)


def _taken_at(entry: FeatureFile, indices: NDArray[np.int64]) -> FeatureFile:
    """Take some images of a file."""
    order = np.argsort(entry.features.indices, kind="stable")
    positions = order[np.searchsorted(entry.features.indices, indices, sorter=order)]
    return replace(entry, features=entry.features.at(positions))


def gather(paths: Iterable[str]) -> str:
    """Name a comparison after the paths that were given together."""
    names = (path.stem if path.suffix in SUFFIXES else path.name for path in map(Path, paths))
    return name_part("_with_".join(name or "features" for name in names))


def forgotten_classes(features: Features) -> frozenset[str]:
    """Find the classes of which most samples were to be forgotten."""
    return frozenset(
        name
        for label, name in enumerate(features.classes)
        if (members := features.labels == label).any() and features.forgotten[members].mean() > _MOST
    )


def about(features: Features) -> str:
    """Say what images a figure is of, and what its marks mean."""
    words = [features.source.dataset, f"{len(features.labels):,} {features.source.split} images"]
    words += ["bold and framed: to be forgotten"] if forgotten_classes(features) else []
    return "; ".join(filter(None, words))


def model_titles(entries: Sequence[FeatureFile]) -> list[str]:
    """Name models in figures so that no two are called alike, by file or folder where titles are equal."""
    seen = Counter(entry.title for entry in entries)
    alike = Counter((entry.title, entry.path.stem) for entry in entries)
    return [
        entry.title
        if seen[entry.title] == 1
        else f"{entry.title} ({entry.path.stem if alike[entry.title, entry.path.stem] == 1 else entry.place})"
        for entry in entries
    ]


def file_names(entries: Sequence[FeatureFile]) -> list[str]:
    """Name models in the names of files."""
    seen = Counter(entry.place.name for entry in entries)
    alike = [name_part("-".join(entry.place.parts)) for entry in entries]
    return [entry.place.name if seen[entry.place.name] == 1 else alike[at] for at, entry in enumerate(entries)]
