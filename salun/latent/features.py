"""Features of a set of images as one model sees them, kept on disk."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from salun.errors import SalunError
from salun.io.arrays import read_arrays, readable, write_arrays
from salun.io.files import read_json, write_text
from salun.io.limits import LARGEST_FEATURES, check_length

Role = Literal["base", "unlearned", "retrained"]
PRE_HEAD = "pre-head"
SUFFIXES = (".npz", ".json")
_BY_SAMPLE = ("features", "labels", "indices", "logits", "forgotten")
_ARRAYS = {
    "features": ("f", 2),
    "labels": ("i", 1),
    "indices": ("i", 1),
    "logits": ("f", 2),
    "forgotten": ("b", 1),
    "prototypes": ("f", 2),
}


@dataclass(frozen=True)
class Source:
    """Where features come from.

    Attributes:
        checkpoint: its path, as the user reads it.
        title: what the model is, in a figure: "base", "retrained", or method, mask and seed.
        role: of the model.
        model: timm's name.
        dataset: its name.
        split: "train", "test", "forget" or "retain".
        layer: "pre-head", or a module's name.
        forget: what was to be forgotten, in words; "" of a base model.
        forget_key: identity of the forget set; "" of a base model.
        key: identity of everything that decides the content; an equal one need not be extracted again.
    """

    checkpoint: str = ""
    title: str = ""
    role: Role = "base"
    model: str = ""
    dataset: str = ""
    split: str = "train"
    layer: str = PRE_HEAD
    forget: str = ""
    forget_key: str = ""
    key: str = ""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, str):
                raise ValueError(f"{name} is no text")
        if self.role not in get_args(Role):
            raise ValueError(f"role '{self.role}' is none of {', '.join(get_args(Role))}")


@dataclass(frozen=True)
class Features:
    """What one model makes of N images.

    Attributes:
        features: (N, D) float32.
        labels: (N,) int64.
        indices: (N,) int64, of the images in the data set's training or test part.
        logits: (N, C) float32.
        forgotten: (N,) bool, which images were to be forgotten.
        classes: C class names.
        prototypes: (C, P) float32, the weights of the head; P equals D where features are pre-head.
        source: where they come from.
    """

    features: NDArray[np.float32]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]
    logits: NDArray[np.float32]
    forgotten: NDArray[np.bool_]
    classes: tuple[str, ...]
    prototypes: NDArray[np.float32]
    source: Source

    def __post_init__(self) -> None:
        count, classes = len(self.features), len(self.classes)
        for name, (kinds, axes) in _ARRAYS.items():
            array = getattr(self, name)
            if array.dtype.kind not in kinds or array.ndim != axes:
                raise ValueError(f"{name} of type {array.dtype} in {array.ndim} dimensions, not {axes}")
            if name in _BY_SAMPLE and len(array) != count:
                raise ValueError(f"{count} features, {len(array)} {name}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ValueError(f"{name} that are no numbers: the model diverged")
        if not count or not self.features.shape[1]:
            raise ValueError("no samples")
        if not len(self.prototypes) == self.logits.shape[1] == classes:
            raise ValueError(f"{classes} classes, {len(self.prototypes)} prototypes, logits of {self.logits.shape[1]}")
        if not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            raise ValueError("labels outside the classes")

    @property
    def predictions(self) -> NDArray[np.int64]:
        """(N,) int64, the class of the largest logit."""
        return np.asarray(self.logits.argmax(1), dtype=np.int64)

    def at(self, positions: NDArray[np.int64]) -> "Features":
        """Select the samples at (K,) positions."""
        return replace(self, **{name: getattr(self, name)[positions] for name in _BY_SAMPLE})

    def first(self, samples: int) -> "Features":
        """Keep the first samples, so many at most."""
        return self.at(np.arange(min(samples, len(self.features))))


def write_features(path: Path, features: Features) -> None:
    """Write features whole, in the format that the path's ending names.

    Args:
        path: ends in `.npz`, or in `.json` for the seed system's form and beside it what that would lose.
        features: what to write.

    Raises:
        SalunError: the file cannot be written.
    """
    arrays = {name: getattr(features, name) for name in _BY_SAMPLE}
    if path.suffix == ".json":
        content = {
            "all_features": features.features.tolist(),
            "all_labels": features.labels.tolist(),
            "proto": features.prototypes.tolist(),
            "classes": list(features.classes),
            "source": asdict(features.source),
            **{name: arrays[name].tolist() for name in ("indices", "logits", "forgotten")},
            "predictions": features.predictions.tolist(),
        }
        write_text(path, json.dumps(content))
        return
    described = {name: getattr(features, name) for name in ("predictions", "prototypes", "classes")}
    write_arrays(path, arrays | described | {"source": json.dumps(asdict(features.source))})


def read_features(path: Path) -> Features:
    """Read features of ours, or a `.json` file of the seed system.

    Returns:
        The features; for what a file lacks, indices count from 0, logits are features times prototypes, classes are
        numbered, nothing is forgotten, and the file's name is the title.

    Raises:
        SalunError: the file is missing, damaged, or holds something else.
    """
    if path.suffix == ".json":
        return _from_json(path)
    if path.suffix not in SUFFIXES:
        made = f"salun-extract -D {path} makes one of a checkpoint"
        raise SalunError(f"{path}: not a file of features (.npz, .json); {made}")
    with readable(path, "features"):
        content = read_arrays(path)
        if absent := [name for name in (*_ARRAYS, "classes", "source") if name not in content]:
            what, lacking = "array" if len(absent) == 1 else "arrays", ", ".join(f"'{name}'" for name in absent)
            known = ", ".join((*_ARRAYS, "predictions", "classes", "source"))
            raise SalunError(f"{path}: lacks the {what} {lacking}; salun-extract writes {known}")
        return Features(
            **{name: content[name] for name in (*_BY_SAMPLE, "prototypes")},
            classes=tuple(str(name) for name in content["classes"]),
            source=Source(**json.loads(str(content["source"]))),
        )


def read_source(path: Path) -> Source | None:
    """Read where features come from, without reading them; None where there is no readable file."""
    try:
        if path.suffix == ".json":
            return _from_json(path).source
        with readable(path, "features"):
            return Source(**json.loads(str(read_arrays(path, ("source",))["source"])))
    except SalunError:
        return None


def _from_json(path: Path) -> Features:
    """Read the seed system's form."""
    check_length(path, LARGEST_FEATURES)
    content: Any = read_json(path)
    if not isinstance(content, dict) or not {"all_features", "all_labels", "proto"} <= content.keys():
        raise SalunError(f"{path}: not a file of features: must hold 'all_features', 'all_labels' and 'proto'")
    with readable(path, "features"):
        features = np.asarray(content["all_features"], dtype=np.float32)
        labels = _whole_numbers(content["all_labels"])
        prototypes = np.asarray(content["proto"], dtype=np.float32)
        names = content.get("classes", range(len(prototypes)))
        scores = content["logits"] if "logits" in content else features @ prototypes.T
        return Features(
            features=features,
            labels=labels,
            indices=_whole_numbers(content["indices"]) if "indices" in content else np.arange(len(labels)),
            logits=np.asarray(scores, dtype=np.float32),
            forgotten=np.asarray(content.get("forgotten", np.zeros(len(labels))), dtype=np.bool_),
            classes=tuple(map(str, names)),
            prototypes=prototypes,
            source=Source(**content.get("source", {"checkpoint": path.stem, "title": path.stem})),
        )


def _whole_numbers(values: Any) -> NDArray[np.int64]:
    """Take whole numbers, and no others."""
    found = np.asarray(values)
    if found.dtype.kind not in "iu":
        raise ValueError("labels or indices that are no whole numbers")
    return found.astype(np.int64)
