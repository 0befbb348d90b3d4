"""The state of a training on disk, so that it goes on after a kill as if nothing had happened."""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from salun.errors import SalunError
from salun.io.files import sweep
from salun.io.tensors import read_tensors, write_tensors

_VERSION = 1
MINUTES = 10.0
STATES = "states"

_log = logging.getLogger("salun")


@dataclass(frozen=True)
class StateFile:
    """Where a training keeps its state, written every so many seconds by the process whose it is (`mine`)."""

    path: Path
    every: float
    mine: bool = True


@dataclass
class StateWriter:
    """Writes the state of one training, and finds what an earlier process left of the same.

    Attributes:
        identity: of the training; a state of another one is not taken up.
        generator: that shuffles and augments.
        earlier: seconds that earlier processes spent on what was taken up.
    """

    file: StateFile
    identity: str
    generator: torch.Generator
    earlier: float = 0.0
    begun: float = field(default_factory=time.monotonic)
    written: float = field(default_factory=time.monotonic)

    def is_due(self) -> bool:
        """Tell whether the last writing is long enough ago."""
        return self.file.mine and time.monotonic() - self.written >= self.file.every

    def write(self, state: dict[str, Any]) -> None:
        """Write tensors and plain values, whole or not at all; a training whose state has no room goes on."""
        spent = self.earlier + time.monotonic() - self.begun
        content = {"salun_state": _VERSION, "identity": self.identity, "spent": spent, **state}
        try:
            write_tensors(self.file.path, content)
        except SalunError as error:
            _log.warning("%s; the training goes on, but could not be resumed from here", error)
        self.written = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """Read the state that an earlier process left.

        Returns:
            What it wrote; None where there is none, or it is of another training.

        Raises:
            SalunError: nothing can be made of the file.
        """
        path = self.file.path
        if not path.exists():
            return None
        try:
            found = read_tensors(path, "saved training")
        except SalunError as error:
            raise SalunError(f"{error}; delete it, and the training starts anew") from error
        if not isinstance(found, dict) or found.get("salun_state") != _VERSION or "spent" not in found:
            raise SalunError(f"{path}: not a saved training; delete it, and the training starts anew")
        if found.get("identity") != self.identity:
            _log.warning("%s: of a training with other settings; this one starts anew", path)
            return None
        self.earlier = float(found["spent"])
        return dict(found)

    def report(self, epoch: int) -> None:
        """Log, in the process that writes, that the training goes on in an epoch, from 0."""
        if self.file.mine:
            _log.warning("%s: going on in epoch %d", self.file.path, epoch + 1)

    def random_states(self) -> dict[str, Any]:
        """Read the states of all random generators, those that layers draw from too."""
        device = self.generator.device
        found = {"own": self.generator.get_state(), "cpu": torch.get_rng_state()}
        if device.type == "cuda":
            found["device"] = torch.cuda.get_rng_state(device)
        elif device.type == "mps":
            found["device"] = torch.mps.get_rng_state()
        return found

    def set_random_states(self, found: dict[str, Any]) -> None:
        """Put all random generators back to what `random_states` gave."""
        device = self.generator.device
        self.generator.set_state(found["own"])
        torch.set_rng_state(found["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(found["device"], device)
        elif device.type == "mps":
            torch.mps.set_rng_state(found["device"])


def forget_state(path: Path) -> None:
    """Remove the file of a training that is over, which need not exist."""
    with suppress(OSError):
        path.unlink()
    sweep(path.parent)
    with suppress(OSError):
        path.parent.rmdir()
