"""A run as the JSON file that the notebook saves and the Machine Unlearning Comparator's page reads."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError
from salun.experiments.record import Record
from salun.latent.cka import LayerComparison
from salun.latent.comparator_scores import (
    Definition,
    Predictions,
    accuracies,
    comparator_scores,
    notebook_scores,
    points,
    privacy,
)
from salun.latent.extraction import Model, Sample, forgotten_classes, pre_head
from salun.latent.subset import four_sides, notebook_subset
from salun.latent.trios import Trio, run_of
from salun.latent.umap import NOTEBOOK_DISTANCE, NOTEBOOK_NEIGHBOURS, NOTEBOOK_SEED, umap
from salun.training.evaluate import predict

_Singles = NDArray[np.float32]
_UNKNOWN = "N/A"
_BATCH = 1000
_SHARE = {"train": 10, "test": 2}


def _forgotten_class(dataset: Dataset, model: Model) -> int:
    """Tell which one class a model was to forget; the page shows no other models."""
    seed = model.spec.split_seed
    listed = torch.tensor(model.excluded, dtype=torch.int64)
    train = make_split(dataset, ForgetRequest(), seed).train
    gone = dataset.train.labels.cpu()[train[torch.isin(train, listed)]].unique().tolist()
    if len(gone) != 1 or forgotten_classes(dataset, listed, seed).tolist() != gone:
        what = f"was to forget {model.forget or 'a list of images'}"
        raise SalunError(f"{model.path}: {what}; the page knows one forgotten class, all of its images")
    return int(gone[0])


def describe_run(
    definition: Definition, trio: Trio, dataset: Dataset, record: Record | None, device: torch.device
) -> dict[str, Any]:
    """Gather all that the page shows of an unlearned model.

    Args:
        definition: whose scores: the notebook's, or the Comparator's, which need a retrained model.
        trio: the models.
        dataset: their data, on the device.
        record: of the run; None where it is lost.
        device: where the models run.

    Returns:
        What goes into the file, NaN where there is no value; for the notebook's ln 10 that of the number of classes.

    Raises:
        SalunError: not one class was to be forgotten, a retrained model is missing, or a checkpoint does not fit.
    """
    model, forget = trio.unlearned, _forgotten_class(dataset, trio.unlearned)
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
    layout = _notebook_umap(_features_of(network, model, Sample(dataset, split.train[subset], "train", None), device))
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
    """Give the id of the run that made a model; the weights' where none is recorded."""
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


def _notebook_umap(features: _Singles) -> NDArray[np.float64]:
    """Lay (N, D) features out in the plane, as the notebook does."""
    if len(features) <= NOTEBOOK_NEIGHBOURS:
        raise SalunError(f"{len(features)} training images are too few for UMAP with {NOTEBOOK_NEIGHBOURS} neighbours")
    return umap(features, 2, NOTEBOOK_NEIGHBOURS, NOTEBOOK_DISTANCE, NOTEBOOK_SEED)


def _similarities(definition: Definition, trio: Trio, dataset: Dataset, device: torch.device) -> dict[str, Any]:
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
