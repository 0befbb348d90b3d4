"""What a new classifier finds in the features of a model whose own head says nothing of the forgotten."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from salun.data.images import Images
from salun.device import full_precision
from salun.errors import SalunError
from salun.metrics import Models, Value, metric
from salun.metrics.evaluation import spread
from salun.models.features import classifiers, embed, mark_head

_BATCH = 256
_STEPS = 1000
_NEIGHBOURS = 5

_NONE = torch.empty(0, dtype=torch.int64)

_Reals = NDArray[np.floating]


@metric("probe_forget", "probe_test", cost="weights", gone=True, head=True)
def linear_probe(models: Models) -> tuple[Value, Value]:
    """Linear probe: accuracy on forget images, and on unseen ones like them, of a new head on the frozen features.

    Formula:
        A multinomial logistic regression (L2, C = 1) on the head's inputs, each scaled to variance 1, fitted to retain
        images and forget images with their labels. probe_forget = accuracy on each half of the forget images, in turn
        every other one, of a probe that was fitted to the other half; probe_test = accuracy, of a probe fitted to
        both, on the test images of the forgotten classes, or on the test set where no class is forgotten. At most
        2,000 images of each set, evenly spaced in the order of their indices.

    Cannot see:
        What features tell of classes that they were never trained on: a retrained model's tell much too, so only
        what exceeds its value came from the forget images. Information in earlier layers (see `IDI`).

    Returns:
        Two accuracies. None where the head of the model is not known, or there are no such images.

    Source:
        Kim, Cha and Kim, "Are We Truly Forgetting? A Critical Re-examination of Machine Unlearning Evaluation
        Protocols", arXiv 2503.06991, code yongwookim1/UUEF, which fits nearest neighbours; the linear probe is that
        of Alain and Bengio, "Understanding Intermediate Layers Using Linear Classifier Probes", arXiv 1610.01644.
    """
    from sklearn.linear_model import LogisticRegression  # only now, as scikit-learn takes long to import
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return _found_by(models, make_pipeline(StandardScaler(), LogisticRegression(max_iter=_STEPS)))


@metric("kNN_forget", "kNN_test", cost="weights", gone=True, head=True)
def nearest_neighbours(models: Models) -> tuple[Value, Value]:
    """Nearest neighbours: accuracy on forget images, and on unseen ones like them, of 5 neighbours in the features.

    Formula:
        As `probe_forget` and `probe_test`, with the majority of the 5 nearest by the cosine of the head's inputs.

    Cannot see:
        What `probe_forget` cannot; and classes of few images, which the neighbours of others outvote.

    Returns:
        Two accuracies. None where the head of the model is not known, or there are no such images.

    Source:
        yongwookim1/UUEF, `utils.py`: k = 5, cosine; by Kim, Cha and Kim, arXiv 2503.06991, who fit to images of other
        tasks too.
    """
    from sklearn.neighbors import KNeighborsClassifier

    return _found_by(models, KNeighborsClassifier(_NEIGHBOURS, metric="cosine", algorithm="brute"))


def _found_by(models: Models, classifier: Any) -> tuple[Value, Value]:
    """Fit a classifier to features, and ask it of images that it was not fitted to."""
    sets = [spread(images) for images in (models.forget, models.retain, models.unseen or models.forget.take(_NONE))]
    try:
        forget, retain, unseen = (_features(models, images) for images in sets)
    except SalunError:
        return None, None
    if not all(np.isfinite(x).all() for x in (forget, retain, unseen)):
        return None, None
    labels, kept, wanted = (images.labels.cpu().numpy() for images in sets)
    even = np.arange(len(labels)) % 2 == 0
    halves = [
        _right(classifier, (retain, forget[known]), (kept, labels[known]), forget[~known], labels[~known])
        for known in (even, ~even)
    ]
    seen = _right(classifier, (retain, forget), (kept, labels), unseen, wanted)
    return _share(np.concatenate(halves)), _share(seen)


def _share(right: NDArray[np.bool_]) -> Value:
    """Compute an accuracy; None of no images."""
    return float(right.mean()) if len(right) else None


def _right(
    classifier: Any, x: tuple[_Reals, ...], y: tuple[NDArray[np.int64], ...], asked: _Reals, truth: _Reals
) -> NDArray[np.bool_]:
    """Tell which images a classifier gets right; none of them where it is given too little to fit."""
    known, labels = np.concatenate(x), np.concatenate(y)
    if not len(asked) or len(np.unique(labels)) < 2 or len(labels) < _NEIGHBOURS:
        return np.empty(0, dtype=np.bool_)
    return np.asarray(classifier.fit(known, labels).predict(asked) == truth)


@torch.no_grad()
def _features(models: Models, images: Images) -> _Reals:
    """Compute the (N, D) inputs of the head."""
    model = deepcopy(models.model).eval()
    parts = [np.empty((0, 0))]
    for batch in images.batches(_BATCH):
        if not classifiers(model):
            mark_head(model, batch.x)
        with full_precision(batch.x.device):
            parts.append(embed(model, batch.x).flatten(1).cpu().double().numpy())
    return np.concatenate(parts[1:] or parts)
