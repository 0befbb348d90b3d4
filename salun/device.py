"""Where the arithmetic runs, in which precision, from which seed, at what cost."""

import os
import resource
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Literal

import numpy as np
import torch

from salun.errors import SalunError

Precision = Literal["auto", "float32", "bf16"]

SMALL_IMAGE = 16


def pick_device(name: str = "auto") -> torch.device:
    """Choose the device to compute on; on CUDA, torch is told to give the same bits each time.

    Args:
        name: "auto" (CUDA, else MPS, else CPU), or a name that torch knows, such as "cuda:1".

    Returns:
        The device.

    Raises:
        SalunError: the name is unknown, or this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise SalunError(f"--device {name}: unknown; accepted: auto, cpu, cuda, cuda:N, mps") from error
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if device.type not in present:
        raise SalunError(f"--device {name}: unknown; accepted: auto, cpu, cuda, cuda:N, mps")
    if (device.index or 0) >= present[device.type]:
        raise SalunError(f"--device {name}: this machine has no such device; --device cpu always works")
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


@lru_cache
def own_threads() -> int:
    """Tell how many CPU threads torch chose for itself.

    Returns:
        The number before `settle_threads` first changed it.
    """
    return torch.get_num_threads()


def settle_threads(image_size: int) -> None:
    """Give small images one CPU thread, where handing work over costs more than it saves, and others all.

    `OMP_NUM_THREADS`, where set, is left to rule.

    Args:
        image_size: side of the images in pixels.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        all_of_them = own_threads()
        torch.set_num_threads(1 if image_size <= SMALL_IMAGE else all_of_them)


def settle_precision(precision: Precision, device: torch.device) -> Precision:
    """Resolve "auto": bf16 on CUDA, float32 elsewhere.

    Args:
        precision: what was asked for.
        device: where the training runs.

    Returns:
        "float32" or "bf16".
    """
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "float32"
    return precision


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Run the forward pass in `precision`; weights and loss stay float32.

    Args:
        precision: "float32", "bf16", or "auto".
        device: where the pass runs.

    Returns:
        A context manager.
    """
    if settle_precision(precision, device) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Keep CUDA's convolutions from rounding float32 to TF32, so that results do not depend on the batch size.

    Args:
        device: where they run.

    Returns:
        A context manager.
    """
    if device.type != "cuda":
        return nullcontext()
    flags: AbstractContextManager[object] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=torch.backends.cudnn.deterministic, allow_tf32=False
    )
    return flags


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """Make a generator on `device`.

    Args:
        seed: any integer from 0.
        device: where the numbers are drawn.

    Returns:
        The generator.
    """
    return torch.Generator(device).manual_seed(seed)


def seed_globally(seed: int) -> None:
    """Seed the global generators, for layers (dropout, weight initialisation) that take none.

    Args:
        seed: any integer from 0.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def clock(device: torch.device) -> float:
    """Read the wall clock once the device has finished what it was given.

    Args:
        device: the device to wait for.

    Returns:
        Seconds from an arbitrary start.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def forget_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory (CUDA only; a process's own peak cannot be reset).

    Args:
        device: the device that is measured.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Say how much memory was used at most.

    Args:
        device: CUDA gives the device memory since the last reset, others the process's resident set.

    Returns:
        Bytes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_name(device: torch.device) -> str:
    """Name the device as a record shows it.

    Args:
        device: the device.

    Returns:
        For example "cuda: NVIDIA H200" or "cpu: 1 thread".
    """
    if device.type == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"cpu: {threads} thread{'s' if threads > 1 else ''}"
    return device.type
