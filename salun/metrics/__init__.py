"""The metrics: pure functions of outputs or models, one file a family."""

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
