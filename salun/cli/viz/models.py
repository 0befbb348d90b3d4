"""The checkpoints that a figure compares: an unlearned model with its base model and its retrained one."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from salun.cli.arguments import SOME_FAILED, add_place_flags, filled, notice

if TYPE_CHECKING:
    import torch

    from salun.data.dataset import Dataset
    from salun.latent.extraction import Model
    from salun.latent.trios import Triple

CHECKPOINTS = Path("checkpoints")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that name checkpoints, a device and a folder of data.

    Args:
        parser: gets the flags.
    """
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="FOLDER|FILE",
        help="checkpoints, looked for as given, then under checkpoints/ (default: checkpoints)",
    )
    parser.add_argument("--base", type=filled, metavar="FILE", help="the base model (default: found)")
    parser.add_argument("--retrained", type=filled, metavar="FILE", help="the retrained model (default: found)")
    add_place_flags(parser)


@dataclass(frozen=True)
class _Found:
    """What the paths of a command line hold.

    Attributes:
        triples: one for each unlearned model that can be compared.
        failed: a line for each checkpoint that cannot be read, and for each unlearned model that cannot be
            compared.
    """

    triples: "list[Triple]"
    failed: list[str]


def find_triples(flags: argparse.Namespace) -> _Found:
    """Find the unlearned models that a command line names, and what each is compared with.

    Base and retrained models are looked for among the paths that are named, then beside them and under
    `checkpoints/`.

    Args:
        flags: of `add_model_flags`.

    Returns:
        The triples; at least one.

    Raises:
        SalunError: a path or a model that was named is missing or does not fit, or there is no unlearned model
            that can be compared.
    """
    from salun.errors import SalunErrors
    from salun.io.files import each_once
    from salun.latent.extraction import find_checkpoints, read_model, read_models
    from salun.latent.trios import make_triples

    paths = flags.paths or [str(CHECKPOINTS)]
    files = each_once(file for path in paths for file in find_checkpoints(Path(path)))
    models, failed = read_models(files)
    if not models:
        raise SalunErrors(failed)
    unlearned = [model for model in models if model.role == "unlearned"]
    if not unlearned:
        none = f"{', '.join(paths)}: {len(models)} readable checkpoints, none of an unlearned model"
        raise SalunErrors([*failed, none])
    named = [read_model(_one(path)) if path else None for path in (flags.base, flags.retrained)]
    candidates = models if all(named) else [*models, *_kept(files)]
    triples, orphans = make_triples([model for model in unlearned if model.excluded], candidates, *named)
    unknown = [model.path for model in unlearned if not model.excluded]
    failed += [f"{path}: does not record which images were to be forgotten" for path in unknown] + orphans
    if not triples:
        raise SalunErrors(failed)
    return _Found(triples, failed)


def _one(path: str) -> Path:
    """Find one checkpoint."""
    from salun.errors import SalunError
    from salun.latent.extraction import find_checkpoints

    files = find_checkpoints(Path(path))
    if len(files) > 1:
        raise SalunError(f"{path}: holds {len(files)} checkpoints; name one")
    return files[0]


def _kept(known: list[Path]) -> "list[Model]":
    """Read the checkpoints beside those that are named, and under `checkpoints/`."""
    from salun.latent.extraction import ENDINGS, read_models

    beside = [file for folder in dict.fromkeys(path.parent for path in known) for file in sorted(folder.iterdir())]
    files = {file.resolve(): file for file in [*beside, *sorted(CHECKPOINTS.rglob("*"))] if file.suffix in ENDINGS}
    for file in known:
        files.pop(file.resolve(), None)
    return read_models(list(files.values()))[0]


@dataclass
class DatasetCache:
    """Data sets, each loaded once.

    Attributes:
        folder: where they lie.
        device: where they go.
        held: those that are loaded.
        skip_corrupt: whether images of a folder that cannot be decoded are left out.
    """

    folder: Path
    device: "torch.device"
    held: "dict[str, Dataset]"
    skip_corrupt: bool = False

    def take(self, name: str) -> "Dataset":
        """Load a data set, or give the one that is loaded.

        Args:
            name: of the data set.

        Returns:
            The data, on the device.

        Raises:
            SalunError: they cannot be had.
        """
        from salun.data.sets import to_device
        from salun.data.sources import load
        from salun.device import settle_threads

        if name not in self.held:
            self.held[name] = to_device(load(name, self.folder, skip_corrupt=self.skip_corrupt), self.device)
            for line in self.held[name].notices:
                notice(line)
        settle_threads(self.held[name].size)
        return self.held[name]


def shelf(flags: argparse.Namespace) -> DatasetCache:
    """Take the flags that name a device and a folder of data.

    Args:
        flags: of `add_model_flags`.

    Returns:
        An empty shelf.

    Raises:
        SalunError: there is no such device.
    """
    from salun.device import pick_device

    return DatasetCache(Path(flags.data_dir), pick_device(flags.device, flags.deterministic), {}, flags.skip_corrupt)


def report(program: str, failed: list[str], asked: int) -> int:
    """Name what failed while the rest went well.

    Args:
        program: the command's name.
        failed: a line each.
        asked: how many checkpoints there were.

    Returns:
        The exit status: 3 where some failed.

    Raises:
        SalunError: all of them failed.
    """
    from salun.errors import SalunErrors

    if failed and len(failed) >= asked:
        raise SalunErrors(failed)
    for line in failed:
        notice(f"{program}: {line}")
    return SOME_FAILED if failed else 0
