"""Where and how the runs of a command are done, and what one process keeps from run to run."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from salun.data.dataset import Dataset
from salun.data.sets import to_device
from salun.data.sources import load
from salun.training.state import MINUTES, STATES, StateFile, forget_state

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class RunContext:
    """Device, folders and flags that all runs of a command share.

    Attributes:
        device: where everything runs.
        data_dir: folder of data sets.
        checkpoints: folder of base models.
        compiled: whether models are compiled for their steps.
        cuda_graphs: whether steps are recorded as CUDA graphs.
        workers: processes that do runs side by side on this machine.
        save_every: seconds between two writings of a training's state, of base and retrained models; 0 for never.
        skip_corrupt: whether images of a folder that cannot be decoded are left out.
        plugins: files that every process runs first.
        download: whether absent data and pretrained weights may be fetched.
        tuning: whether validation images stand in the place of test images, of which then none is read.
    """

    device: torch.device
    data_dir: Path = Path("data")
    checkpoints: Path = Path("checkpoints")
    compiled: bool = False
    cuda_graphs: bool = False
    workers: int = 1
    save_every: float = 60 * MINUTES
    skip_corrupt: bool = False
    plugins: tuple[Path, ...] = ()
    download: bool = True
    tuning: bool = False

    def state_file(self, name: str) -> StateFile | None:
        """Say where the state of a training is kept; None where no states are written.

        Args:
            name: of a base model's file without its ending, or a run's id.
        """
        return StateFile(self.checkpoints / STATES / f"{name}.pt", self.save_every) if self.save_every else None

    def forget_state(self, name: str) -> None:
        """Remove the state of a training that is over.

        Args:
            name: as `state_file` takes it.
        """
        forget_state(self.checkpoints / STATES / f"{name}.pt")


@dataclass
class ModelCache:
    """What one process keeps from run to run: data sets, base models, problems.

    Attributes:
        context: of the runs.
    """

    context: RunContext
    _kept: dict[Hashable, Any] = field(default_factory=dict)

    def get(self, key: Hashable, make: Callable[[], _Made]) -> _Made:
        """Give what is kept under a key, making it on first need.

        Args:
            key: begins with the kind of thing, such as "base".
            make: makes it.
        """
        if key not in self._kept:
            self._kept[key] = make()
        found: _Made = self._kept[key]
        return found

    def dataset(self, name: str) -> Dataset:
        """Load a data set once and move it to the device.

        Args:
            name: as in an experiment.

        Returns:
            The data.

        Raises:
            SalunError: they cannot be had.
        """
        context = self.context

        def make() -> Dataset:
            found = load(name, context.data_dir, context.download, skip_corrupt=context.skip_corrupt)
            return to_device(found, context.device)

        return self.get(("dataset", name), make)
