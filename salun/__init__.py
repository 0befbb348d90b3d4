"""Machine unlearning in image classifiers: train, unlearn, measure.

The functions are those of `salun.api`, which is imported when the first of them is used.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from salun import metrics
    from salun.api import (
        Images,
        Mask,
        Recipe,
        Results,
        SalunError,
        Scores,
        corrupt,
        evaluate,
        load,
        methods,
        model,
        report,
        retrain,
        run,
        saliency,
        split,
        tune,
        unlearn,
    )

__all__ = [
    "Images",
    "Mask",
    "Recipe",
    "Results",
    "SalunError",
    "Scores",
    "corrupt",
    "evaluate",
    "load",
    "methods",
    "metrics",
    "model",
    "report",
    "retrain",
    "run",
    "saliency",
    "split",
    "tune",
    "unlearn",
]


def __getattr__(name: str) -> Any:
    """Import a name of the Python face on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'salun' has no attribute '{name}'")
    return getattr(importlib.import_module("salun.api"), name)


def __dir__() -> list[str]:
    """List the names of the Python face."""
    return sorted([*globals(), *__all__])
