"""The executor that does runs on a Ray cluster, as tasks that Ray places, repeats and counts GPUs for.

A worker needs nothing of the command's file system but the data sets: base models, forget sets, masks and plugins are
sent along. Only the command writes records, outputs and weights.
"""

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from math import floor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from types import TracebackType
from typing import Any, Self

from salun import __version__
from salun.device import deterministic, pick_device
from salun.errors import SalunError, one_line
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.executor import Answer, Request, RunFailure, RunRequest, answer, portable
from salun.experiments.plugins import load_plugins
from salun.experiments.problem import base_checkpoint
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, Progress, no_callback

_LOCAL = "local"

_RUNNING = "auto"

_REACHED_WITHIN = 15.0

_LOOK = 1.0

_PAUSE = 0.3

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


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to be like the command.

    Attributes:
        context: of the runs.
        device: its name.
        deterministic: whether the same seed must give the same bits.
        plugins: names and contents of files that are run first.
        folder: to work in, where it exists on the worker's machine.
        version: of the command's package.
    """

    context: RunContext
    device: str
    deterministic: bool
    plugins: tuple[tuple[str, bytes], ...]
    folder: str
    version: str


# In the worker's process


@lru_cache(1)
def _worker_cache(setup: WorkerSetup) -> ModelCache:
    """Set a worker process up, for all runs that it does."""
    if setup.version != __version__:
        raise SalunError(f"a machine has salun {__version__}, the command {setup.version}")
    for name in filter(is_secret, list(os.environ)):
        del os.environ[name]
    logging.getLogger("salun").setLevel(logging.ERROR)  # the command has said what it warns of
    with suppress(OSError):
        os.chdir(setup.folder)
    context = replace(setup.context, device=pick_device(setup.device, setup.deterministic))
    if not context.checkpoints.is_dir():
        context = replace(context, save_every=0.0)  # the command's folder is not on this machine
    with TemporaryDirectory() as folder:
        files = tuple(Path(folder, name) for name, _ in setup.plugins)
        for file, (_, content) in zip(files, setup.plugins, strict=True):
            file.write_bytes(content)
        load_plugins(files)
    return ModelCache(context)


def work(setup: WorkerSetup, request: Request, base: Checkpoint | None, steps: Any = None) -> Answer:
    """Do a request in a worker.

    Args:
        setup: what the worker needs.
        request: a run or a base model.
        base: the base model of a run.
        steps: queue that steps go to; None where nobody watches.

    Returns:
        What it gives, or why it gives nothing.
    """
    try:
        cache = _worker_cache(setup)
    except SalunError as error:
        return RunFailure(one_line(str(error)))
    return portable(answer(request, cache, no_callback if steps is None else _sending(request.id, steps), base))


def is_secret(name: str) -> bool:
    """Tell whether an environment variable is none of a worker's business; Ray's own are.

    Args:
        name: of the variable.

    Returns:
        Whether it holds a key, a token or a password, by its name.
    """
    return _SECRET.search(name) is not None and not name.startswith("RAY_")


def _sending(name: str, steps: Any) -> Callback:
    """Send the steps of a request to the command."""
    latest = -_PAUSE

    def send(step: Progress) -> None:
        nonlocal latest
        if step.done is not None or time.monotonic() - latest >= _PAUSE:
            steps.actor.put_nowait.remote(pickle.dumps((name, step)))
            latest = time.monotonic()

    return send


# In the command's process


class RayExecutor:
    """Does requests as tasks of a Ray cluster; a task whose worker or machine is lost is done again once.

    Args:
        cache: of this process.
        request: what was asked of Ray.
        runs: how many there are to do.
    """

    is_parallel = True

    def __init__(self, cache: ModelCache, request: RayRequest, runs: int) -> None:
        self._cache = cache
        self._asked = request
        self._most = min(runs, request.most or runs)
        self._running: dict[Any, tuple[str, Callback]] = {}
        self._bases: dict[str, Any] = {}
        self._steps: Any = None
        self._opened = False
        self._slots = 0
        self._looked = -_LOOK

    def __enter__(self) -> Self:
        self._opened = connect(self._asked.address)
        try:
            self._begin()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def _begin(self) -> None:
        """Settle what each task needs, and that it finds room."""
        import ray

        context = self._cache.context
        gpus = gpus_of(self._asked, _nodes())
        self._gpus = gpus
        if not self._room():
            need = f"CPU and {gpus:g} GPU" if gpus else "CPU"
            raise SalunError(f"--ray: no machine of the cluster has room for a run, {need}")
        most = max(rooms(_nodes(), gpus).values())
        checkpoints = Path(os.path.abspath(context.checkpoints))
        with suppress(OSError):
            checkpoints.mkdir(parents=True, exist_ok=True)
        context = replace(
            context,
            data_dir=Path(os.path.abspath(context.data_dir)),
            checkpoints=checkpoints,
            workers=min(most, self._most),
            plugins=(),
        )
        plugins = tuple((file.name, file.read_bytes()) for file in self._cache.context.plugins)
        device = device_of(self._asked.device, gpus)
        self._setup = ray.put(WorkerSetup(context, device, deterministic(), plugins, os.getcwd(), __version__))
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1, scheduling_strategy="SPREAD")(work)

    def _close(self) -> None:
        """End all tasks, and leave the cluster; one that was started by this process ends."""
        import ray

        for call in self._running:
            with suppress(ray.exceptions.RayError):
                ray.cancel(call, force=True)
        if self._steps is not None:
            self._steps.shutdown(force=True)
        if self._opened:
            ray.shutdown()

    def _room(self) -> int:
        """Count the tasks that find room on the cluster; machines that join are seen after a second."""
        if time.monotonic() - self._looked >= _LOOK:
            self._slots, self._looked = sum(rooms(_nodes(), self._gpus).values()), time.monotonic()
        return min(self._slots, self._most)

    def has_room(self) -> bool:
        """Tell whether another request can be submitted."""
        return len(self._running) < self._room()

    def submit(self, request: Request, callback: Callback) -> None:
        """Hand a request to Ray, with the base model of a run, which is stored once."""
        import ray

        if self._steps is None and callback is not no_callback:
            from ray.util.queue import Queue

            self._steps = Queue(actor_options={"num_cpus": 0})
        base, spec = None, request.spec
        if isinstance(request, RunRequest):
            if spec.identity not in self._bases:
                self._bases[spec.identity] = ray.put(replace(base_checkpoint(spec, self._cache), optimizer=None))
            base = self._bases[spec.identity]
        sent = replace(request, spec=replace(spec, checkpoint=None))
        steps = None if callback is no_callback else self._steps
        self._running[self._task.remote(self._setup, sent, base, steps)] = request.id, callback

    def next_finished(self) -> tuple[str, Answer]:
        """Wait until a request is done, and show the progress of all meanwhile."""
        import ray

        while True:
            ready, _ = ray.wait(list(self._running), timeout=_PAUSE)
            self._show_steps()
            for call in ready:
                name, _ = self._running.pop(call)
                try:
                    found: Answer = ray.get(call)
                except ray.exceptions.RayError as error:
                    return name, RunFailure(f"its worker was lost twice ({type(error).__name__})")
                return name, found

    def _show_steps(self) -> None:
        """Show the steps that workers have sent."""
        import ray

        if self._steps is None:
            return
        callbacks = dict(self._running.values())
        try:
            sent = self._steps.get_nowait_batch(self._steps.qsize())
        except ray.exceptions.RayError:  # the queue was lost with its machine; runs do without
            self._steps = None
            return
        for name, step in map(pickle.loads, sent):
            callbacks.get(name, no_callback)(step)


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


def _nodes() -> list[dict[str, Any]]:
    """List the machines of the cluster."""
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
    """Try to connect to a cluster in a process of its own, since Ray itself tries for minutes."""
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
