"""A run as the JSON file that the notebook saves and the Machine Unlearning Comparator's page reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError
from salun.experiments.record import Record
from salun.latent.cka import LayerComparison
from salun.latent.extraction import Model, Sample, forgotten_classes, pre_head
from salun.latent.subset import four_sides, notebook_subset
from salun.latent.trios import Trio, run_of
from salun.latent.umap import NOTEBOOK_DISTANCE, NOTEBOOK_NEIGHBOURS, NOTEBOOK_SEED, umap
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
from salun.training.evaluate import predict

_Definition = Literal["notebook", "comparator"]
_Singles = NDArray[np.float32]
_Labels = NDArray[np.int64]
_UNKNOWN = "N/A"
_BATCH = 1000
_SHARE = {"train": 10, "test": 2}
_LEAST_SHOWN = 0.001


@dataclass(frozen=True)
class Predictions:
    """What a model says of images.

    Attributes:
        logits: (N, C) float32.
        labels: (N,) true classes.
        indices: (N,) of the images in the data set's training or test part.
    """

    logits: _Singles
    labels: _Labels
    indices: _Labels

    def at(self, positions: NDArray[Any]) -> "Predictions":
        """Select some of the images.

        Args:
            positions: (K,) int64, or (N,) bool.
        """
        return Predictions(self.logits[positions], self.labels[positions], self.indices[positions])


def forgotten_class(dataset: Dataset, model: Model) -> int:
    """Tell which class a model was to forget.

    Raises:
        SalunError: it was to forget several classes, or some images only, which the page cannot show.
    """
    seed = model.spec.split_seed
    listed = torch.tensor(model.excluded, dtype=torch.int64)
    train = make_split(dataset, ForgetRequest(), seed).train
    gone = dataset.train.labels.cpu()[train[torch.isin(train, listed)]].unique().tolist()
    if len(gone) != 1 or forgotten_classes(dataset, listed, seed).tolist() != gone:
        what = f"was to forget {model.forget or 'a list of images'}"
        raise SalunError(f"{model.path}: {what}; the page knows one forgotten class, all of its images")
    return int(gone[0])


def describe_run(
    definition: _Definition, trio: Trio, dataset: Dataset, record: Record | None, device: torch.device
) -> dict[str, Any]:
    """Gather all that the page shows of an unlearned model.

    Args:
        definition: whose scores: the notebook's, which look at the unlearned model alone, or the Comparator's, which
            need a retrained one.
        trio: the models.
        dataset: their data, on the device.
        record: of the run; None where it is lost.
        device: where the models run.

    Returns:
        What goes into the file; NaN where a value does not exist. Where the notebook has ln 10, the logarithm of the
        number of classes is taken.

    Raises:
        SalunError: more than one class was to be forgotten, a retrained model is missing, or a checkpoint does not fit
            the data.
    """
    model, forget = trio.unlearned, forgotten_class(dataset, trio.unlearned)
    if definition == "comparator" and trio.retrained is None:
        reason = "the Comparator's score compares with a retrained model; name one with --retrained"
        raise SalunError(f"{model.path}: {reason}")
    network = model.restore(device).eval()
    split = make_split(dataset, ForgetRequest(), model.spec.split_seed)
    train = Sample(dataset, split.train, "train", None)
    predictions, tested = (
        _predictions_of(network, model, part, device) for part in (train, Sample(dataset, split.test, "test", None))
    )
    subset = notebook_subset(torch.from_numpy(predictions.labels), len(dataset.classes))
    shown = predictions.at(subset.numpy())
    layout = notebook_umap(_features_of(network, model, Sample(dataset, split.train[subset], "train", None), device))
    measured = accuracies(definition, predictions, tested, forget)
    if definition == "notebook":
        scores = notebook_scores(shown, forget, len(dataset.classes))
    else:
        assert trio.retrained is not None
        other = _predictions_of(trio.retrained.restore(device).eval(), trio.retrained, train, device)
        scores = comparator_scores(predictions, other, subset.numpy(), forget)
        scores["PA"] = privacy(measured)
    content = _heading(trio, forget, record) | {"definition": definition} | measured | scores
    content["points"] = points(definition, shown, layout, forget)
    return content | _similarities(definition, trio, dataset, device)


def _heading(trio: Trio, forget: int, record: Record | None) -> dict[str, Any]:
    """Describe a run by what its checkpoint and its record say."""
    run = run_of(trio.unlearned)
    settings, mask = run.get("settings") or {}, run.get("mask")
    seconds = None if record is None else record.seconds["mask"] + record.seconds["method"]
    found = {
        "CreatedAt": _created(trio.unlearned, record),
        "ID": identity(trio.unlearned)[:4],
        "FC": forget,
        "Type": "Unlearned",
        "Base": trio.base.path.stem,
        "Method": trio.unlearned.title,
        "Epoch": settings.get("epochs", _UNKNOWN),
        "BS": settings.get("batch_size", _UNKNOWN),
        "LR": settings.get("lr", _UNKNOWN),
        "RTE": _UNKNOWN if seconds is None else round(seconds, 1),
        "run": identity(trio.unlearned),
    }
    return found | ({"saliency_threshold": mask.get("keep")} if isinstance(mask, dict) else {})


def identity(model: Model) -> str:
    """Tell which run made a model.

    Returns:
        The run's id; the weights' where none is recorded.
    """
    return str(run_of(model).get("id") or model.fingerprint)


def _created(model: Model, record: Record | None) -> str:
    """Tell when a run ended, so that the same run gives the same file."""
    if record is not None:
        moment = datetime.fromisoformat(record.finished)
    else:
        moment = datetime.fromtimestamp(model.path.stat().st_mtime, UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


@torch.no_grad()
def _predictions_of(network: nn.Module, model: Model, sample: Sample, device: torch.device) -> Predictions:
    """Run a model on images."""
    outputs = predict(network, sample.images(model, device))
    if not bool(outputs.logits.isfinite().all()):
        raise SalunError(f"{model.path}: its outputs are no numbers: the model diverged")
    return Predictions(outputs.logits.numpy(), outputs.labels.numpy(), sample.indices.cpu().numpy())


@torch.no_grad()
def _features_of(network: nn.Module, model: Model, sample: Sample, device: torch.device) -> _Singles:
    """Compute what a model's head sees."""
    batches = sample.images(model, device).batches(256)
    found: list[Tensor] = [pre_head(network, batch.x)[0].float().cpu() for batch in batches]
    return np.asarray(torch.cat(found).numpy())


