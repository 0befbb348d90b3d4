"""The metrics: pure functions of a model's outputs, one file a family, and their registry."""

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from salun.errors import SalunError, did_you_mean
from salun.training import Outputs

Unit = Literal["%", "s"]
Value = float | None


@dataclass(frozen=True)
class Evaluation:
    """All that the metrics of one model are computed from.

    Attributes:
        forget: outputs on the forget set.
        retain: on the retain set, in index order.
        validation: on the validation set, without the forgotten classes.
        test: on the test set, without the forgotten classes.
        forgotten_test: on the test images of the forgotten classes; empty for other forget sets.
        seconds: wall time of mask and method; None for a model that was not unlearned.
    """

    forget: Outputs
    retain: Outputs
    validation: Outputs
    test: Outputs
    forgotten_test: Outputs
    seconds: float | None = None


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: as in JSON and tables.
        compute: gives the values of all metrics that it is registered for, by name.
        unit: "%" for a fraction that is printed as a percentage, "s" for seconds.
        ideal: when the value is good, in words.
        summary: first line of the docstring.
        default: whether it is computed where no metric is named.
    """

    name: str
    compute: Callable[[Evaluation], dict[str, Value]]
    unit: Unit
    ideal: str
    summary: str
    default: bool


METRICS: dict[str, Metric] = {}
GAP_METRICS = ("UA", "RA", "TA", "MIA")


def metric(
    *names: str, unit: Unit = "%", ideal: str = "equals retrained", default: bool = True
) -> Callable[..., Callable[..., object]]:
    """Register a metric.

    Args:
        names: one name a value that the function returns.
        unit: "%" for fractions, "s" for seconds.
        ideal: when the value is good, in words.
        default: whether it is computed where no metric is named.

    Returns:
        A decorator for a function of an `Evaluation` that returns one value, or a tuple of them.
    """

    def register(function: Callable[[Evaluation], Value | tuple[Value, ...]]) -> Callable[..., object]:
        def compute(evaluation: Evaluation) -> dict[str, Value]:
            found = function(evaluation)
            return dict(zip(names, found if isinstance(found, tuple) else (found,), strict=True))

        summary = (function.__doc__ or "").partition("\n")[0]
        for name in names:
            METRICS[name] = Metric(name, compute, unit, ideal, summary, default)
        return function

    return register


def load_metrics() -> None:
    """Import every file of `salun.metrics`, which registers its metrics."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def check_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that metrics exist.

    Args:
        names: as in JSON; none for the default ones.

    Returns:
        The names of what is to be computed.

    Raises:
        SalunError: one does not; the nearest is named.
    """
    load_metrics()
    for name in names:
        if name not in METRICS:
            raise SalunError(f"metric '{name}': unknown{did_you_mean(name, METRICS)}")
    return names or tuple(name for name, found in METRICS.items() if found.default)


def evaluate(evaluation: Evaluation, names: tuple[str, ...] = ()) -> dict[str, Value]:
    """Compute metrics.

    Args:
        evaluation: a model's outputs.
        names: which; none for the default ones.

    Returns:
        Values by name, fractions and seconds; None where a metric does not apply.

    Raises:
        SalunError: an unknown name.
    """
    wanted = check_metrics(names)
    found: dict[str, Value] = {}
    for name in wanted:
        if name not in found:
            found |= METRICS[name].compute(evaluation)
    return {name: found[name] for name in wanted}
