"""The latent space of a base model, of models that unlearned, and of a retrained one, for a page that links them."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split, without
from salun.data.thumbnails import thumbnail
from salun.errors import SalunError, one_line
from salun.experiments.context import ModelCache
from salun.experiments.problem import dataset_of
from salun.experiments.record import Record
from salun.latent.cka import LayerComparison
from salun.latent.embedding import directions
from salun.latent.extraction import ENDINGS, Model, Sample, extract, read_model, source_of
from salun.latent.features import PRE_HEAD, Features
from salun.latent.groups import FeatureFile
from salun.latent.trios import is_base
from salun.latent.tsne import in_plane
from salun.latent.umap import umap
from salun.latent.wasserstein import DistanceCache

EMBEDDINGS = {"tsne": "t-SNE", "umap": "UMAP"}
_FORGOTTEN, _OTHERS = 200, 400
_PERPLEXITY, _NEIGHBOURS, _NEAREST = 30.0, 15, 0.1


@dataclass(frozen=True)
class KeptRun:
    """A run whose weights are kept, what it is called, and the weights of its retrained model, if they are kept."""

    title: str
    record: Record
    weights: Path
    retrained: Path | None


def linked_space(runs: Sequence[KeptRun], cache: ModelCache, embedding: str = "tsne") -> dict[str, Any]:
    """Embed the same images as several models see them, in one plane.

    Args:
        runs: of one forgetting problem, at least one.
        cache: knows the device and the folders of data and base models.
        embedding: "tsne" or "umap".

    Returns:
        Plain values: images, coordinates, predictions, likeness of layers and distances of classes.

    Raises:
        SalunError: a model, the data or the base model are not at hand.
    """
    unlearned = [read_model(run.weights) for run in runs]
    base = _base_of(runs[0].record, cache.context.checkpoints)
    gold = next((read_model(run.retrained) for run in runs if run.retrained is not None), None)
    models = [base, *unlearned, *([gold] if gold else [])]
    dataset = dataset_of(base.spec, cache)
    sample = _sample_of(dataset, unlearned[0])
    features = [_features_of(model, sample, cache.context.device) for model in models]
    points = _embedded(features, embedding)
    titles = ["base", *(one_line(run.title) for run in runs), *(["retrained"] if gold else [])]
    return {
        "runs": [run.record.id for run in runs],
        "method": EMBEDDINGS[embedding],
        "classes": [one_line(name) for name in dataset.classes],
        "images": _images_of(dataset, features[0]),
        "models": [
            {"place": place, "title": title, "role": model.role, **_points_of(found, features[place])}
            for place, (title, model, found) in enumerate(zip(titles, models, points, strict=True))
        ],
        "retrained": len(models) - 1 if gold else None,
        "layers": [row for model, run in zip(unlearned, runs, strict=True)
                   for row in _layers_of([base, model, *([gold] if gold else [])], run, sample, cache.context.device)],
        "distances": _distances_of(titles, features, gold is not None),
    }  # fmt: skip


def _base_of(record: Record, folder: Path) -> Model:
    """Find the base model of a run in the folder of base models."""
    identity = record.settings["base"]["identity"]
    for path in sorted(path for path in folder.iterdir() if path.suffix in ENDINGS):
        found = read_model(path)
        if is_base(found, identity):
            return found
    raise SalunError(f"{folder}: does not hold the base model ({identity}) of run {record.id}")


def _sample_of(dataset: Dataset, model: Model) -> Sample:
    """Choose images evenly: some to be forgotten, and some of the others."""
    train = make_split(dataset, ForgetRequest(), model.spec.split_seed).train
    listed = torch.tensor(model.excluded, dtype=torch.int64)
    chosen = [_evenly(listed, _FORGOTTEN), _evenly(without(train, listed), _OTHERS)]
    return Sample(dataset, torch.cat(chosen).sort().values, "train", listed)


def _evenly(indices: Tensor, most: int) -> Tensor:
    count = min(most, len(indices))
    return indices[torch.arange(count) * len(indices) // max(count, 1)]


def _features_of(model: Model, sample: Sample, device: torch.device) -> Features:
    source = source_of(model, sample, PRE_HEAD, model.path)
    images = sample.images(model, device)
    return extract(model.restore(device), images, sample.forgotten(model), sample.dataset.classes, source)


def _embedded(features: Sequence[Features], embedding: str) -> list[Any]:
    """Embed the features of all models together, (N, 2) each."""
    near = directions(np.concatenate([found.features for found in features]))
    if embedding == "umap":
        flat = umap(near, 2, min(_NEIGHBOURS, len(near) - 1), _NEAREST, 0)
    else:
        flat = in_plane(near, min(_PERPLEXITY, (len(near) - 1) // 3), 0)
    return np.split(flat, len(features))


def _points_of(points: Any, features: Features) -> dict[str, list[Any]]:
    """Give coordinates, predictions and their probabilities."""
    confidence = softmax(features.logits.astype(np.float64), axis=1).max(1)
    return {
        "x": points[:, 0].round(3).tolist(),
        "y": points[:, 1].round(3).tolist(),
        "prediction": features.predictions.tolist(),
        "confidence": confidence.round(4).tolist(),
    }


def _images_of(dataset: Dataset, features: Features) -> list[dict[str, Any]]:
    """Describe the images, with a picture of each."""
    names = dataset.train.names
    pixels = dataset.train.pixels[torch.from_numpy(features.indices)]
    return [
        {"index": index, "label": label, "forgotten": gone, "picture": thumbnail(image),
         "name": one_line(names[index]) if names else f"image {index}"}
        for index, label, gone, image in zip(features.indices.tolist(), features.labels.tolist(),
                                             features.forgotten.tolist(), pixels, strict=True)
    ]  # fmt: skip


def _layers_of(models: Sequence[Model], run: KeptRun, sample: Sample, device: torch.device) -> list[dict[str, Any]]:
    """Compare the layers of a base, an unlearned and, if there is one, a retrained model, on two sets of images."""
    pairs = {"unlearned and base": (1, 0)}
    pairs |= {"unlearned and retrained": (1, 2), "retrained and base": (2, 0)} if len(models) > 2 else {}
    comparison = LayerComparison.of(models, sample, device)
    forgotten = sample.forgotten(models[1])
    found = []
    for images, chosen in (("forget", forgotten), ("retain", ~forgotten)):
        part = Sample(sample.dataset, sample.indices[chosen], sample.split, sample.forget)
        for pair, values in zip(pairs, comparison.compare(part, list(pairs.values())), strict=True):
            found += [
                {"title": one_line(run.title), "images": images, "pair": pair, "layer": layer, "CKA": round(value, 4)}
                for layer, value in zip(comparison.layers, np.diag(values).tolist(), strict=True) if value == value
            ]  # fmt: skip
    return found


def _distances_of(titles: Sequence[str], features: Sequence[Features], retrained: bool) -> list[dict[str, Any]]:
    """Measure how far the features of each class are apart in base, unlearned and retrained model."""
    cache = DistanceCache(False, lambda title, steps: nullcontext(lambda: None))
    files = [FeatureFile(Path(title), Path(title), found) for title, found in zip(titles, features, strict=True)]
    last = len(files) - 1 if retrained else len(files)
    found = []
    for place in range(1, last):
        pairs = {"base to unlearned": (0, place)}
        pairs |= {"unlearned to retrained": (place, last), "base to retrained": (0, last)} if retrained else {}
        for pair, (one, other) in pairs.items():
            values = cache.between_models(files[one], files[other]).values.tolist()
            found += [
                {"title": titles[place], "pair": pair, "class": one_line(name), "distance": round(value, 4)}
                for name, value in zip(features[0].classes, values, strict=True) if value == value
            ]  # fmt: skip
    return found
