"""Who does the runs of a list: this process, one after another, or worker processes, side by side.

A worker is a process of its own with its own workbench, and lives as long as the list. It is told what to do in a few
words, finds data and base model itself, and sends home what a run gives. Only this process writes records, outputs and
unlearned weights.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from salun.device import deterministic, pick_device, settle_threads
from salun.errors import SalunError, one_line
from salun.experiments.config import Experiment
from salun.experiments.plugins import load_plugins
from salun.experiments.record import ForgettingProblem, Record, resolved_settings, run_id
from salun.experiments.run import Result, Workbench
from salun.metrics import Evaluation
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, Progress, no_callback

Cell = tuple[str, str]

_PATIENCE = 10.0

_PAUSE = 0.1

_UP = "up"


@dataclass(frozen=True)
class Order:
    """A run that is to be done.

    Attributes:
        experiment: what to do.
        seed: of the run; None where nothing but the base model is to be trained.
        id: of the record that it gives, or the base model's identity.
        weights: whether the unlearned model is wanted.
        watched: whether anybody watches its progress.
    """

    experiment: Experiment
    seed: int | None
    id: str
    weights: bool = False
    watched: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a run gives.

    Attributes:
        record: of the run.
        evaluation: its outputs, with the base model's.
        checkpoint: the unlearned model, where it is wanted.
    """

    record: Record
    evaluation: Evaluation
    checkpoint: Checkpoint | None


@dataclass(frozen=True)
class Lost:
    """A run that gives nothing.

    Attributes:
        reason: why, in one line.
        trace: of an error that nobody foresaw, where in the code it arose.
    """

    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Answer:
    """What a worker says of an order.

    Attributes:
        id: of the order.
        outcome: what the run gives; None of a base model, which is found in its file.
        worn: whether the worker is in a state that no other run should depend on.
    """

    id: str
    outcome: Outcome | Lost | None
    worn: bool = False


