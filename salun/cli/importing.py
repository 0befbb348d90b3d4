"""`salun-import`: make a checkpoint of weights that another program trained."""

import argparse
from pathlib import Path

from salun.cli import entry
from salun.cli.status import notice
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.device import pick_device, settle_threads
from salun.errors import SalunError
from salun.experiments.base_training import save_with_forget
from salun.experiments.importing import ImportRequest, accuracy_on_test, import_weights
from salun.experiments.plugins import known_model

main = entry.import_weights

_PROGRAM = "salun-import"
_NEAR_CHANCE = 2


def run(flags: argparse.Namespace) -> int:
    """Read the weights, measure them on the test images, and write the checkpoint."""
    device, path, out = pick_device(flags.device), Path(flags.file), Path(flags.out)
    if out.exists() and not flags.force:
        raise SalunError(f"--out {out}: is there already; --force replaces it")
    dataset = load(flags.dataset, Path(flags.data_dir), skip_corrupt=flags.skip_corrupt)
    settle_threads(dataset.size)
    for line in dataset.notices:
        notice(f"{_PROGRAM}: {line}")
    request = ImportRequest(
        known_model(flags.model),
        tuple(flags.mean or ()),
        tuple(flags.std or ()),
        flags.size,
        tuple(flags.classes or ()),
        flags.ema,
    )
    checkpoint = import_weights(path, dataset, request)
    save_with_forget(out, checkpoint, make_split(dataset, ForgetRequest()), dataset)
    kind = f" (key '{held}')" if (held := checkpoint.config["imported"]["key"]) else ""
    preparation = checkpoint.config["preparation"]
    mean, std = (", ".join(f"{value:.4g}" for value in preparation[name]) for name in ("mean", "std"))
    print(f"{path}{kind}: {len(checkpoint.weights)} tensors of {request.model}; images normalised by {mean} and {std}")
    share = accuracy_on_test(checkpoint, dataset, device)
    print(f"test {100 * share:.2f} % of {len(dataset.test.labels)} images of {flags.dataset}")
    if share < _NEAR_CHANCE / len(dataset.classes):
        causes = "other normalisation (--mean, --std), size (--size) or order of classes (--classes)?"
        notice(f"{_PROGRAM}: that is near chance, {100 / len(dataset.classes):.1f} %: {causes}")
    print(out)
    return 0
