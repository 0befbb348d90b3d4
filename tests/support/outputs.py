"""Outputs of models that never were, for tests of metrics."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import scipy.stats
import torch

from salun.metrics import Evaluation, Runs
from salun.metrics.evaluation import CORRUPTED_SETS, SETS
from salun.training.evaluate import Outputs

SIZES = {"forget": 60, "retain": 90, "validation": 70, "test": 80, "forgotten_test": 0}
CLASS_WISE = SIZES | {"forgotten_test": 60}


def outputs(count: int, labels: int = 0, seed: int = 1, sure: float = 1.5, classes: int = 4) -> Outputs:
    """Noise, with `sure` on the true class; `labels` is the seed of the labels, as many images as models know."""
    truth = np.random.default_rng([labels, count]).integers(0, classes, count)
    logits = np.random.default_rng([seed, labels, count]).normal(size=(count, classes)) * 1.5
    logits[np.arange(count), truth] += sure
    return Outputs(torch.from_numpy(logits).float(), torch.from_numpy(truth), torch.arange(count))


def of_losses(losses: np.ndarray) -> Outputs:
    """Outputs of two classes whose cross-entropies are these."""
    logits = np.stack([-np.log(np.expm1(losses.astype(np.float64))), np.zeros(len(losses))], axis=1)
    return Outputs(torch.from_numpy(logits), torch.zeros(len(losses), dtype=torch.int64))


def of_margins(margins: np.ndarray) -> tuple[Evaluation, ...]:
    """Models of two classes whose margins of the forget images are given, a row a model."""
    logits = torch.from_numpy(np.stack([margins, np.zeros_like(margins)], axis=2))
    labels = torch.zeros(margins.shape[1], dtype=torch.int64)
    return tuple(replace(model(), forget=Outputs(one, labels)) for one in logits)


def of_accuracy(right: int, wrong: int) -> Outputs:
    """Images of which so many are classified right."""
    logits = torch.eye(3)[[1] * right + [2] * wrong]
    return Outputs(logits, torch.ones(right + wrong, dtype=torch.int64))


def model(seed: int = 1, sizes: dict[str, int] = SIZES, sure: float = 1.5, classes: int = 4) -> Evaluation:
    """One model's outputs on every set; all models are asked of the same images."""
    sets = [outputs(sizes[name], place, seed, sure, classes) for place, name in enumerate(SETS)]
    earlier = tuple(outputs(20, 10 + place, seed, sure, classes) for place in range(2))
    return Evaluation(*sets, seconds=1.5, passes=4000, earlier=earlier, earlier_seconds=2.5, earlier_passes=300)


def compared(seed: int = 1, **options: Any) -> Evaluation:
    """One model's outputs, on corrupted images too, beside those of base, retrained and random model."""
    base, retrained, random = (model(other, **options) for other in (97, 98, 99))
    shape = {key: value for key, value in options.items() if key != "sizes"}
    more: Any = {name: outputs(50, 10 + place, seed, **shape) for place, name in enumerate(CORRUPTED_SETS)}
    return replace(model(seed, **options), base=base, retrained=retrained, random=random.forget, **more)


def several(unlearned: int = 4, retrained: int = 4, **options: Any) -> Runs:
    after, never = range(100, 100 + unlearned), range(500, 500 + retrained)
    return Runs(tuple(model(seed, **options) for seed in after), tuple(model(seed, **options) for seed in never))


def changed(subject: Any, change: Callable[[Outputs], Outputs]) -> Any:
    """The same subject with every model's outputs changed."""
    if isinstance(subject, Outputs):
        return change(subject)
    if isinstance(subject, tuple):
        return tuple(changed(part, change) for part in subject)
    if not isinstance(subject, Evaluation | Runs):
        return subject
    return replace(subject, **{field.name: changed(getattr(subject, field.name), change) for field in fields(subject)})


def rewritten(subject: Any, logits: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same subject with other logits."""
    return changed(subject, lambda held: Outputs(logits(held.logits), held.labels, held.indices))


def permuted(subject: Any, seed: int = 0) -> Any:
    """The same subject, every set's images in another order."""

    def shuffle(held: Outputs) -> Outputs:
        order = torch.from_numpy(np.random.default_rng([seed, len(held.labels)]).permutation(len(held.labels)))
        return Outputs(held.logits[order], held.labels[order], None if held.indices is None else held.indices[order])

    return changed(subject, shuffle)


def first(subject: Any, count: int) -> Any:
    """The same subject with the first images of every set only."""
    return changed(
        subject, lambda held: Outputs(*(None if part is None else part[:count] for part in vars(held).values()))
    )


def holds(values: Sequence[float], wanted: float) -> bool:
    """Tell whether the 95 % t-interval of the mean holds a value."""
    half = scipy.stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return bool(abs(np.mean(values) - wanted) <= half)
