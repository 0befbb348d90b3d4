"""`salun-extract`: features of the same images from every checkpoint below a folder."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from salun.cli.arguments import SOME_FAILED, Parser, add_place_flags, check_folder, filled, guarded, notice, positive
from salun.cli.steps import watched

if TYPE_CHECKING:
    import torch

    from salun.latent.extraction import Model, Sample

_PROGRAM = "salun-extract"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(_PROGRAM, description="Extract the features of the same images from every checkpoint of a folder.")
    parser.add_argument(
        "-D",
        "--directory",
        type=filled,
        default="checkpoints",
        metavar="DIR",
        help="folder of checkpoints, looked for as given, then under checkpoints/; or one file (default: checkpoints)",
    )
    parser.add_argument(
        "-S",
        "--samples",
        type=positive,
        default=5000,
        metavar="N",
        help="the first N images of the set (default: 5000)",
    )
    parser.add_argument(
        "--split",
        choices=("train", "test", "forget", "retain"),
        default="train",
        help="the set; forget and retain are those of the checkpoints found, together (default: train)",
    )
    parser.add_argument("--itf", type=filled, metavar="FILE", help="forget-set file, where no checkpoint records one")
    parser.add_argument(
        "--layer", type=filled, default="pre-head", help="what is read: a module's name (default: the head's input)"
    )
    parser.add_argument("--format", choices=("npz", "json"), default="npz", help="json: the seed system's form")
    parser.add_argument("--out", type=filled, default="features", metavar="DIR", help="default: features")
    parser.add_argument("-B", "--batch-size", type=positive, default=256, metavar="N", help="images at once (256)")
    parser.add_argument(
        "-W", "--num-workers", type=int, metavar="N", help="accepted and not needed: images are on the device"
    )
    add_place_flags(parser)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Extract features.

    Args:
        argv: arguments; None takes the process's.

    Returns:
        The exit status: 3 where some checkpoints failed.
    """
    flags = _parse(argv)
    return guarded(_PROGRAM, lambda: _extract(flags), flags.plugin)


def _extract(flags: argparse.Namespace) -> int:
    """Extract the features of every checkpoint that can be read."""
    from salun.device import pick_device
    from salun.errors import SalunError, SalunErrors
    from salun.io.files import mirrored_apart
    from salun.latent.extraction import by_dataset, find_checkpoints, read_models

    check_folder("--out", Path(flags.out))
    device = pick_device(flags.device, flags.deterministic)
    paths = find_checkpoints(Path(flags.directory))
    places = dict(zip(paths, mirrored_apart(paths, Path("checkpoints")), strict=True))
    models, failed = read_models(paths)
    done = 0
    for name, group in by_dataset(models):
        try:
            sample = _chosen(flags, name, group, device)
        except SalunError as error:
            failed.append(str(error))
            continue
        for number, model in enumerate(group, 1):
            try:
                print(f"[{number}/{len(group)}] {_one(flags, model, places[model.path], sample, device)}", flush=True)
                done += 1
            except SalunError as error:
                named = str(model.path) in str(error)
                failed.append(str(error) if named else f"{model.path}: {error}")
    if not done:
        raise SalunErrors(failed)
    for line in failed:
        notice(f"{_PROGRAM}: {line}")
    return SOME_FAILED if failed else 0


def _chosen(flags: argparse.Namespace, name: str, models: list["Model"], device: "torch.device") -> "Sample":
    """Choose the images for the models of one data set."""
    from salun.data.sets import to_device
    from salun.data.sources import load
    from salun.data.split import read_forget
    from salun.device import settle_threads
    from salun.latent.extraction import choose

    dataset = to_device(load(name, Path(flags.data_dir), skip_corrupt=flags.skip_corrupt), device)
    for line in dataset.notices:
        notice(f"{_PROGRAM}: {line}")
    settle_threads(dataset.size)
    listed = read_forget(Path(flags.itf), len(dataset.train.labels)) if flags.itf else None
    return choose(dataset, models, flags.split, flags.samples, listed)


def _one(flags: argparse.Namespace, model: "Model", place: Path, sample: "Sample", device: "torch.device") -> str:
    """Extract and write one model's features, unless they are there already."""
    from salun.latent import extraction
    from salun.latent.features import read_source, write_features

    target = Path(flags.out, f"{place}.{flags.format}")
    source = extraction.source_of(model, sample, flags.layer, model.path)
    known = read_source(target)
    if known is not None and known.key == source.key:
        return f"{target}: finished before"
    images = sample.images(model, device)
    marks, classes = sample.forgotten(model), sample.dataset.classes
    with watched(str(model.path), -(-len(images) // flags.batch_size)) as callback:
        network = model.restore(device)
        found = extraction.extract(network, images, marks, classes, source, flags.batch_size, lambda seen: callback())
    write_features(target, found)
    marked = int(found.forgotten.sum())
    line = f"{target}: {len(found.features)} x {found.features.shape[1]} ({model.title}; {marked} forgotten)"
    return line if known is None else f"{line}, in place of {known.split} images, {known.layer}"
