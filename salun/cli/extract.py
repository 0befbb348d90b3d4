"""`salun-extract`: features of the same images from every checkpoint below a folder."""

import argparse
from pathlib import Path

import torch

from salun.cli import entry
from salun.cli.status import SOME_FAILED, check_folder, notice
from salun.cli.steps import watched
from salun.cli.viz.models import DatasetCache
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError, SalunErrors
from salun.io.files import mirrored_apart
from salun.latent import extraction
from salun.latent.extraction import Model, Sample, by_dataset, choose, find_checkpoints, read_models
from salun.latent.features import read_source, write_features

main = entry.extract

_PROGRAM = "salun-extract"


def run(flags: argparse.Namespace) -> int:
    """Extract the features of every checkpoint that can be read.

    Returns:
        The exit status: 3 where some checkpoints failed.
    """
    check_folder("--out", Path(flags.out))
    data = DatasetCache.of(_PROGRAM, flags)
    paths = find_checkpoints(Path(flags.directory))
    places = dict(zip(paths, mirrored_apart(paths, Path("checkpoints")), strict=True))
    models, failed = read_models(paths)
    done = 0
    for group in by_dataset(models):
        try:
            sample = _chosen(flags, group, data)
        except SalunError as error:
            failed.append(str(error))
            continue
        for number, model in enumerate(group, 1):
            try:
                print(
                    f"[{number}/{len(group)}] {_one(flags, model, places[model.path], sample, data.device)}", flush=True
                )
                done += 1
            except SalunError as error:
                named = str(model.path) in str(error)
                failed.append(str(error) if named else f"{model.path}: {error}")
    if not done:
        raise SalunErrors(failed)
    for line in failed:
        notice(f"{_PROGRAM}: {line}")
    return SOME_FAILED if failed else 0


def _chosen(flags: argparse.Namespace, models: list[Model], data: DatasetCache) -> Sample:
    """Choose the images for the models of one data set."""
    dataset = data.take(models[0].spec)
    listed = None
    if flags.itf:
        request = ForgetRequest(indices=Path(flags.itf), order=flags.indices_in)
        split = make_split(dataset, request, models[0].spec.split_seed)
        listed = split.listed
        for line in split.notices:
            notice(f"{_PROGRAM}: {line}")
    return choose(dataset, models, flags.split, flags.samples, listed)


def _one(flags: argparse.Namespace, model: Model, place: Path, sample: Sample, device: torch.device) -> str:
    """Extract and write one model's features, unless they are there already."""
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
