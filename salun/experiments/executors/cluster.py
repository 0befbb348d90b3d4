"""A Ray cluster as the command sees it: what is asked of it, joining it, and what finds room on its machines."""

import logging
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import floor
from threading import current_thread, main_thread
from typing import Any

from salun.errors import SalunError, one_line

_LOCAL = "local"

_RUNNING = "auto"

_REACHED_WITHIN = 15.0

_SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD)S?$", re.IGNORECASE)

_MISSING = "--ray: Ray is not installed here; pip install 'salun[ray]' does that"


@dataclass(frozen=True)
class RayRequest:
    """What a user asks of Ray.

    Attributes:
        address: of a cluster; empty for one that runs on this machine, or is started on it where none does.
        gpus: share of a GPU for each run; None for a whole one where the cluster has any, else none.
        most: runs side by side at most; None for as many as find room.
        device: as it was asked for.
    """

    address: str = ""
    gpus: float | None = None
    most: int | None = None
    device: str = "auto"


def is_secret(name: str) -> bool:
    """Tell whether an environment variable is none of a worker's business; Ray's own are.

    Args:
        name: of the variable.

    Returns:
        Whether it holds a key, a token or a password, by its name.
    """
    return _SECRET.search(name) is not None and not name.startswith("RAY_")


def rooms(found: list[dict[str, Any]], gpus: float) -> dict[str, int]:
    """Count how many runs find room on each machine of a cluster.

    Args:
        found: machines as Ray lists them.
        gpus: share of a GPU that a run needs; each needs a CPU too.

    Returns:
        Runs side by side, by machine; of those that have room for any.
    """
    room = {}
    for node in found:
        resources = node["Resources"] if node["Alive"] else {}
        slots = int(resources.get("CPU", 0))
        if gpus > 0:
            slots = min(slots, int(resources.get("GPU", 0)) * floor(1 / gpus + 1e-6))
        if slots > 0:
            room[str(node["NodeID"])] = slots
    return room


def gpus_of(request: RayRequest, found: list[dict[str, Any]]) -> float:
    """Settle which share of a GPU a run gets.

    Args:
        request: what was asked of Ray.
        found: machines as Ray lists them.

    Returns:
        As asked for; else 1 where there is any GPU and the CPU was not asked for, else 0.

    Raises:
        SalunError: device and share do not go together, or the cluster has no GPU.
    """
    there = any(node["Alive"] and node["Resources"].get("GPU", 0) for node in found)
    if request.device in ("cpu", "mps"):
        if request.gpus:
            raise SalunError(f"--gpus-per-run {request.gpus:g}: does not go with --device {request.device}")
        return 0.0
    wanted = request.gpus if request.gpus is not None else float(there or request.device != "auto")
    if wanted and not there:
        raise SalunError("--ray: no machine of the cluster has a GPU; --gpus-per-run 0 --device cpu goes without")
    if not wanted and request.device != "auto":
        raise SalunError(f"--gpus-per-run 0: does not go with --device {request.device}")
    return wanted


def device_of(asked: str, gpus: float) -> str:
    """Name the device of workers.

    Args:
        asked: on the command line; which GPU it is Ray decides.
        gpus: share of one that each has.

    Returns:
        The name.
    """
    if gpus:
        return "cuda"
    return "mps" if asked == "mps" else "cpu"


def machines() -> list[dict[str, Any]]:
    """List the machines of the cluster that this process has joined, as Ray describes them."""
    import ray

    return list(ray.nodes())


def connect(address: str) -> bool:
    """Connect this process to a cluster, or start one.

    Args:
        address: of the cluster; "local" starts one; empty takes that of `RAY_ADDRESS`, else one that runs on this
            machine, else starts one.

    Returns:
        Whether this process was not connected before.

    Raises:
        SalunError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # read at import; else Ray prints of each worker lost
    try:
        import ray
    except ImportError as error:
        raise SalunError(_MISSING) from error
    if ray.is_initialized():
        return False
    wanted = address or os.environ.get("RAY_ADDRESS", "") or _RUNNING
    if wanted != _LOCAL and (reason := _unreachable(wanted)) is not None:
        if wanted != _RUNNING or address:
            raise SalunError(f"--ray {wanted}: {reason}")
        wanted = _LOCAL
    with _quietly():
        try:
            ray.init(wanted, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises errors of all kinds, and each is about the cluster
            raise SalunError(f"--ray {wanted}: {one_line(str(error))}") from error
    return True


def _unreachable(address: str) -> str | None:
    """Try to connect to a cluster: to its port, then in a process of its own, since Ray itself tries for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACHED_WITHIN).close()
        except (OSError, OverflowError) as error:
            return f"no Ray cluster answers there: {one_line(str(error))}"
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    command = [sys.executable, "-c", code, address]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_REACHED_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return f"no Ray cluster answers within {_REACHED_WITHIN:.0f} s"
    if tried.returncode == 0:
        return None
    if address == _RUNNING:
        return "no Ray cluster runs on this machine"
    return one_line((tried.stderr.strip() or "cannot be reached").splitlines()[-1])


@contextmanager
def _quietly() -> Iterator[None]:
    """Start or join Ray so that it says nothing, reports to nobody, learns no secrets, and leaves SIGTERM alone."""
    kept = dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    for name in filter(is_secret, kept):
        del os.environ[name]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        yield
    finally:
        del os.environ["RAY_USAGE_STATS_ENABLED"]
        os.environ.update(kept)
        if current_thread() is main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
