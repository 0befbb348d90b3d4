"""Outputs of a model on every set, kept beside its record, so that metrics can be computed later."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salun.errors import SalunError
from salun.io.arrays import read_arrays, readable, write_arrays
from salun.io.files import name_part
from salun.metrics.evaluation import CORRUPTED_SETS, SETS, Evaluation
from salun.training.evaluate import MANY_CLASSES, Outputs

_PARTS = ("logits", "labels", "indices")

OUTPUTS = "outputs"

_EARLIER = "request"


def outputs_path(folder: Path, name: str) -> Path:
    """Name a file of outputs.

    Args:
        folder: of the list's records.
        name: a record's id, or what a base model is called.

    Returns:
        `folder/outputs/{name}.npz`.
    """
    return folder / OUTPUTS / f"{name_part(name)}.npz"


def write_outputs(path: Path, evaluation: Evaluation) -> None:
    """Keep a model's outputs, compressed: logits, labels and indices of every set.

    Logits are float32; of more than 100 classes float16, which holds what `predict` gives.

    Args:
        path: ends in `.npz`.
        evaluation: the outputs; those of models that it is compared with are not written.

    Raises:
        SalunError: the file cannot be written.
    """
    write_arrays(path, dict(_arrays_of(evaluation)))


def _arrays_of(evaluation: Evaluation) -> Iterator[tuple[str, np.ndarray]]:
    """Take outputs apart."""
    held = evaluation.sets | ({} if evaluation.random is None else {"random": evaluation.random})
    held |= {f"{_EARLIER}{number}": outputs for number, outputs in enumerate(evaluation.earlier, 1)}
    for name, outputs in held.items():
        for part in _PARTS:
            value = getattr(outputs, part)
            if value is not None:
                yield f"{name}/{part}", (_narrowed(value) if part == "logits" else value).numpy()


def _narrowed(logits: torch.Tensor) -> torch.Tensor:
    """Store logits of many classes in half the bytes, where that changes none."""
    if not len(logits) or logits.shape[1] <= MANY_CLASSES:
        return logits
    narrow = logits.half()
    return narrow if torch.equal(narrow.float(), logits) else logits


def digest_of(evaluation: Evaluation) -> str:
    """Identify outputs by their content.

    Args:
        evaluation: of a model.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, array in _arrays_of(evaluation):
        digest.update(f"{name} {array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _read_outputs(path: Path, seconds: float | None = None, passes: int | None = None) -> Evaluation:
    """Read a model's outputs; seconds and passes of mask and method stand in the record."""
    with readable(path, "outputs"):
        arrays = {name: torch.from_numpy(array) for name, array in read_arrays(path).items()}
        random = _taken(arrays, "random") if "random/logits" in arrays else None
        more = [name for name in CORRUPTED_SETS if f"{name}/logits" in arrays]
        sets: Any = {name: _taken(arrays, name) for name in (*SETS, *more)}
        count = sum(name.startswith(_EARLIER) and name.endswith("/logits") for name in arrays)
        earlier = tuple(_taken(arrays, f"{_EARLIER}{number}") for number in range(1, count + 1))
        return Evaluation(**sets, seconds=seconds, passes=passes, random=random, earlier=earlier)


def _taken(arrays: dict[str, torch.Tensor], name: str) -> Outputs:
    """Put a set's outputs together."""
    logits = arrays[f"{name}/logits"]
    if logits.dtype not in (torch.float16, torch.float32) or logits.ndim != 2:
        raise ValueError(f"{name}/logits is no matrix of float32 or float16")
    outputs = Outputs(logits.float(), arrays[f"{name}/labels"], arrays.get(f"{name}/indices"))
    whole = [outputs.labels] + ([] if outputs.indices is None else [outputs.indices])
    if any(part.dtype != torch.int64 or part.shape != outputs.logits.shape[:1] for part in whole):
        raise ValueError(f"{name}/labels or indices do not fit the logits")
    if (
        len(outputs.labels)
        and not 0 <= int(outputs.labels.min()) <= int(outputs.labels.max()) < outputs.logits.shape[1]
    ):
        raise ValueError(f"{name}/labels are not within the classes")
    return outputs


def kept_outputs(
    folder: Path, name: str, digest: str | None = None, seconds: float | None = None, passes: int | None = None
) -> Evaluation | None:
    """Read outputs if they are there and are those that a record speaks of.

    Args:
        folder: of the list's records.
        name: as in `outputs_path`.
        digest: of the record; None takes the outputs as they are.
        seconds: wall time of mask and method.
        passes: image passes of mask and method.

    Returns:
        The outputs, or None.
    """
    try:
        evaluation = _read_outputs(outputs_path(folder, name), seconds, passes)
    except SalunError:
        return None
    return evaluation if digest in (None, digest_of(evaluation)) else None
