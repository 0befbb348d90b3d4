"""What a page takes from kept outputs: scores that attacks look at, predictions of forget images, confusion."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from salun.experiments.outputs import kept_outputs, outputs_path
from salun.experiments.record import Record, group_of
from salun.metrics import Evaluation, evaluate
from salun.metrics.scores import (
    Singles,
    entropy,
    evenly_spaced,
    losses,
    modified_entropy,
    probabilities,
    true_confidence,
)
from salun.reports.summary import Row
from salun.training.evaluate import Outputs

SCORES = {
    "confidence (MIA)": true_confidence,
    "entropy (MIA_entropy)": entropy,
    "modified entropy (MIA_m_entropy)": modified_entropy,
    "loss (simple_MIA)": losses,
}
_SETS = ("forget", "retain", "test", "forgotten_test")
_MOST_IMAGES = 4000
_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Sight:
    """What one model makes of the images.

    Attributes:
        title: of its row.
        kind: of its row.
        seed: of its run; 0 of a base model.
        scores: by score and set, (N,) of at most 4,000 evenly spaced images.
        indices: (K,) of the forget images, in order.
        labels: (K,) of the forget images.
        probabilities: (K, C) of the forget images.
        confusion: (C, C) share of the test images of each class that is predicted as each class; empty of all but a
            row's first model.
    """

    title: str
    kind: str
    seed: int
    scores: Mapping[str, Mapping[str, Singles]]
    indices: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: Singles
    confusion: list[list[float | None]]


def sights_of(rows: Sequence[Row], folders: Mapping[str, Path]) -> list[Sight]:
    """Read what is kept of the runs of a group, all on the forget set of its first run.

    Of experiments with many or large files of outputs the first runs alone are read, at least one each.

    Args:
        rows: of one group.
        folders: of the outputs, by the id of a record.

    Returns:
        One a model: the base model's first, then those of the runs, row by row; none where nothing is kept.
    """
    cell = next((group_of(record) for row in rows for record in row.records), None)
    runs = [(row, record) for row, record in _in_turn(rows) if group_of(record) == cell]
    found: dict[str, list[Sight]] = {}
    left = _MOST_BYTES
    for row, record in runs:
        path = outputs_path(folders[record.id], record.id)
        if not path.is_file() or (left <= 0 and found.get(row.title)) or record.diverged:
            continue
        left -= path.stat().st_size
        outputs = kept_outputs(folders[record.id], record.id, record.outputs)
        if outputs is not None:
            members = found.setdefault(row.title, [])
            members.append(_sight(row.title, row.kind, record.seed, outputs, not members))
    base = next((_base_sight(record, folders) for _, record in runs), None)
    return [*([base] if base else []), *(sight for row in rows for sight in found.get(row.title, []))]


def _in_turn(rows: Sequence[Row]) -> Iterator[tuple[Row, Record]]:
    """Go through the first runs of all rows, then through the second ones, and so on."""
    for place in range(max((len(row.records) for row in rows), default=0)):
        yield from ((row, row.records[place]) for row in rows if place < len(row.records))


def _base_sight(record: Record, folders: Mapping[str, Path]) -> Sight | None:
    outputs = kept_outputs(folders[record.id], record.base_name)
    return None if outputs is None else _sight("base", "base", 0, outputs, True)


def _sight(title: str, kind: str, seed: int, evaluation: Evaluation, confused: bool) -> Sight:
    """Reduce a model's outputs to what the page shows; confusion where it is wanted."""
    ordered = evaluation.in_order()
    sets = {name: ordered.sets[name] for name in _SETS if name in ordered.sets and len(ordered.sets[name].labels)}
    scores = {
        score: {name: compute(_thinned(outputs)) for name, outputs in sets.items()} for score, compute in SCORES.items()
    }
    forget = ordered.forget
    indices = np.arange(len(forget.labels)) if forget.indices is None else forget.indices.numpy()
    matrix = evaluate(ordered, ("prediction_matrix",))["prediction_matrix"] if confused else None
    return Sight(title, kind, seed, scores, indices, forget.labels.numpy(), probabilities(forget), matrix or [])


def _thinned(outputs: Outputs) -> Outputs:
    return evenly_spaced(outputs, min(len(outputs.labels), _MOST_IMAGES))


def unseen(scores: Mapping[str, Singles]) -> Singles | None:
    """Take the scores of images like the forgotten ones that no model was trained on; None where there are none.

    Args:
        scores: of one score, by set.
    """
    return scores.get("forgotten_test", scores.get("test"))
