"""Divergence of each image's margins between unlearned and retrained models."""

import numpy as np
from numpy.typing import NDArray

from salun.metrics import Runs, Value, metric
from salun.metrics.matching import enough
from salun.metrics.scores import margins

Reals = NDArray[np.floating]
Floats = NDArray[np.float64]

FEWEST = 2
BINS = 20
LIMIT = 100
SMALLEST = 1e-5


def shares(values: Reals, edges: Reals) -> Floats:
    """Count each image's values in its bins.

    Args:
        values: (K, N).
        edges: (21, N), ascending; a bin holds its lower edge and not its upper one.

    Returns:
        (20, N) shares of the values in bins; zeros where none is.
    """
    place = (values[:, None] >= edges[None]).sum(1)
    counts = np.stack([(place == number).sum(0) for number in range(1, BINS + 1)])
    return np.asarray(counts / np.maximum(counts.sum(0), 1), dtype=np.float64)


def klom(unlearned: Reals, retrained: Reals) -> Floats:
    """Compute the divergence of each image's margins, by histogram.

    Values equal to the greatest of both kinds lie on the last edge and are dropped, as the authors' code does, so
    that an image whose unlearned margins all are that has no value. In float32 the edges are float32.

    Args:
        unlearned: (K, N) margins in unlearned models.
        retrained: (L, N) in retrained models.

    Returns:
        (N,) KL(unlearned || retrained) in nats, at least 0; NaN where there is no value.

    Source:
        RoyRin/data-unlearning-bench, `unlearning_bench/eval.py`, after Georgiev et al., "Attribute-to-Delete",
        arXiv 2410.23232, appendix E.1.
    """
    p, q = (np.clip(values, -LIMIT, LIMIT) for values in (unlearned, retrained))
    start, stop = np.minimum(p.min(0), q.min(0)), np.maximum(p.max(0), q.max(0))
    edges = np.linspace(start, np.where(start >= stop, start + 1, stop), BINS + 1)
    after, never = shares(p, edges), shares(q, edges)
    never = np.where(after > 0, np.maximum(never, SMALLEST), never)
    with np.errstate(invalid="ignore", divide="ignore"):
        after, never = after / after.sum(0), never / never.sum(0)
        terms = np.where(after > 0, after * np.log(after / never), after)
    return np.asarray(terms.sum(0))


@metric("KLoM", "KLoM_median", "KLoM_p95", unit="nats", direction="lower", ideal="0", cost="many models")
def divergence_of_margins(runs: Runs) -> tuple[Value, Value, Value]:
    """KL divergence of margins: how differently unlearned and retrained models treat each forget image.

    Formula:
        Margin = z_y - ln sum over c != y of exp z_c, cut to [-100, 100]. For each forget image KL(p || q) of its
        histograms over unlearned (p) and retrained models (q), 20 equal bins over the range of both, q at least
        1e-5 where p is not 0. KLoM, KLoM_median, KLoM_p95 = mean, median and 95th percentile over images.

    Cannot see:
        More than its models show: 20 bins of a few models are nearly empty, and the value is then near 11 by chance
        alone. Compare equal numbers of models, 100 for the authors' figures.

    Args:
        runs: outputs of the unlearned and the retrained models.

    Returns:
        In nats, at least 0; good when 0. None for less than 2 models of a kind, or where no image has a value.

    Raises:
        SalunError: the models' forget images differ.

    Source:
        Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", arXiv 2410.23232; steps
        of RoyRin/data-unlearning-bench. The authors define no mean over images.
    """
    if not enough(runs.unlearned, runs.retrained, FEWEST):
        return None, None, None
    unlearned, retrained = (
        np.stack([margins(run.forget) for run in kind]) for kind in (runs.unlearned, runs.retrained)
    )
    values = klom(unlearned, retrained)
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None, None
    return float(values.mean()), float(np.median(values)), float(np.percentile(values, 95))
