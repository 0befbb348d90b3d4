"""One training on several processes, each with a device, through PyTorch's own engine."""

import atexit
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

from salun.data.images import Batch
from salun.errors import SalunError

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_Made = TypeVar("_Made")

_NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_JOINING = timedelta(minutes=5)
_SILENCE = timedelta(minutes=10)
_PAUSE = 0.1
_LAST_WORDS = 3.0
_FAILED, _HEARD, _GONE = "salun/failed", "salun/heard", "salun/gone"


@dataclass(eq=False)
class Group:
    """The processes of a training; one alone, unless a launcher started several.

    Attributes:
        rank: of this process, from 0; the first is the one that prints and writes.
        local: rank among those of the same machine.
        store: of texts that all can read and write; None for one alone.
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

    @property
    def own(self) -> slice:
        """Which images of each batch this process computes on."""
        return slice(self.rank, None, self.size)

    def name_device(self, name: str) -> str:
        """Say which device this process takes for a name that the user gave: of several, each a GPU of its machine."""
        if self.size == 1 or name == "cpu":
            return name
        if name not in ("auto", "cuda"):
            raise SalunError(f"--device {name}: {self.size} processes train together; accepted: auto, cpu, cuda")
        return f"cuda:{self.local}" if name == "cuda" or torch.cuda.is_available() else "cpu"

    def begin(self, device: torch.device, compiled: bool = False) -> None:
        """Let the processes compute together, on devices of one kind; a compiled model is for one process alone."""
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
            found = " and ".join(sorted(kinds))
            raise SalunError(f"the processes compute on {found}; give --device cpu, or each a GPU")
        try:
            distributed.init_process_group(backend, None, _SILENCE, self.size, self.rank, self.store)
            self.total(torch.ones(1))
        except (RuntimeError, ValueError) as error:
            fault = f"{backend}, by which {self.size} processes train together, cannot start: {error}"
            raise SalunError(fault) from error

    def end(self) -> None:
        """Part, once all processes are through with what they do together."""
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def in_turn(self, work: Callable[[], _Made], name: str) -> _Made:
        """Do work, called `name`, in the leading process first, then in all others, which find what it left on disk."""
        if self.store is None:
            return work()
        while not self.leads and not self.store.check([f"salun/done/{name}"]):
            if self.store.check([_FAILED]):
                raise distributed.DistError("another process failed")
            time.sleep(_PAUSE)
        made = work()
        self.store.set(f"salun/done/{name}", "")
        return made

    def total(self, values: Tensor) -> Tensor:
        """Add up a tensor of the same shape over all processes: the same bits in each."""
        if self.size == 1:
            return values
        moved = values.to(self.device, copy=True)
        distributed.all_reduce(moved)
        return moved.to(values.device)

    def check_same(self, value: bool, fault: str) -> None:
        """Raise a `SalunError` that names the fault where processes find different values."""
        if self.total(torch.tensor([float(value)])).item() not in (0.0, float(self.size)):
            raise SalunError(fault)

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Wrap a model so that gradients are means over processes; on GPUs batch statistics are of all images, too."""
        if self.size == 1:
            return model
        if self.device.type == "cuda":
            from timm.layers import convert_sync_batchnorm  # only now: timm takes more than a second to import

            convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model)

    def portion(self, batch: Batch) -> tuple[Batch, bool]:
        """Take this process's images of a batch and tell whether they count: without any, it gets one that does not."""
        if self.size == 1:
            return batch, True
        own = Batch(*(values[self.own] for values in batch))
        return (own, True) if len(own.x) else (Batch(*(values[:1] for values in batch)), False)

    def fail(self) -> bool:
        """Tell whether this process is the first to fail; else wait until that one has said why, as it ends all."""
        store, first = cast("Store", self.store), True
        with suppress(RuntimeError):  # the process that kept the store was killed, or it would have waited for this one
            first = int(store.add(_FAILED, 1)) == 1
        if distributed.is_initialized() and self.device.type == "cpu":
            distributed.destroy_process_group()  # so that those that wait for this one learn of it
        if not first:
            _wait_until(lambda: store.check([_HEARD]))
            with suppress(RuntimeError):
                store.add(_GONE, 1)
        return first

    def say_heard(self) -> None:
        """Let the others end, once this process, which failed first, has said why; they need the store until then."""
        store = cast("Store", self.store)
        with suppress(RuntimeError):
            store.set(_HEARD, "")
        if self.leads:
            _wait_until(lambda: store.add(_GONE, 0) >= self.size - 1)


SINGLE_PROCESS = Group()


@contextmanager
def joined(patience: timedelta = _JOINING) -> Iterator[Group]:
    """Join the processes that a launcher started together, of which the leading one alone prints.

    A process that fails ends all others; the one that failed first says why, and they say nothing.

    Args:
        patience: how long to wait for the other processes.

    Yields:
        The group; of one where this process was started alone.

    Raises:
        SalunError: the launcher's variables are wrong, the processes do not find each other, or one is gone.
    """
    group = _read_group(os.environ)
    if group.size == 1:
        yield group
        return
    group.store = _meet(group, patience)
    with nullcontext() if group.leads else _quiet():
        try:
            yield group
        except BaseException as error:
            if not group.fail():
                raise SystemExit(2) from None
            atexit.register(group.say_heard)
            lost = isinstance(error, RuntimeError) and "gloo" in str(error)
            if not (lost or isinstance(error, distributed.DistError)):
                raise
            raise SalunError(f"process {group.rank} lost the others that it trained with; start all again") from error


def _read_group(environment: Mapping[str, str]) -> Group:
    """Read what a launcher, such as torchrun, tells each process."""
    if not {"RANK", "WORLD_SIZE"} & set(environment):
        return SINGLE_PROCESS
    missing = [name for name in _NEEDED if not environment.get(name)]
    if missing:
        names = ", ".join(missing)
        raise SalunError(f"{names}: not set, as a launcher does that sets RANK or WORLD_SIZE; try torchrun")
    for name in _NEEDED:
        if name != "MASTER_ADDR" and not environment[name].isdecimal():
            raise SalunError(f"{name} {environment[name]}: must be a whole number from 0")
    rank, size, local = (int(environment[name]) for name in _NEEDED[:3])
    group = Group(rank, size, local)
    if not group.rank < group.size:
        raise SalunError(f"RANK {group.rank}: must be below WORLD_SIZE, which is {group.size}")
    return group


def _wait_until(come: Callable[[], bool]) -> None:
    """Wait until something has come, but not for long, nor for processes that are gone."""
    end = time.monotonic() + _LAST_WORDS
    with suppress(RuntimeError, KeyboardInterrupt):
        while not come() and time.monotonic() < end:
            time.sleep(_PAUSE)


def _meet(group: Group, patience: timedelta) -> "Store":
    """Meet the other processes in a store that all share."""
    from torch.distributed.rendezvous import rendezvous

    try:
        store, _, _ = next(rendezvous("env://", group.rank, group.size, timeout=patience))
    except (RuntimeError, ValueError, OSError) as error:
        address = f"MASTER_ADDR {os.environ['MASTER_ADDR']}, MASTER_PORT {os.environ['MASTER_PORT']}"
        met = f"process {group.rank} of {group.size} met no others in {patience.total_seconds():.0f} s"
        raise SalunError(f"{address}: {met}") from error
    return cast("Store", store)


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
