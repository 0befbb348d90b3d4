"""What an executor is asked for and gives, and the one that does runs in this process."""

import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Protocol, Self

import torch

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, Split, make_split
from salun.device import settle_threads
from salun.errors import SalunError, one_line
from salun.experiments.base_model import BaseModelSpec
from salun.experiments.base_training import train_base
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache
from salun.experiments.problem import ForgettingProblem, dataset_of
from salun.experiments.run import PreviousRun, RunResult, run_once
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, Progress
from salun.unlearning.mask import Mask


@dataclass(frozen=True)
class BaseRequest:
    """A base model that is to be trained.

    Attributes:
        id: its identity.
        spec: how.
        split: of its data.
    """

    id: str
    spec: BaseModelSpec
    split: Split


@dataclass(frozen=True)
class RunRequest:
    """A run that is to be done.

    Attributes:
        id: of its record.
        experiment: what to do.
        seed: of the run.
        spec: the base model, which is trained.
        split: of the data.
        mask: loaded from a file, where the experiment names one.
        keep_weights: whether the unlearned model is wanted.
        previous: the run of the request before; None of a first one.
    """

    id: str
    experiment: Experiment
    seed: int
    spec: BaseModelSpec
    split: Split
    mask: Mask | None
    keep_weights: bool
    previous: PreviousRun | None = None


@dataclass(frozen=True)
class RunFailure:
    """Why a run gives nothing.

    Attributes:
        reason: one line.
        trace: of an unforeseen error, where in the code it arose.
    """

    reason: str
    trace: str = ""


Request = BaseRequest | RunRequest

Answer = Checkpoint | RunResult | RunFailure


class Executor(Protocol):
    """Does the runs of a list; a context manager that ends its workers."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def has_room(self) -> bool:
        """Tell whether another request can be submitted."""

    def submit(self, request: Request, callback: Callback) -> None:
        """Begin what a request asks for; the callback is told of its steps."""

    def next_finished(self) -> tuple[str, Answer]:
        """Wait until one of the requests is done; gives its id and what came of it."""


class SerialExecutor:
    """Does requests in this process, one at a time.

    Args:
        cache: data sets and base models.
    """

    def __init__(self, cache: ModelCache) -> None:
        self._cache = cache
        self._waiting: tuple[Request, Callback] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waiting = None

    def has_room(self) -> bool:
        """Tell whether no request is waiting."""
        return self._waiting is None

    def submit(self, request: Request, callback: Callback) -> None:
        """Take a request, to do it once its answer is asked for."""
        self._waiting = request, callback

    def next_finished(self) -> tuple[str, Answer]:
        """Do the request that was submitted."""
        assert self._waiting is not None
        (request, callback), self._waiting = self._waiting, None
        return request.id, answer(request, self._cache, callback)


def answer(request: Request, cache: ModelCache, callback: Callback, base: Checkpoint | None = None) -> Answer:
    """Do what a request asks for, whatever comes of it.

    Args:
        request: a run or a base model.
        cache: of this process.
        callback: is told of every step.
        base: the base model; None where its file can be read here.

    Returns:
        What it gives, or why it gives nothing.
    """
    try:
        dataset = dataset_of(request.spec, cache)
        settle_threads(dataset.size, cache.context.workers)
        _check_unchanged(request, dataset, cache)
        problem = ForgettingProblem(request.spec, dataset, request.split)
        if isinstance(request, BaseRequest):
            return train_base(problem, cache.context, callback)
        if base is not None:
            cache.get(("base", request.spec.identity), lambda: base)
        problem = replace(problem, mask=request.mask)
        result = run_once(request.experiment, problem, request.seed, cache, callback, request.previous)
        return result if request.keep_weights else replace(result, checkpoint=None)
    except Exception as error:  # one run that fails does not end the others
        return _failure(error)


def reporting(name: str, send: Callable[[tuple[str, Progress]], object], pause: float) -> Callback:
    """Make the callback of a worker, which sends steps to the command, not more often than they are looked at.

    Args:
        name: id of the request.
        send: takes the id and a step.
        pause: seconds between two steps; the last of an epoch is always sent.

    Returns:
        The callback.
    """
    latest = -pause

    def report(step: Progress) -> None:
        nonlocal latest
        if step.done is not None or time.monotonic() - latest >= pause:
            send((name, step))
            latest = time.monotonic()

    return report


def portable(found: Answer) -> Answer:
    """Bring a mask to the CPU, each tensor in memory of its own; pickle sends all that one is part of.

    Args:
        found: its mask may still be on the device, and in one piece.

    Returns:
        The same.
    """
    checkpoint = found.checkpoint if isinstance(found, RunResult) else None
    if checkpoint is None or checkpoint.mask is None:
        return found
    assert isinstance(found, RunResult)
    mask = {name: chosen.cpu().clone() for name, chosen in checkpoint.mask.items()}
    return replace(found, checkpoint=replace(checkpoint, mask=mask))


def _check_unchanged(request: Request, dataset: Dataset, cache: ModelCache) -> None:
    """Check that this process finds the data that the list was planned with."""
    spec = request.spec
    key = ("fingerprint", spec.path, spec.moved_to or spec.dataset, spec.split_seed)
    found = cache.get(key, lambda: make_split(dataset, ForgetRequest(), spec.split_seed).fingerprint)
    if found != request.split.fingerprint:
        raise SalunError(f"{spec.dataset}: the data have changed since the command began, or differ on this machine")


def _failure(error: Exception) -> RunFailure:
    """Say why a run gives nothing."""
    if isinstance(error, SalunError):
        return RunFailure(one_line(str(error)))
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return RunFailure("out of memory on the device; a smaller batch_size, or fewer runs side by side, need less")
    if isinstance(error, MemoryError):
        return RunFailure("out of memory; a smaller batch_size, or fewer runs side by side, need less")
    *_, last = traceback.extract_tb(error.__traceback__)
    reason = one_line(f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})")
    return RunFailure(reason, "".join(traceback.format_exception(error)))
