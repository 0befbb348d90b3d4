"""Files of tensors, read without running code from them."""

import argparse
import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from salun.errors import SalunError
from salun.io.files import replacing
from salun.io.limits import check_length, check_stored, check_values

# Weights that are shared stand in a file once and in a model twice.
_SHARED = 4
_LARGEST_FILE = 2**40
# The entry of a safetensors header that holds what stands beside the weights of a checkpoint, as JSON.
_CONFIG = "salun"
_LENGTH = 8
_FORBIDDEN = re.compile(r"(?:GLOBAL|class|global) ([\w.]+)")


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


def write_safetensors(path: Path, weights: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write the weights of a model as safetensors with values as JSON in their header, whole or not at all.

    Args:
        path: the file.
        weights: by name; those that share memory are written apart.
        config: what JSON can hold.

    Raises:
        SalunError: the file cannot be written.
    """
    apart = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in weights.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(apart, {_CONFIG: json.dumps(config)}))


def read_tensors(path: Path, what: str, foreign: bool = False) -> Any:
    """Read a file of ours, of safetensors or of `torch.save`, running no code from it.

    Args:
        path: the file.
        what: "checkpoint" or "mask", for the text of errors.
        foreign: whether other programs' safetensors are read too, and the plain values that they write beside tensors.

    Returns:
        What it holds: tensors and plain values; of our own safetensors `{"model", "config"}`.

    Raises:
        SalunError: the file is missing, damaged, holds anything else, or claims more than its length.
    """
    check_length(path, _LARGEST_FILE)
    try:
        length, begin = path.stat().st_size, _begin_of(path)
        if _is_safetensors(begin):
            return _read_safetensors(path, foreign)
        with zipfile.ZipFile(path) as archive:
            check_stored(archive.infolist(), length)
        allowed = torch.serialization.safe_globals(_plain_types() if foreign else [])
        # Opened here: given a path, torch goes by its ending.
        with warnings.catch_warnings(action="ignore"), allowed, path.open("rb") as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_tensors(check_values(_unpacked(content) if foreign else content), length)
    except FileNotFoundError as error:
        raise SalunError(f"{path}: no such {what}") from error
    except Exception as error:  # decoders raise errors of every kind on a broken file
        raise SalunError(f"{path}: not a readable {what}: {_fault_of(path, error, foreign)}") from error
    return content


def _begin_of(path: Path) -> bytes:
    """Read the first bytes of a file."""
    with path.open("rb") as file:
        return file.read(16)


def _is_safetensors(begin: bytes) -> bool:
    """Tell safetensors by their begin: the length of a JSON header, and its brace."""
    return begin[_LENGTH : _LENGTH + 1] == b"{" and not begin.startswith(b"PK")


def _read_safetensors(path: Path, foreign: bool) -> dict[str, Any]:
    """Read safetensors into memory of their own: a file that is cut off under a map would end the process."""
    content = path.read_bytes()
    weights = load(content)
    header = json.loads(content[_LENGTH : _LENGTH + int.from_bytes(content[:_LENGTH], "little")])
    told = header.get("__metadata__", {})
    if _CONFIG not in told:
        if not foreign:
            raise _ForeignError
        return dict(weights)
    config = json.loads(told[_CONFIG])
    check_values(config)
    return {"model": weights, "config": config}


class _ForeignError(ValueError):
    """Safetensors that another program wrote."""


def _plain_types() -> list[Any]:
    """List what other programs' checkpoints hold beside tensors: numpy's numbers and parsed arguments."""
    numbers = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    return [argparse.Namespace, np.dtype, np.ndarray, np.float64(0).__reduce__()[0], *numbers]


def _unpacked(content: Any) -> Any:
    """Show arguments as dictionaries and numpy's numbers as Python's, so that their sizes can be checked."""
    if isinstance(content, dict):
        return {key: _unpacked(value) for key, value in content.items()}
    if isinstance(content, argparse.Namespace):
        return dict(vars(content))
    return content.item() if isinstance(content, np.generic) else content


def _fault_of(path: Path, error: Exception, foreign: bool) -> str:
    """Say what kind of file it is that cannot be read."""
    begin = b"" if path.is_dir() else _begin_of(path)
    if isinstance(error, _ForeignError):
        return "a safetensors file; salun-import reads it"
    if begin[:1] == b"\x80":
        advice = "torch.save(torch.load(FILE, weights_only=True), FILE) brings it to today's"
        return f"written in the form of torch before 1.6, or a plain pickle; {advice}"
    if found := _FORBIDDEN.search(str(error)):
        return f"holds a {found[1]}, whose code would have to run; only tensors and plain values are read"
    return "damaged, or holds more than tensors and values"


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
