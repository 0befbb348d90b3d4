"""The executor that does runs in worker processes of this machine, side by side."""

import logging
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.queues import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

import torch

from salun.device import deterministic, pick_device
from salun.errors import SalunError, one_line
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.executor import Answer, Request, RunFailure, answer, portable, reporting
from salun.experiments.plugins import load_plugins
from salun.training.progress import Callback, Progress, no_callback

_PAUSE = 0.1

_UP = ""

_spawn = multiprocessing.get_context("spawn")


# In the worker's process


@dataclass
class _Worker:
    """What a worker process keeps: its cache, or why it has none, and the queue that steps go to."""

    cache: ModelCache | RunFailure
    steps: "SimpleQueue[tuple[str, Progress | None]]"


_worker: list[_Worker] = []


def _begin(context: RunContext, same_bits: bool, steps: "SimpleQueue[tuple[str, Progress | None]]") -> None:
    """Set a worker process up; it ends with its parent, and leaves an interrupt to it."""
    Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("salun").setLevel(logging.ERROR)  # the parent has said what it warns of
    try:
        pick_device(str(context.device), same_bits)
        load_plugins(context.plugins)
        _worker[:] = [_Worker(ModelCache(context), steps)]
    except SalunError as error:
        _worker[:] = [_Worker(RunFailure(one_line(str(error))), steps)]
    steps.put((_UP, None))


def _end_with_parent() -> None:
    """End this process, whatever it is doing, as soon as its parent is no more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(request: bytes, is_watched: bool) -> bytes:
    """Do a request; pickled here and there, since tensors that a pool sends would keep a file open each."""
    (worker,) = _worker
    if isinstance(worker.cache, RunFailure):
        return pickle.dumps(worker.cache)
    wanted: Request = pickle.loads(request)
    callback = reporting(wanted.id, worker.steps.put, _PAUSE) if is_watched else no_callback
    return pickle.dumps(portable(answer(wanted, worker.cache, callback)))


# In the parent's process


@dataclass(frozen=True)
class _Submitted:
    """A request that is under way."""

    request: Request
    callback: Callback


class ProcessExecutor:
    """Does requests in worker processes; a worker that dies takes the others along, whose requests are done again.

    Args:
        context: of the runs.
        workers: how many processes.
    """

    def __init__(self, context: RunContext, workers: int) -> None:
        self._context = replace(context, workers=workers)
        self._workers = workers
        self._running: dict[Future[bytes], _Submitted] = {}
        self._suspects: list[_Submitted] = []
        self._renew = False
        self._is_up = False

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        """Make a pool; its processes start with the first requests."""
        self._others = set(multiprocessing.active_children())
        self._steps: SimpleQueue[tuple[str, Progress | None]] = _spawn.SimpleQueue()
        setup = (self._context, deterministic(), self._steps)
        self._pool = ProcessPoolExecutor(self._workers, _spawn, _begin, setup)
        self._renew = False

    def _stop(self) -> None:
        """End all workers at once."""
        for child in set(multiprocessing.active_children()) - self._others:
            child.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def has_room(self) -> bool:
        """Tell whether another request can be submitted; not while one that may have killed a worker is tried again."""
        return len(self._running) < self._workers and not (self._suspects or self._renew)

    def submit(self, request: Request, callback: Callback) -> None:
        """Hand a request to a worker."""
        torch.cuda.empty_cache()  # a base model may have been trained here; all memory is the workers' now
        self._send(_Submitted(request, callback))

    def _send(self, submitted: _Submitted) -> None:
        """Hand a request to the pool."""
        content = pickle.dumps(replace(submitted.request, spec=replace(submitted.request.spec, checkpoint=None)))
        with _undisturbed():
            future = self._pool.submit(_work, content, submitted.callback is not no_callback)
        self._running[future] = submitted

    def next_finished(self) -> tuple[str, Answer]:
        """Wait until a request is done, and show the progress of all meanwhile."""
        while True:
            if self._suspects and not self._running:
                self._send(self._suspects.pop())
            ready, _ = wait(self._running, timeout=_PAUSE, return_when=FIRST_COMPLETED)
            self._show_steps()
            for future in ready:
                found = self._settle(future)
                if found is not None:
                    return found

    def _settle(self, future: Future[bytes]) -> tuple[str, Answer] | None:
        """Take an answer; None where requests are to be done again, as a worker died."""
        try:
            found: Answer = pickle.loads(future.result())
        except BrokenProcessPool:
            return self._revive()
        request = self._running.pop(future).request
        # What failed for an unforeseen reason may have left its worker in a state that no other run should depend on.
        self._renew |= isinstance(found, RunFailure) and bool(found.trace)
        if self._renew and not self._running:
            self._stop()
            self._start()
        return request.id, found

    def _revive(self) -> tuple[str, Answer] | None:
        """Begin anew after a worker died: what was under way is done again, one at a time; what dies alone fails."""
        self._show_steps()
        if not self._is_up:
            raise SalunError("no worker process comes up; without --jobs none is needed")
        caught = list(self._running.values())
        self._running.clear()
        self._stop()
        self._start()
        if len(caught) == 1:
            return caught[0].request.id, RunFailure("its process ended abruptly: it was killed, or memory ran out")
        self._suspects += caught
        return None

    def _show_steps(self) -> None:
        """Show the steps that workers have sent."""
        callbacks = {each.request.id: each.callback for each in self._running.values()}
        while not self._steps.empty():
            name, step = self._steps.get()
            if step is None:
                self._is_up = True
            else:
                callbacks.get(name, no_callback)(step)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Start processes that an interrupt from the keyboard does not reach: when they end is their parent's to say."""
    resource_tracker.ensure_running()  # started later, it would let interrupts through again
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
