"""What is fastest on the machine at hand, where no rule can tell: measured once, and remembered."""

import hashlib
import os
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F

from salun.device import SMALL_IMAGE, Precision, autocast, deterministic, placed, settle_precision
from salun.errors import SalunError
from salun.io.files import read_json, write_text
from salun.models.architecture import Architecture
from salun.models.build import build

_IMAGES = 16

_REPEATS = 2

_ROUNDS = 2

_AGREEING = 1.5

_WORTHWHILE = 1.15

_NATIVE = ("avx512_bf16", "amx_bf16", "bf16")

_CPU = torch.device("cpu")


def precision_for(asked: Precision, architecture: Architecture, device: torch.device) -> Precision:
    """Choose the precision of a model's forward passes.

    Args:
        asked: "float32" and "bf16" are taken as they are. "auto" is bf16 on CUDA, and on a processor that multiplies
            it natively where a measurement shows that it pays; elsewhere float32, and also where bits count, and for
            images of at most 16 pixels, whose time does not go into products.
        architecture: of the model.
        device: where it runs.

    Returns:
        "float32" or "bf16".
    """
    ruled = asked != "auto" or device.type != "cpu" or architecture.size <= SMALL_IMAGE or deterministic()
    if ruled or not multiplies_bf16():
        return settle_precision(asked, device)
    return "bf16" if bf16_gain(architecture, torch.get_num_threads()) >= _WORTHWHILE else "float32"


def _capabilities() -> dict[str, object]:
    """Tell what the processor can do."""
    return dict(torch.cpu.get_capabilities()) if hasattr(torch.cpu, "get_capabilities") else {}


def multiplies_bf16() -> bool:
    """Tell whether the processor has instructions for products of bf16.

    Returns:
        Whether torch knows of such.
    """
    return any(_capabilities().get(name, False) for name in _NATIVE)


@lru_cache
def bf16_gain(architecture: Architecture, threads: int) -> float:
    """Tell how many times as fast a model's steps are in bf16 as in float32.

    Args:
        architecture: of the model.
        threads: of torch on the CPU, as they are set.

    Returns:
        The ratio, as it was first measured on this machine with this torch, the two in turn; it is kept in the user's
        cache folder.
    """
    here = (sorted(_capabilities().items()), torch.__version__, threads, architecture)
    path = cache_folder() / f"bf16_{hashlib.sha256(repr(here).encode()).hexdigest()[:16]}.json"
    kept = _read_ratio(path)
    if kept is not None:
        return kept
    rounds = [(step_seconds(architecture, "float32"), step_seconds(architecture, "bf16")) for _ in range(_ROUNDS)]
    ratios = [plain / short for plain, short in rounds]
    ratio = min(plain for plain, _ in rounds) / min(short for _, short in rounds)
    # Processes that measured at the same time must go by one figure: that of the first.
    if (kept := _read_ratio(path)) is not None:
        return kept
    # What two rounds do not agree on was measured beside other work: the next process measures again.
    if max(ratios) <= _AGREEING * min(ratios):
        with suppress(SalunError):
            write_text(path, f"{ratio:.3f}\n")
    return ratio


def _read_ratio(path: Path) -> float | None:
    """Read a measurement."""
    with suppress(SalunError):
        kept = read_json(path)
        if isinstance(kept, int | float):
            return float(kept)
    return None


def cache_folder() -> Path:
    """Tell where measurements are kept.

    Returns:
        `salun` in the user's cache folder, which `XDG_CACHE_HOME` names, or `~/.cache`.
    """
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "salun"


def step_seconds(architecture: Architecture, precision: Precision) -> float:
    """Measure a forward and backward pass of 16 images on the CPU.

    Args:
        architecture: of the model.
        precision: of the forward pass.

    Returns:
        The shortest of two, in seconds, after one that is not counted.
    """
    shape = (_IMAGES, architecture.channels, architecture.size, architecture.size)
    with torch.random.fork_rng(devices=[]):
        model, images = placed(build(architecture), _CPU), torch.randn(shape)
    labels = torch.zeros(_IMAGES, dtype=torch.int64)
    seconds = []
    for _ in range(1 + _REPEATS):
        begun = time.perf_counter()
        with autocast(precision, _CPU):
            logits = model(images)
        F.cross_entropy(logits.float(), labels).backward()
        seconds.append(time.perf_counter() - begun)
    return min(seconds[1:])
