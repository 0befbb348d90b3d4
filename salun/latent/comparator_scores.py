"""The scores and tables that the notebook and the Machine Unlearning Comparator compute of predictions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from salun.metrics.fqs import (
    TEMPERATURE,
    Attack,
    comparator_attacks,
    comparator_fqs,
    distributions,
    notebook_attacks,
    notebook_fqs,
    notebook_pa,
    notebook_values,
    retained_accuracy,
    softmax,
    tempered_entropy,
    top_confidence,
    two_decimals,
)

Definition = Literal["notebook", "comparator"]
_Singles = NDArray[np.float32]
_Labels = NDArray[np.int64]
_LEAST_SHOWN = 0.001


@dataclass(frozen=True)
class Predictions:
    """What a model says of N images: (N, C) logits, (N,) true classes and indices in the data set's part."""

    logits: _Singles
    labels: _Labels
    indices: _Labels

    def at(self, positions: NDArray[Any]) -> "Predictions":
        """Select images by (K,) positions, or by (N,) bool."""
        return Predictions(self.logits[positions], self.labels[positions], self.indices[positions])


def accuracies(definition: Definition, train: Predictions, test: Predictions, forget: int) -> dict[str, Any]:
    """Compute accuracies and distributions by class.

    Args:
        definition: the notebook averages the predicted class's own probability, the Comparator those of all classes.
        train: of the whole training split.
        test: of the whole test part.
        forget: the forgotten class.

    Returns:
        UA and TUA, which are accuracies, not errors; RA and TRA, means over classes; what each class is taken for.
    """
    found: dict[str, Any] = {}
    decimals = 4 if definition == "notebook" else 3
    for predictions, prefix, names in ((train, "", ("UA", "RA")), (test, "t_", ("TUA", "TRA"))):
        spread = distributions(predictions.logits, predictions.labels)
        values = (float(spread.accuracy[forget]), retained_accuracy(spread.accuracy, forget))
        found |= {name: round(value, 3) for name, value in zip(names, values, strict=True)}
        found[f"{prefix}accs"] = np.round(spread.accuracy, 3).tolist()
        confidence = spread.top if definition == "notebook" else spread.mean
        for name, matrix in (("label_dist", spread.labels), ("conf_dist", confidence)):
            rows = np.round(matrix, decimals).tolist()
            found[prefix + name] = {f"gt_{label}": row for label, row in enumerate(rows)}
    return found


def privacy(measured: Mapping[str, Any]) -> float:
    """Compute PA as the Comparator's own files have it: the mean of 1 - UA, RA, 1 - TUA and TRA, to 3 decimals."""
    return float(round((1 - measured["UA"] + measured["RA"] + 1 - measured["TUA"] + measured["TRA"]) / 4, 3))


def notebook_scores(shown: Predictions, forget: int, classes: int) -> dict[str, Any]:
    """Compute the notebook's scores and tables.

    Returns:
        FQS, PA and attack; images have their index in the data set, where the notebook counts them from 0.
    """
    entropies, confidences = notebook_values(shown.logits)
    forgotten = shown.labels == forget
    attacks = notebook_attacks(entropies, confidences, forgotten)
    values = {"entropy": np.round(entropies, 4), "confidence": np.round(confidences, 2)}
    return {
        "FQS": notebook_fqs(entropies, forgotten, classes),
        "PA": notebook_pa(attacks),
        "attack": {"values": _by_image(shown.indices, values), "results": _tables(attacks)},
    }


def comparator_scores(predictions: Predictions, retrained: Predictions, subset: _Labels, forget: int) -> dict[str, Any]:
    """Compute the Comparator's score and tables.

    Args:
        predictions: of the whole training split.
        retrained: the same of the retrained model.
        subset: positions of the notebook's subset, whose values and tables are shown.
        forget: the forgotten class.
    """
    every, some = predictions.labels == forget, subset[predictions.labels[subset] == forget]
    shown = predictions.at(some)
    values = {
        "entropy": two_decimals(tempered_entropy(shown.logits)),
        "confidence": two_decimals(top_confidence(shown.logits)),
    }
    attacks = comparator_attacks(shown.logits, retrained.logits[some])
    return {
        "FQS": comparator_fqs(comparator_attacks(predictions.logits[every], retrained.logits[every])),
        "attack": {"values": _by_image(shown.indices, values), "results": _tables(attacks)},
    }


def _by_image(indices: _Labels, values: Mapping[str, NDArray[np.float64]]) -> list[dict[str, Any]]:
    """List values image by image."""
    columns = {"img": indices.tolist()} | {name: column.tolist() for name, column in values.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _tables(attacks: Mapping[str, Attack]) -> dict[str, list[dict[str, float]]]:
    """List attacks threshold by threshold."""
    names = ("threshold", "fpr", "fnr", "attack_score")
    return {
        title: [
            dict(zip(names, map(float, row), strict=True))
            for row in zip(attack.threshold, attack.fpr, attack.fnr, attack.score, strict=True)
        ]
        for title, attack in attacks.items()
    }


def points(definition: Definition, shown: Predictions, layout: NDArray[np.float64], forget: int) -> list[list[Any]]:
    """List the images of the subset as the page plots them.

    Args:
        definition: the Comparator's probabilities are at temperature 2, and only those above 0.001.
        shown: of N images.
        layout: (N, 2).
        forget: the forgotten class.

    Returns:
        True class, predicted class, index, 1 for the forgotten class, x, y, and the probability of each class.
    """
    least = _LEAST_SHOWN if definition == "comparator" else -1.0
    probabilities = softmax(shown.logits, TEMPERATURE if definition == "comparator" else 1.0).tolist()
    found = []
    for place, label in enumerate(shown.labels.tolist()):
        row = {str(name): round(value, 3) for name, value in enumerate(probabilities[place]) if value > least}
        x, y = (round(float(value), 2) for value in layout[place])
        predicted, index = int(shown.logits[place].argmax()), int(shown.indices[place])
        found.append([label, predicted, index, int(label == forget), x, y, row])
    return found
