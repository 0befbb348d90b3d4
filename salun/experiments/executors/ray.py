"""The executor that does runs on a Ray cluster, as tasks that Ray places, repeats and counts GPUs for.

A worker needs nothing of the command's file system but the data sets: base models, forget sets, masks and plugins are
sent along. Only the command writes records, outputs and weights.
"""

import logging
import os
import pickle
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

from salun import __version__
from salun.device import deterministic, pick_device
from salun.errors import SalunError, one_line
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.cluster import RayRequest, connect, device_of, gpus_of, is_secret, machines, rooms
from salun.experiments.executors.executor import Answer, Request, RunFailure, RunRequest, answer, portable, reporting
from salun.experiments.plugins import load_plugins, source_file
from salun.experiments.problem import base_checkpoint
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, no_callback

_LOOK = 1.0

_PAUSE = 0.3


@dataclass(frozen=True)
class _WorkerSetup:
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
def _worker_cache(setup: _WorkerSetup) -> ModelCache:
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
            source_file(file).write_bytes(content)
        load_plugins(files)
    return ModelCache(context)


def _work(setup: _WorkerSetup, request: Request, base: Checkpoint | None, steps: Any = None) -> Answer:
    """Do a request in a worker; `steps` is a queue, or None where nobody watches."""
    try:
        cache = _worker_cache(setup)
    except SalunError as error:
        return RunFailure(one_line(str(error)))
    if steps is None:
        return portable(answer(request, cache, no_callback, base))
    callback = reporting(request.id, lambda step: steps.actor.put_nowait.remote(pickle.dumps(step)), _PAUSE)
    return portable(answer(request, cache, callback, base))


# In the command's process


class RayExecutor:
    """Does requests as tasks of a Ray cluster; a task whose worker or machine is lost is done again once.

    Args:
        cache: of this process.
        request: what was asked of Ray.
        runs: how many there are to do.
    """

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
        gpus = gpus_of(self._asked, machines())
        self._gpus = gpus
        if not self._room():
            need = f"CPU and {gpus:g} GPU" if gpus else "CPU"
            raise SalunError(f"--ray: no machine of the cluster has room for a run, {need}")
        most = max(rooms(machines(), gpus).values())
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
        plugins = tuple((file.name, source_file(file).read_bytes()) for file in self._cache.context.plugins)
        device = device_of(self._asked.device, gpus)
        self._setup = ray.put(_WorkerSetup(context, device, deterministic(), plugins, os.getcwd(), __version__))
        self._task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=1, scheduling_strategy="SPREAD")(_work)

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
            self._slots, self._looked = sum(rooms(machines(), self._gpus).values()), time.monotonic()
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
