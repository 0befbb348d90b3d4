"""Divergence of each image's margins between unlearned and retrained models."""

import numpy as np
from numpy.typing import NDArray

from salun.metrics import Runs, Value, metric
from salun.metrics.matching import enough
from salun.metrics.scores import Variant, margins

_Reals = NDArray[np.floating]
_Floats = NDArray[np.float64]

_FEWEST = 2
_BINS = 20
_LIMIT = 100
_SMALLEST = 1e-5


def _shares(values: _Reals, edges: _Reals, closed: NDArray[np.bool_]) -> _Floats:
    """Count each image's values in its bins."""
    place = (values[:, None] >= edges[None]).sum(1)
    place = np.where(closed & (values == edges[-1]), _BINS, place)
    counts = np.stack([(place == number).sum(0) for number in range(1, _BINS + 1)])
    return np.asarray(counts / np.maximum(counts.sum(0), 1), dtype=np.float64)


def klom(unlearned: _Reals, retrained: _Reals, variant: Variant = "corrected") -> _Floats:
    """Compute the divergence of each image's margins, by histogram, in the margins' precision.

    Values equal to the greatest of both kinds lie on the last edge and are dropped, as the authors' code does. Where
    that drops all margins of one kind, the last bin is closed for both, as numpy.histogram closes it; the original form
    is then NaN or about 0, although no two kinds are further apart.

    Args:
        unlearned: (K, N) margins in unlearned models.
        retrained: (L, N) in retrained models.
        variant: "original" for what the authors' code computes.

    Returns:
        (N,) KL(unlearned || retrained) in nats, at least 0; NaN where a margin is no number.

    Source:
        RoyRin/data-unlearning-bench, `unlearning_bench/eval.py`, after Georgiev et al., "Attribute-to-Delete",
        arXiv 2410.23232, appendix E.1.
    """
    p, q = (np.clip(values, -_LIMIT, _LIMIT) for values in (unlearned, retrained))
    start, stop = np.minimum(p.min(0), q.min(0)), np.maximum(p.max(0), q.max(0))
    edges = np.linspace(start, np.where(start >= stop, start + 1, stop), _BINS + 1)
    dropped = (p == edges[-1]).all(0) | (q == edges[-1]).all(0)
    after, never = (_shares(values, edges, dropped & (variant == "corrected")) for values in (p, q))
    never = np.where(after > 0, np.maximum(never, _SMALLEST), never)
    with np.errstate(invalid="ignore", divide="ignore"):
        after, never = after / after.sum(0), never / never.sum(0)
        terms = np.where(after > 0, after * np.log(after / never), after)
    return np.asarray(terms.sum(0))


@metric(
    "KLoM", "KLoM_median", "KLoM_p95", unit="nats", direction="lower", ideal="0", cost="many models", revised="0.2.0"
)
def divergence_of_margins(runs: Runs) -> tuple[Value, Value, Value]:
    """KL divergence of margins: how differently unlearned and retrained models treat each forget image.

    Formula:
        Margin = z_y - ln sum over c != y of exp z_c, cut to [-100, 100]. For each forget image KL(p || q) of its
        histograms over unlearned (p) and retrained models (q), 20 equal bins over the range of both, q at least
        1e-5 where p is not 0. The greatest margins lie on the last edge and count in no bin; where that leaves a
        kind none, they count in the last bin. KLoM, KLoM_median, KLoM_p95 = mean, median and 95th percentile over
        images.

    Cannot see:
        More than its models show: 20 bins of a few models are nearly empty, and the value is then near 11 by chance
        alone. Compare equal numbers of models, 100 for the authors' figures.

    Returns:
        In nats, at least 0; good when 0.

    Source:
        Georgiev et al., "Attribute-to-Delete: Machine Unlearning via Datamodel Matching", arXiv 2410.23232; steps
        of RoyRin/data-unlearning-bench. The authors define no mean over images, and leave out
        images whose unlearned margins all lie on the last edge.
    """
    if not enough(runs.unlearned, runs.retrained, _FEWEST):
        return None, None, None
    unlearned, retrained = (
        np.stack([margins(run.forget) for run in kind]) for kind in (runs.unlearned, runs.retrained)
    )
    values = klom(unlearned, retrained)
    values = values[np.isfinite(values)]
    if not len(values):
        return None, None, None
    return float(values.mean()), float(np.median(values)), float(np.percentile(values, 95))
