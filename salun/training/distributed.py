"""One training on several processes, each with a device and its share of the pixels, through PyTorch's own engine."""

import atexit
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from salun.data.images import Portion
from salun.errors import SalunError
from salun.training.sync_norm import PooledNorms

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_Made = TypeVar("_Made")

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

JOINING = timedelta(minutes=5)

_SILENCE = timedelta(minutes=10)

_PAUSE = 0.1

_LAST_WORDS = 3.0

_FAILED, _HEARD, _GONE = "salun/failed", "salun/heard", "salun/gone"


class StateFile(NamedTuple):
    """Where a process stands among those that a launcher started together.

    Attributes:
        rank: from 0.
        size: their number.
        local: from 0, among those of the same machine.
    """

    rank: int
    size: int
    local: int


def read_place(environment: Mapping[str, str]) -> StateFile | None:
    """Read what a launcher, such as torchrun, tells each process.

    Args:
        environment: variables by name.

    Returns:
        The place; None where the process was started alone.

    Raises:
        SalunError: some of the variables are missing, or are no such numbers.
    """
    if not {"RANK", "WORLD_SIZE"} & set(environment):
        return None
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        raise SalunError(
            f"{', '.join(missing)}: not set, as a launcher does that sets RANK or WORLD_SIZE; try torchrun"
        )
    for name in _NEEDED:
        if name != "MASTER_ADDR" and not environment[name].isdecimal():
            raise SalunError(f"{name} {environment[name]}: must be a whole number from 0")
    place = StateFile(*(int(environment[name]) for name in _NEEDED[:3]))
    if not place.rank < place.size:
        raise SalunError(f"RANK {place.rank}: must be below WORLD_SIZE, which is {place.size}")
    return place if place.size > 1 else None


