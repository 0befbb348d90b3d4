"""What figures of classes share: names of models, the classes that were to be forgotten, numbers beside the figures."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from salun.cli.viz.inputs import Entry
    from salun.latent.features import Features

    Floats = NDArray[np.float64]

_FORGOTTEN = 0.5


def forgotten_classes(features: "Features") -> frozenset[str]:
    """Find the classes of which most samples were to be forgotten.

    Args:
        features: of a model.

    Returns:
        Their names.
    """
    return frozenset(
        name
        for label, name in enumerate(features.classes)
        if (members := features.labels == label).any() and features.forgotten[members].mean() > _FORGOTTEN
    )


def about(features: "Features") -> str:
    """Say what images a figure is of, and what its marks mean.

    Args:
        features: of a model.

    Returns:
        Data set, set and number of samples.
    """
    words = [features.source.dataset, f"{len(features.labels):,} {features.source.split} images"]
    words += ["bold and framed: to be forgotten"] if forgotten_classes(features) else []
    return "; ".join(filter(None, words))


def titles_of(entries: "Sequence[Entry]") -> list[str]:
    """Name models so that they can be told apart.

    Args:
        entries: the models.

    Returns:
        Their titles; those of several models with the file's name, and with its folder where that is the same too.
    """
    seen = Counter(entry.title for entry in entries)
    alike = Counter((entry.title, entry.path.stem) for entry in entries)
    return [
        entry.title
        if seen[entry.title] == 1
        else f"{entry.title} ({entry.path.stem if alike[entry.title, entry.path.stem] == 1 else entry.place})"
        for entry in entries
    ]


def file_names(entries: "Sequence[Entry]") -> list[str]:
    """Name models in the names of files.

    Args:
        entries: the models.

    Returns:
        Names without a folder, no two alike.
    """
    from salun.io.files import name_part

    seen = Counter(entry.place.name for entry in entries)
    alike = [name_part("-".join(entry.place.parts)) for entry in entries]
    return [entry.place.name if seen[entry.place.name] == 1 else alike[at] for at, entry in enumerate(entries)]


def write_table(
    path: Path,
    corner: Sequence[str],
    names: Sequence[Sequence[str]],
    classes: Sequence[str],
    values: "Floats",
    errors: "Floats | None" = None,
) -> None:
    """Write a matrix as comma-separated values, empty where there is none.

    Args:
        path: ends in `.csv`.
        corner: what the first columns hold, for example "class".
        names: of each row, one for each of these columns.
        classes: names of the columns.
        values: (R, C).
        errors: (R, C) standard errors, each written right of its value; None for none.

    Raises:
        SalunError: the file cannot be written.
    """
    import math

    import numpy as np

    from salun.io.files import write_text
    from salun.reports.formats import csv_table

    cells = values[..., None] if errors is None else np.stack([values, errors], axis=-1)
    heads = [[name] if errors is None else [name, f"{name} (standard error)"] for name in classes]
    table: list[list[object]] = [[*corner, *(part for head in heads for part in head)]]
    for name, row in zip(names, cells.reshape(len(values), -1).tolist(), strict=True):
        table.append([*name, *(None if math.isnan(value) else value for value in row)])
    write_text(path, csv_table(table))
