"""The metrics: pure functions of outputs or models, one file a family."""

import sys
from types import ModuleType

from salun.metrics.evaluation import Evaluation, Models, Runs
from salun.metrics.registry import (
    GAP_METRICS,
    METRIC_SETS,
    METRICS,
    Detail,
    Metric,
    Value,
    check_metrics,
    evaluate,
    load_metrics,
    metric,
    outdated,
    revisions,
)
from salun.registry import Registered

__all__ = [
    "GAP_METRICS",
    "METRICS",
    "METRIC_SETS",
    "Detail",
    "Evaluation",
    "Metric",
    "Models",
    "Runs",
    "Value",
    "check_metrics",
    "evaluate",
    "load_metrics",
    "metric",
    "outdated",
    "revisions",
]


class _Metrics(ModuleType):
    """This package, which lists what it holds when it is called: `salun.metrics()`."""

    def __call__(self) -> dict[str, Metric]:
        """List the metrics by name, each with its formula, its ideal and what it cannot see."""
        load_metrics()
        return Registered(METRICS)


sys.modules[__name__].__class__ = _Metrics
