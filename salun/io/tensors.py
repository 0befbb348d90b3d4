"""Files of tensors, read without running code from them."""

import hashlib
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from salun.errors import SalunError
from salun.io.files import replacing
from salun.io.limits import check_length, check_stored, check_values

# Weights that are shared stand in a file once and in a model twice.
_SHARED = 4
_LARGEST_FILE = 2**40


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """Identify named tensors by their content.

    Args:
        tensors: of any type and shape.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all.

    Args:
        path: the file.
        content: what `read_tensors` gives back.

    Raises:
        SalunError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)  # given the path, it would not tell why a disk takes no more


def read_tensors(path: Path, what: str) -> Any:
    """Read a file that `torch.save` wrote, running no code from it.

    Args:
        path: the file.
        what: "checkpoint" or "mask", for the text of errors.

    Returns:
        What it holds: tensors and plain values.

    Raises:
        SalunError: the file is missing, damaged, holds anything else, or claims more than its length.
    """
    check_length(path, _LARGEST_FILE)
    try:
        length = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            check_stored(archive.infolist(), length)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_tensors(check_values(content), length)
    except FileNotFoundError as error:
        raise SalunError(f"{path}: no such {what}") from error
    except Exception as error:  # decoders raise errors of every kind on a broken file
        raise SalunError(f"{path}: not a readable {what}: damaged, or holds more than tensors and values") from error
    return content


def _check_tensors(found: Iterable[Any], length: int) -> None:
    """Check that tensors are plain ones in memory, and are no more than their file can hold."""
    claimed = 0
    for tensor in found:
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError("holds tensors that are not in memory, sparse or quantised")
        claimed += tensor.numel() * tensor.element_size()
    if claimed > _SHARED * length:
        raise ValueError("holds tensors that claim more than the file")