class Hands(Protocol):
    """Whoever does runs; a context manager."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def prepare(self, untrained: Mapping[str, tuple[Experiment, ForgettingProblem]]) -> dict[str, Lost]:
        """See to it that base models can be had.

        Args:
            untrained: those that are in no file yet, by identity, with an experiment on each.

        Returns:
            Those that cannot be had, by identity.
        """

    def free(self) -> bool:
        """Tell whether another run can be taken."""

    def rank(self, cell: Cell) -> int:
        """Tell how well a run on a base model and a forget set would fit now; the lowest fits best."""

    def take(self, order: Order, problem: ForgettingProblem, callback: Callback) -> None:
        """Begin a run."""

    def finished(self) -> tuple[str, Outcome | Lost]:
        """Wait until one of the runs taken is over; gives its id and what came of it."""


class Alone:
    """Does runs in this process, one at a time.

    Attributes:
        bench: data sets and base models.
        taken: the run that is to be done next.
    """

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench
        self.taken: tuple[Order, ForgettingProblem, Callback] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.taken = None

    def prepare(self, untrained: Mapping[str, tuple[Experiment, ForgettingProblem]]) -> dict[str, Lost]:  # noqa: ARG002
        """Do nothing: each base model is trained by the first run that needs it.

        Args:
            untrained: base models that are in no file yet.

        Returns:
            None of them; what cannot be had shows then.
        """
        return {}

    def free(self) -> bool:
        """Tell whether another run can be taken.

        Returns:
            Whether none is waiting.
        """
        return self.taken is None

    def rank(self, cell: Cell) -> int:  # noqa: ARG002 - any is as good as any other
        """Tell how well a run would fit now.

        Args:
            cell: base model and forget set.

        Returns:
            0.
        """
        return 0

    def take(self, order: Order, problem: ForgettingProblem, callback: Callback) -> None:
        """Take a run, to do it once its outcome is asked for.

        Args:
            order: the run.
            problem: what it is done to.
            watch: is told of every step.
        """
        self.taken = order, problem, callback

    def finished(self) -> tuple[str, Outcome | Lost]:
        """Do the run that was taken.

        Returns:
            Its id and what came of it.
        """
        assert self.taken is not None
        (order, problem, callback), self.taken = self.taken, None
        try:
            return order.id, done(order, problem, self.bench, callback)
        except Exception as error:  # one run that fails does not end the others
            return order.id, _lost(error)


def done(order: Order, problem: ForgettingProblem, bench: Workbench, callback: Callback) -> Outcome:
    """Do a run.

    Args:
        order: the run.
        problem: what it is done to.
        bench: data sets and base models.
        watch: is told of every step.

    Returns:
        What it gives.

    Raises:
        SalunError: its base model or mask cannot be had.
    """
    assert order.seed is not None
    result: Result = bench.run(order.experiment, problem, order.seed, callback)
    return Outcome(result.record, result.evaluation, result.checkpoint if order.weights else None)


# In the worker's process


@dataclass(frozen=True)
class Setup:
    """What a worker needs to be like this process.

    Attributes:
        device: its name.
        deterministic: whether the same seed must give the same bits.
        data_dir: where data sets lie.
        checkpoints: where base models are kept.
        compiled: whether models are compiled for their steps.
        plugins: files that are run first.
        beside: how many workers there are.
        save_every: seconds after which the state of a training is written.
        skip_corrupt: whether images of a folder that cannot be decoded are left out.
    """

    device: str
    deterministic: bool
    data_dir: Path
    checkpoints: Path
    compiled: bool
    plugins: tuple[Path, ...]
    beside: int
    save_every: float
    skip_corrupt: bool = False

    def bench(self) -> Workbench:
        """Set a worker's process up.

        Returns:
            Its workbench.

        Raises:
            SalunError: the device or a plugin cannot be had.
        """
        device = pick_device(self.device, self.deterministic)
        if self.plugins:
            load_plugins(self.plugins)
        return Workbench(
            device,
            self.data_dir,
            self.checkpoints,
            compiled=self.compiled,
            beside=self.beside,
            save_every=self.save_every,
            skip_corrupt=self.skip_corrupt,
        )


def setup_like(bench: Workbench, plugins: tuple[Path, ...], workers: int) -> Setup:
    """Describe this process to its workers.

    Args:
        bench: of this process.
        plugins: files that were run in it.
        workers: how many there are.

    Returns:
        What they need.
    """
    return Setup(
        device=str(bench.device),
        deterministic=deterministic(),
        data_dir=bench.data_dir,
        checkpoints=bench.checkpoints,
        compiled=bench.compiled,
        plugins=plugins,
        beside=workers,
        save_every=bench.save_every,
        skip_corrupt=bench.skip_corrupt,
    )


def _serve(link: Connection, setup: Setup) -> None:
    """Do orders until the other side hangs up: all that a worker's process does."""
    Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("salun").setLevel(logging.ERROR)  # what it warns of the parent has told
    try:
        bench = setup.bench()
    except SalunError as error:
        _say(link, SalunError(str(error)))
        return
    _say(link, _UP)
    while True:
        try:
            order = pickle.loads(link.recv_bytes())
        except (EOFError, OSError):
            return
        _say(link, answer(order, bench, _telling(link) if order.watched else no_callback))