@dataclass
class Group:
    """The processes of a training; one alone, unless a launcher started several.

    Attributes:
        rank: of this process, from 0.
        size: their number.
        local: rank among those of the same machine.
        store: of texts that all can read and write; None for one alone.
        device: of this process.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    store: "Store | None" = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def leads(self) -> bool:
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def name_device(self, name: str) -> str:
        """Say which device this process takes.

        Args:
            name: as the user gave it.

        Returns:
            As it is for one process; of several, each takes the GPU of its number on its machine, or all the processor.

        Raises:
            SalunError: it names one device for several processes.
        """
        if self.size == 1 or name == "cpu":
            return name
        if name not in ("auto", "cuda"):
            raise SalunError(f"--device {name}: {self.size} processes train together; accepted: auto, cpu, cuda")
        return f"cuda:{self.local}" if name == "cuda" or torch.cuda.is_available() else "cpu"

    def begin(self, device: torch.device, compiled: bool = False) -> None:
        """Let the processes compute together.

        Args:
            device: of this process, of the same kind in all of them.
            compiled: whether the model was to be compiled, which is for one process alone.

        Raises:
            SalunError: the processes cannot be brought together.
        """
        if self.store is None:
            return
        if compiled:
            raise SalunError(f"--compile: {self.size} processes train together; accepted for one alone")
        self.device = device
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        self.store.set(f"salun/device/{self.rank}", device.type)
        kinds = {self.store.get(f"salun/device/{rank}").decode() for rank in range(self.size)}
        if len(kinds) > 1:
            raise SalunError(
                f"the processes compute on {' and '.join(sorted(kinds))}; give --device cpu, or each a GPU"
            )
        try:
            distributed.init_process_group(
                backend, store=self.store, rank=self.rank, world_size=self.size, timeout=_SILENCE
            )
            self.total(torch.ones(1))
        except (RuntimeError, ValueError) as error:
            raise SalunError(
                f"{backend}, by which {self.size} processes train together, cannot start: {error}"
            ) from error

    def end(self) -> None:
        """Part, once all processes are through with what they do together."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def in_turn(self, work: Callable[[], _Made], name: str) -> _Made:
        """Do something in the leading process first, then in all others, which find what it left on disk.

        Args:
            work: to be done.
            name: of the work, once in a training.

        Returns:
            What the work gives.

        Raises:
            RuntimeError: another process failed meanwhile.
        """
        if self.store is None:
            return work()
        if not self.leads:
            self.wait_for(f"salun/done/{name}")
            return work()
        made = work()
        self.store.set(f"salun/done/{name}", "")
        return made

    def wait_for(self, name: str) -> None:
        """Wait until another process has done something, however long that takes.

        Args:
            name: what it sets in the store.

        Raises:
            RuntimeError: another process failed meanwhile.
        """
        store = cast("Store", self.store)
        while not store.check([name]):
            if store.check([_FAILED]):
                raise distributed.DistError("another process failed")
            time.sleep(_PAUSE)

    def total(self, values: Tensor) -> Tensor:
        """Add up what all processes have.

        Args:
            values: of the same shape in each.

        Returns:
            The sum, the same bits in each process.
        """
        if self.size == 1:
            return values
        moved = values.to(self.device, copy=True)
        distributed.all_reduce(moved)
        return moved.to(values.device)

    def check_same(self, value: bool, fault: str) -> None:
        """Check that all processes find the same.

        Args:
            value: what this one finds.
            fault: what is wrong where they differ.

        Raises:
            SalunError: they differ.
        """
        if self.total(torch.tensor([float(value)])).item() not in (0.0, float(self.size)):
            raise SalunError(fault)

    def leaders(self, value: bool) -> bool:
        """Let all processes go by what the leading one finds.

        Args:
            value: what this one finds.

        Returns:
            What the leading one finds.
        """
        return bool(self.total(torch.tensor([float(value and self.leads)])).item())

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Let a model's gradients be the mean over the processes.

        Args:
            model: on its device; gets the weights that it has in the leading process.

        Returns:
            What is to be called in its place; the model itself for one process.
        """
        if self.size == 1:
            return model
        with warnings.catch_warnings():
            # The successor of `broadcast_buffers` is not in every torch that will do.
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)

    def norms(self, portion: Portion | None) -> AbstractContextManager[object]:
        """Let batch normalisation see the whole batch.

        Args:
            portion: of the batch that this process computes; None where that is all of it.

        Returns:
            A context for the forward pass.
        """
        return nullcontext() if portion is None else PooledNorms(self.total, counted=portion.own > 0)

    def weighed(self, loss: Tensor, portion: Portion | None) -> Tensor:
        """Weigh the loss of a portion so that the mean over the processes is the mean over the whole batch.

        Args:
            loss: mean over this process's images.
            portion: that they are; None for the whole batch.

        Returns:
            A scalar.
        """
        return loss if portion is None else loss * (self.size * portion.own / portion.whole)

    def pooled(self, sums: Tensor, portion: Portion | None) -> Tensor:
        """Add up sums over a batch's images.

        Args:
            sums: over this process's images.
            portion: that they are; None for the whole batch.

        Returns:
            Sums over the whole batch.
        """
        return sums if portion is None else self.total(sums * (portion.own > 0))

    def is_first_to_fail(self) -> bool:
        """Claim that this process is the first to fail, so that it alone says why.

        Returns:
            Whether it is, as far as can be told.
        """
        try:
            return int(cast("Store", self.store).add(_FAILED, 1)) == 1
        except RuntimeError:
            # The process that kept the store is gone: it was killed, or it would have waited for this one.
            return True

    def fall_silent(self) -> None:
        """Wait until the process that failed first has said why, as launchers end all others with the first to end."""
        store = cast("Store", self.store)
        _wait_until(lambda: store.check([_HEARD]))
        with suppress(RuntimeError):
            store.add(_GONE, 1)

    def say_heard(self) -> None:
        """Let the others end, once this process, which failed first, has said why; they need the store until then."""
        store = cast("Store", self.store)
        with suppress(RuntimeError):
            store.set(_HEARD, "")
        if self.leads:
            _wait_until(lambda: store.add(_GONE, 0) >= self.size - 1)


SINGLE_PROCESS = Group()


@contextmanager
def joined() -> Iterator[Group]:
    """Join the processes that a launcher started together, of which the leading one alone prints.

    A process that fails ends all others; the one that failed first says why, and they say nothing.

    Yields:
        The group; of one where this process was started alone.

    Raises:
        SalunError: the launcher's variables are wrong, the processes do not find each other, or one is gone.
    """
    place = read_place(os.environ)
    if place is None:
        yield SINGLE_PROCESS
        return
    group = Group(place.rank, place.size, place.local, find_others(place))
    with _quiet() if place.rank else nullcontext():
        try:
            yield group
        except BaseException as error:
            first = group.is_first_to_fail()
            _part(group.device)
            if not first:
                group.fall_silent()
                raise SystemExit(2) from None
            atexit.register(group.say_heard)
            if _is_loss(error):
                raise SalunError(
                    f"process {group.rank} lost the others that it trained with; start all again"
                ) from error
            raise


def _wait_until(come: Callable[[], bool]) -> None:
    """Wait until something has come, but not for long, nor for processes that are gone."""
    end = time.monotonic() + _LAST_WORDS
    with suppress(RuntimeError, KeyboardInterrupt):
        while not come() and time.monotonic() < end:
            time.sleep(_PAUSE)


def find_others(place: StateFile) -> "Store":
    """Meet the other processes.

    Args:
        place: of this one.

    Returns:
        A store that all share.

    Raises:
        SalunError: they are not all there in time.
    """
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", place.rank, place.size, timeout=JOINING))
    except (RuntimeError, ValueError, OSError) as error:
        address = f"{os.environ['MASTER_ADDR']}, MASTER_PORT {os.environ['MASTER_PORT']}"
        waited = f"in {JOINING.total_seconds():.0f} s"
        raise SalunError(
            f"MASTER_ADDR {address}: process {place.rank} of {place.size} met no others {waited}"
        ) from error
    return cast("Store", store)


def _part(device: torch.device) -> None:
    """Leave the other processes, so that those that wait for this one learn of it."""
    if distributed.is_initialized() and device.type == "cpu":
        distributed.destroy_process_group()


def _is_loss(error: BaseException) -> bool:
    """Tell whether an error says that other processes are gone."""
    return isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


@contextmanager
def _quiet() -> Iterator[None]:
    """Print nothing but errors."""
    log = logging.getLogger("salun")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            yield
    finally:
        log.setLevel(before)
