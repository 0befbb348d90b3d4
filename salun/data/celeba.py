"""CelebA: faces, with one of their forty attributes as the class (Liu et al., 2015)."""

from pathlib import Path

import torch

from salun.data.dataset import Dataset, Subset
from salun.data.decode import decode
from salun.data.download import fetch
from salun.errors import SalunError, did_you_mean

_ATTRIBUTE = "Smiling"
_SIDE = 64


def read_celeba(name: str, data_dir: Path, download: bool) -> Dataset:
    """Read CelebA in its authors' files, as torchvision lays them out in `celeba/`.

    Args:
        name: `celeba` or `celeba:ATTRIBUTE`, such as Male; Smiling where it is left out.
        data_dir: where the data lie; large ones are cached there.
        download: whether absent data may be fetched.

    Returns:
        Its training and test part, 64 pixels a side, in its own order: class 1 has the attribute, class 0 has not.

    Raises:
        SalunError: the attribute is unknown, or the data are absent and cannot be had, or damaged.
    """
    from torchvision.datasets import CelebA

    attribute = name.partition(":")[2] or _ATTRIBUTE
    folder = data_dir / CelebA.base_folder
    if not folder.is_dir():
        files = "celeba/img_align_celeba/ and the lists beside it"
        fetch("celeba", data_dir, files, download, lambda root: CelebA(root, download=True))

    def subset(part: str) -> Subset:
        try:
            found = CelebA(str(data_dir), part)
        except (RuntimeError, OSError, ValueError) as error:
            raise SalunError(f"data set '{name}': {folder}: incomplete or damaged: {error}") from error
        known = [entry for entry in found.attr_names if entry]
        if attribute not in known:
            raise SalunError(f"data set '{name}': attribute '{attribute}' unknown{did_you_mean(attribute, known)}")
        images = [str(folder / "img_align_celeba" / file) for file in found.filename]
        labels = found.attr[:, known.index(attribute)].to(torch.int64)
        return Subset(decode(images, _SIDE, data_dir), labels, tuple(found.filename))

    train, test = subset("train"), subset("test")
    notes = (f"{name}: test part: its own ({len(test.labels)} images); its validation part is not used",)
    classes = (f"not {attribute}", attribute)
    return Dataset(name, train, test, classes, padding=_SIDE // 8, flip=True, notes=notes)