def notebook_umap(features: _Singles) -> NDArray[np.float64]:
    """Lay features out as the notebook does.

    Args:
        features: (N, D).

    Returns:
        (N, 2).

    Raises:
        SalunError: there are too few.
    """
    if len(features) <= NOTEBOOK_NEIGHBOURS:
        raise SalunError(f"{len(features)} training images are too few for UMAP with {NOTEBOOK_NEIGHBOURS} neighbours")
    return umap(features, 2, NOTEBOOK_NEIGHBOURS, NOTEBOOK_DISTANCE, NOTEBOOK_SEED)


def accuracies(definition: _Definition, train: Predictions, test: Predictions, forget: int) -> dict[str, Any]:
    """Compute accuracies and distributions by class.

    Args:
        definition: the notebook averages, for each predicted class, its own probability, to 4 decimals; the Comparator
            the probabilities of all classes, to 3.
        train: of the whole training split.
        test: of the whole test part.
        forget: the forgotten class.

    Returns:
        UA and TUA, which are accuracies, not errors; RA and TRA, means over the other classes; and what each class is
        taken for.
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
    """Compute PA as the Comparator's own files have it: the mean of 1 - UA, RA, 1 - TUA and TRA.

    Returns:
        In [0, 1], 3 decimals.
    """
    return float(round((1 - measured["UA"] + measured["RA"] + 1 - measured["TUA"] + measured["TRA"]) / 4, 3))


def notebook_scores(shown: Predictions, forget: int, classes: int) -> dict[str, Any]:
    """Compute the notebook's scores and tables.

    Returns:
        FQS, PA and attack. Images are named by their index in the data set, by which the page fetches them; the
        notebook counts them from 0.
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


def points(definition: _Definition, shown: Predictions, layout: NDArray[np.float64], forget: int) -> list[list[Any]]:
    """List the images of the subset as the page plots them.

    Args:
        definition: the Comparator's probabilities are at temperature 2, and only those above 0.001.
        shown: of N images.
        layout: (N, 2).
        forget: the forgotten class.

    Returns:
        True class, predicted class, index, whether of the forgotten class (1 or 0), x, y, and the probability of each
        class, 3 decimals.
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


def _similarities(definition: _Definition, trio: Trio, dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """Compute CKA of the base model and of the retrained one with the unlearned one, layer by layer."""
    models = [trio.unlearned, trio.base, *([trio.retrained] if trio.retrained else [])]
    names = ("cka", "cka_retrain")[: len(models) - 1]
    sides = list(four_sides(dataset, trio.unlearned))
    comparison = LayerComparison.of(models, sides[1].sample, device)
    found: dict[str, Any] = {name: {"layers": comparison.layers, "train": {}, "test": {}} for name in names}
    for side in sides:
        some = side.first(len(side.sample.indices) // _SHARE[side.part]).sample
        matrices = comparison.compare(some, [(1, 0), (2, 0)][: len(names)], _BATCH)
        for name, matrix in zip(names, matrices, strict=True):
            limited = matrix.clip(0, 1) if definition == "comparator" else matrix
            group = "forget_class" if side.forgotten else "other_classes"
            found[name][side.part][group] = np.round(limited, 3).tolist()
    zeros = {group: [[0.0] for _ in comparison.layers] for group in ("forget_class", "other_classes")}
    return {"cka_retrain": {"layers": comparison.layers, "train": zeros, "test": zeros}} | found