def _end_with_parent() -> None:
    """End this process, whatever it is doing, as soon as its parent is no more."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _say(link: Connection, something: object) -> None:
    """Send something home; where nobody listens any more, end this process."""
    try:
        link.send_bytes(pickle.dumps(something))
    except OSError:
        os._exit(1)


def _telling(link: Connection) -> Callback:
    """Watch a training for the parent."""
    latest = -_PAUSE

    def tell(step: Progress) -> None:
        nonlocal latest
        if step.done is not None or time.monotonic() - latest >= _PAUSE:
            _say(link, step)
            latest = time.monotonic()

    return tell


def answer(order: Order, bench: Workbench, callback: Callback) -> Answer:
    """Do an order in a worker's process, whatever comes of it.

    Args:
        order: what to do.
        bench: data sets and base models.
        watch: is told of every step.

    Returns:
        What to send home.
    """
    try:
        problem = bench.problem(order.experiment)
        _check_unchanged(order, problem)
        if order.seed is None:
            _train_base(problem, bench, callback)
            return Answer(order.id, None)
        return Answer(order.id, portable(done(order, problem, bench, callback)))
    except Exception as error:  # one run that fails does not end the others
        return Answer(order.id, _lost(error), worn=not isinstance(error, SalunError))


def _check_unchanged(order: Order, problem: ForgettingProblem) -> None:
    """Check that a worker found what the list was planned with."""
    found = problem.spec.identity
    if order.seed is not None:
        found = run_id(resolved_settings(order.experiment, problem), order.seed)
    if found != order.id:
        raise SalunError(f"{problem.spec.path}: base model, data or mask have changed since the command began")


def _train_base(problem: ForgettingProblem, bench: Workbench, callback: Callback) -> None:
    """Train the base model of a problem and write it to its file."""
    bench.on_base = lambda _: callback
    settle_threads(problem.dataset.size, bench.beside)
    bench.base(problem)


def portable(outcome: Outcome) -> Outcome:
    """Bring what a run gives to the CPU, each tensor in memory of its own; pickle sends all that one is part of.

    Args:
        outcome: its mask may still be on the device, and is in one piece.

    Returns:
        The same.
    """
    checkpoint = outcome.checkpoint
    if checkpoint is None or checkpoint.mask is None:
        return outcome
    mask = {name: chosen.cpu().clone() for name, chosen in checkpoint.mask.items()}
    return replace(outcome, checkpoint=replace(checkpoint, mask=mask))


def _lost(error: Exception) -> Lost:
    """Tell why a run gives nothing."""
    if isinstance(error, SalunError):
        return Lost(one_line(str(error)))
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return Lost("out of memory on the device; a smaller batch_size, or fewer runs side by side, need less")
    if isinstance(error, MemoryError):
        return Lost("out of memory; a smaller batch_size, or fewer runs side by side, need less")
    *_, last = traceback.extract_tb(error.__traceback__)
    reason = one_line(f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})")
    return Lost(reason, "".join(traceback.format_exception(error)))


# In the parent's process


@dataclass
class _Worker:
    """A worker as its parent sees it.

    Attributes:
        process: its process.
        link: orders go out, progress and answers come in.
        order: what it is doing.
        watch: of that.
        cells: base models and forget sets that it has had.
        up: whether it came up.
    """

    process: SpawnProcess
    link: Connection
    order: Order | None = None
    callback: Callback = no_callback
    cells: set[Cell] = field(default_factory=set)
    up: bool = False

    def end(self) -> None:
        """End its process at once."""
        self.process.kill()
        self.process.join()
        self.link.close()


class Pool:
    """Does runs in worker processes, several at a time; a context manager that ends them.

    Attributes:
        bench: of this process.
        setup: what workers need.
        size: how many there are; a worker that ends is replaced once there is something to do for it.
        workers: those that are alive.
    """

    def __init__(self, bench: Workbench, plugins: tuple[Path, ...], size: int) -> None:
        self.bench = bench
        self.setup = setup_like(bench, plugins, size)
        self.size = size
        self.workers: list[_Worker] = []

    def __enter__(self) -> Self:
        while len(self.workers) < self.size:
            self.workers.append(_start(self.setup))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self.workers:
            self.workers.pop().end()

    def prepare(self, untrained: Mapping[str, tuple[Experiment, ForgettingProblem]]) -> dict[str, Lost]:
        """Train base models, while workers come up: a single one in this process, several side by side.

        Args:
            untrained: those that are in no file yet, by identity, with an experiment on each.

        Returns:
            Those that cannot be trained or written, by identity.

        Raises:
            SalunError: no worker can be had.
        """
        if len(untrained) == 1:
            return _prepared_here(self.bench, untrained)
        left, barren = list(untrained), {}
        while left or any(worker.order for worker in self.workers):
            while left and self.free():
                experiment, problem = untrained[left[0]]
                callback = self.bench.on_base(problem.spec)
                self.take(Order(experiment, None, left.pop(0)), problem, callback)
            identity, outcome = self.answered()
            if isinstance(outcome, Lost):
                barren[identity] = outcome
        return barren

    def free(self) -> bool:
        """Tell whether another run can be taken.

        Returns:
            Whether a worker has nothing to do, or ended and can be replaced.
        """
        self.workers = [worker for worker in self.workers if worker.order or worker.process.is_alive()]
        return len(self.workers) < self.size or bool(self.idle())

    def idle(self) -> list[_Worker]:
        """List the workers that have nothing to do.

        Returns:
            Workers.
        """
        return [worker for worker in self.workers if worker.order is None]

    def rank(self, cell: Cell) -> int:
        """Tell how well a run would fit now: workers keep what they compute of base models and forget sets.

        Args:
            cell: base model and forget set.

        Returns:
            0 where a free worker has had them, 1 where none has, 2 where another worker has.
        """
        if any(cell in worker.cells for worker in self.idle()):
            return 0
        return 2 if any(cell in worker.cells for worker in self.workers) else 1

    def take(self, order: Order, problem: ForgettingProblem, callback: Callback) -> None:
        """Hand a run to the free worker that it fits best, or to a new one.

        Args:
            order: the run.
            problem: what it is done to; the worker finds its own.
            watch: is told of its steps.
        """
        cell = (problem.spec.identity, problem.split.forget_fingerprint)
        if not self.idle():
            self.workers.append(_start(self.setup))
        worker = min(self.idle(), key=lambda idle: cell not in idle.cells)
        worker.order, worker.callback = replace(order, watched=callback is not no_callback), callback
        worker.cells.add(cell)
        try:
            worker.link.send_bytes(pickle.dumps(worker.order))
        except OSError:
            return  # it has just ended, which is heard in its turn

    def finished(self) -> tuple[str, Outcome | Lost]:
        """Wait until one of the runs taken is over, and show the progress of all meanwhile.

        Returns:
            Its id and what came of it.

        Raises:
            SalunError: no worker can be had.
        """
        number, outcome = self.answered()
        assert outcome is not None
        return number, outcome

    def answered(self) -> tuple[str, Outcome | Lost | None]:
        """Wait until one of the orders given is answered.

        Returns:
            Its id and what came of it.

        Raises:
            SalunError: no worker can be had.
        """
        while True:
            links = {id(worker.link): worker for worker in self.workers}
            for link in wait([worker.link for worker in self.workers]):
                said = self.hear(links[id(link)])
                if said is not None:
                    return said.id, said.outcome

    def hear(self, worker: _Worker) -> Answer | None:
        """Hear what a worker says.

        Args:
            worker: who says something, or has ended.

        Returns:
            The answer to its order, if that is what it says.

        Raises:
            SalunError: no worker can be had.
        """
        try:
            said: Any = pickle.loads(worker.link.recv_bytes())
        except (EOFError, OSError):
            return self.bury(worker)
        if isinstance(said, SalunError):
            raise said
        if isinstance(said, Progress):
            worker.callback(said)
        worker.up = True
        if not isinstance(said, Answer):
            return None
        worker.order = None
        if said.worn:
            self.workers.remove(worker)
            worker.end()
        return said

    def bury(self, worker: _Worker) -> Answer | None:
        """Take a worker away whose process has ended.

        Args:
            worker: the worker.

        Returns:
            The answer that it did not give any more.

        Raises:
            SalunError: none is left, and none has come up that could be replaced.
        """
        worker.process.join(_PATIENCE)
        code = worker.process.exitcode
        self.workers.remove(worker)
        worker.end()
        how = f"ended with status {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        if not worker.up:
            self.size -= 1
        if self.size == 0:
            raise SalunError(f"no worker process comes up: the last one {how}; without --jobs none is needed")
        return None if worker.order is None else Answer(worker.order.id, Lost(f"its process {how}"))


def _prepared_here(bench: Workbench, untrained: Mapping[str, tuple[Experiment, ForgettingProblem]]) -> dict[str, Lost]:
    """Train base models in this process."""
    barren: dict[str, Lost] = {}
    for identity, (_, problem) in untrained.items():
        settle_threads(problem.dataset.size)
        try:
            bench.base(problem)
        except Exception as error:  # what needs another base model is done all the same
            barren[identity] = _lost(error)
    torch.cuda.empty_cache()  # all memory is the workers' from now on
    return barren


def _start(setup: Setup) -> _Worker:
    """Start a worker."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, setup), name="salun worker", daemon=True)
    with _undisturbed():
        process.start()
    there.close()
    return _Worker(process, here)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Start a process that an interrupt from the keyboard does not reach: when it ends is its parent's to say."""
    resource_tracker.ensure_running()  # started later, it would let interrupts through again
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
