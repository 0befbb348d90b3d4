"""Where the arithmetic runs, in which precision, from which seed, at what cost."""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from salun.errors import SalunError

Precision = Literal["auto", "float32", "bf16"]

_SMALL_IMAGE = 16
_SMALLEST_IN_BF16 = 16
_BF16_INSTRUCTIONS = ("amx_bf16", "avx512_bf16")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def pick_device(name: str = "auto", deterministic: bool = False) -> torch.device:
    """Choose the device to compute on, and whether it is to be fast or to give the same bits each time.

    Args:
        name: "auto" (CUDA, else MPS, else CPU), or a name that torch knows, such as "cuda:1".
        deterministic: whether the same seed must give the same bits, at the price of speed.

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
        raise SalunError(f"device '{name}': unknown; accepted: auto, cpu, cuda, cuda:N, mps") from error
    present = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if device.type not in present:
        raise SalunError(f"device '{name}': unknown; accepted: auto, cpu, cuda, cuda:N, mps")
    if (device.index or 0) >= present[device.type]:
        raise SalunError(f"device '{name}': this machine has no such device; cpu always works")
    _settle_bits(device, deterministic)
    return device


def _settle_bits(device: torch.device, deterministic: bool) -> None:
    """Tell torch to be fast, with trials of algorithms and TF32 on CUDA, or to give the same bits each time."""
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    # `torch.use_deterministic_algorithms` would bring in the whole compiler, to tell it the same.
    torch.set_deterministic_debug_mode("warn" if deterministic else "default")
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.deterministic = deterministic
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.allow_tf32 = not deterministic
        torch.set_float32_matmul_precision("highest" if deterministic else "high")


def deterministic() -> bool:
    """Tell whether the same seed must give the same bits, as `pick_device` was last asked for."""
    return torch.are_deterministic_algorithms_enabled()


def placed(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to a device, in place, its convolutions' weights laid out as they run fastest."""
    model.to(device)
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.dim() == 4:  # only pictures have such a layout; some models hold convolutions of volumes, too
            tensor.data = tensor.data.to(memory_format=layout(device))
    return model


def layout(device: torch.device) -> torch.memory_format:
    """Choose how pictures and the weights of their convolutions are laid out in memory.

    Args:
        device: where they are convolved.

    Returns:
        Channels last, but for MPS, where batch normalisation of several versions of torch returns wrong gradients then
        (pytorch/pytorch issue 175189).
    """
    return torch.contiguous_format if device.type == "mps" else torch.channels_last


@lru_cache
def own_threads() -> int:
    """Tell how many CPU threads there is work for: as torch chose for itself, but no more than this process may use.

    Returns:
        The number before `settle_threads` first changed it.
    """
    return max(1, min(torch.get_num_threads(), granted_cores()))


def granted_cores() -> int:
    """Tell how many cores the system lets this process use, which containers and job managers restrict."""
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        limits.append(math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, min(limits))


def decoders() -> int:
    """Tell how many processes may decode images for this one.

    Returns:
        As many as torch has threads, which runs side by side share; of processes that a launcher started together,
        and gave a thread each, an equal part of the cores.
    """
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, granted_cores() // together) if together > 1 else torch.get_num_threads()


def settle_threads(image_size: int, runs: int = 1) -> None:
    """Give small images one CPU thread, where handing work over costs more than it saves, and others all.

    Runs side by side share the threads. Where bits count, which depend on the number of threads, each run has one,
    whatever the machine and however many run side by side. `OMP_NUM_THREADS`, where set, is left to rule.

    Args:
        image_size: side of the images in pixels.
        runs: how many processes run side by side.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        share = max(1, own_threads() // runs)
        torch.set_num_threads(1 if image_size <= _SMALL_IMAGE or deterministic() else share)


def precision_for(requested: Precision, device: torch.device, image_size: int = 0) -> Precision:
    """Choose the precision of forward passes.

    "auto" is bf16 on CUDA, and on a processor with instructions for it, for images of at least 16 pixels and where
    bits do not count; else float32.

    Args:
        requested: "float32", "bf16" or "auto".
        device: where they run.
        image_size: side of the images in pixels; 0 where it is not known.

    Returns:
        "float32" or "bf16".
    """
    if requested != "auto":
        return requested
    multiplies = device.type == "cpu" and image_size >= _SMALLEST_IN_BF16 and not deterministic() and _has_bf16()
    return "bf16" if multiplies or device.type == "cuda" else "float32"


def _has_bf16() -> bool:
    """Tell whether the processor multiplies bf16 by AMX or AVX-512, which was measured to be worthwhile."""
    known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(known.get(name, False) for name in _BF16_INSTRUCTIONS)


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Run the forward pass in `precision`; weights and loss stay float32."""
    if precision_for(precision, device) == "bf16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keep CUDA from rounding float32 to TF32, so that results do not depend on the batch size."""
    if device.type != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    bits = torch.backends.cudnn.deterministic
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=bits, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def seeded(seed: int, device: torch.device) -> torch.Generator:
    """Make a random generator on `device`."""
    return torch.Generator(device).manual_seed(seed)


def derived_seed(purpose: str, *parts: int | str | None) -> int:
    """Derive the seed of one purpose, so that streams of different purposes are independent of each other.

    Args:
        purpose: what is drawn.
        parts: what it depends on, such as the seed of a run.

    Returns:
        From 0 to 2**31 - 1, other than that of another purpose or other parts, but for chance.
    """
    words = list(json.dumps([purpose, *parts]).encode())
    return int(np.random.SeedSequence(words).generate_state(1)[0]) // 2


@contextmanager
def seeded_globally(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global generators of the CPU and of a device for a block, and put them back after it."""
    numpy, mps = np.random.get_state(), torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # `torch.manual_seed` would seed every other device too, for good.
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        if mps is not None:
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy)
            if mps is not None:
                torch.mps.set_rng_state(mps)


def seed_globally(seed: int) -> None:
    """Seed the global generators, for layers (dropout, weight initialisation) that take none."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)


def clock(device: torch.device) -> float:
    """Read the wall clock in seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def forget_peak_memory(device: torch.device) -> None:
    """Start a new measurement of peak memory (CUDA only; a process's own peak cannot be reset)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Say how many bytes were used at most: on CUDA since the last reset, else of the process's resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def device_name(
    device: torch.device, precision: Precision = "float32", compiled: bool = False, beside: int = 1, parts: int = 1
) -> str:
    """Name the device as a record shows it, and how steps are computed there.

    Args:
        device: the device.
        precision: of forward passes.
        compiled: whether they are compiled.
        beside: how many runs share it, side by side.
        parts: into how many parts batches had to be split, as it lacked memory.

    Returns:
        For example "cuda: NVIDIA H200, bf16" or "cpu: 1 thread, 2 side by side".
    """
    name = device.type
    if device.type == "cuda":
        name = f"cuda: {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        name = f"cpu: {threads} thread{'s' if threads > 1 else ''}"
    traits = [("bf16", precision == "bf16"), ("compiled", compiled), ("deterministic", deterministic())]
    traits += [(f"{beside} side by side", beside > 1), (f"batches in {parts} parts", parts > 1)]
    return ", ".join([name, *(trait for trait, holds in traits if holds)])
