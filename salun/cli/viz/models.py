"""What commands that compare checkpoints share: loaded data sets, and the exit status."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from salun.cli.status import SOME_FAILED, notice
from salun.data.dataset import Dataset
from salun.data.manifest import as_recorded
from salun.data.sets import to_device
from salun.data.sources import load
from salun.device import pick_device, settle_threads
from salun.errors import SalunError, SalunErrors
from salun.experiments.base_model import FOLDER, BaseModelSpec, hinting_at_moves


@dataclass
class DatasetCache:
    """Data sets of a folder, each loaded onto the device once."""

    program: str
    folder: Path
    device: torch.device
    skip_corrupt: bool
    moved_to: str | None = None
    loaded: dict[str, Dataset] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, program: str, flags: argparse.Namespace) -> "DatasetCache":
        """Take device and folders from the flags of a command."""
        device = pick_device(flags.device, flags.deterministic)
        return cls(program, Path(flags.data_dir), device, flags.skip_corrupt, flags.dataset)

    def take(self, spec: BaseModelSpec) -> Dataset:
        """Load the data of a model as its manifest records them, reading each data set once."""
        moved = self.moved_to is not None
        if moved and not spec.dataset.startswith(FOLDER):
            where = f"{spec.path} was trained on '{spec.dataset}'"
            raise SalunError(f"--dataset: {where}; only images of a folder may lie elsewhere now")
        name = self.moved_to or spec.dataset
        if name not in self.loaded:
            with hinting_at_moves(spec if self.moved_to is None else replace(spec, moved_to=self.moved_to)):
                self.loaded[name] = to_device(load(name, self.folder, skip_corrupt=self.skip_corrupt), self.device)
        found = as_recorded(self.loaded[name], spec.path, moved=moved)
        for line in found.notices:
            if line not in self.told:
                notice(f"{self.program}: {line}")
            self.told.add(line)
        settle_threads(found.size)
        return found


def report(program: str, failed: Sequence[str], total: int) -> int:
    """Print what failed while the rest went well.

    Returns:
        The exit status: 3 where some failed.
    """
    if failed and len(failed) >= total:
        raise SalunErrors(list(failed))
    for line in failed:
        notice(f"{program}: {line}")
    return SOME_FAILED if failed else 0
