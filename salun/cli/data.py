"""`salun-data`: show the parts and classes of a data set, and write its manifest."""

import argparse
from pathlib import Path

from salun.cli import entry
from salun.cli.status import notice
from salun.data.manifest import write_manifest
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError, one_line

main = entry.data

_PROGRAM = "salun-data"


def run(flags: argparse.Namespace) -> int:
    """Count the images of each part and class, and list them all where a file is named."""
    if not 0 <= flags.split_seed < 2**31:
        raise SalunError(f"--split-seed {flags.split_seed}: must be from 0 to {2**31 - 1}")
    dataset = load(flags.dataset, Path(flags.data_dir), skip_corrupt=flags.skip_corrupt)
    for line in dataset.notices:
        notice(f"{_PROGRAM}: {line}")
    split = make_split(dataset, ForgetRequest(), flags.split_seed)
    shape = " x ".join(map(str, dataset.train.pixels.shape[1:]))
    learnt, held, tested = len(split.train), len(split.validation), len(split.test)
    print(f"{dataset.name}: {len(dataset.classes)} classes, images of {shape} values")
    print(f"{learnt + held} training images, {held} of them held out for validation; {tested} test images")
    labels = dataset.train.labels
    counts = [
        found.bincount(minlength=len(dataset.classes)).tolist()
        for found in (labels[split.train], labels[split.validation], dataset.test.labels)
    ]
    width = max(len("name"), *map(len, dataset.classes))
    print(f"class  {'name':<{width}}  {'train':>7}  {'validation':>10}  {'test':>7}")
    for number, (name, *sizes) in enumerate(zip(dataset.classes, *counts, strict=True)):
        print(f"{number:>5}  {one_line(name):<{width}}  {sizes[0]:>7}  {sizes[1]:>10}  {sizes[2]:>7}")
    if flags.manifest:
        write_manifest(Path(flags.manifest), dataset, flags.split_seed)
        print(flags.manifest)
    return 0
