"""The metrics: pure functions of outputs or models, one file a family, and their registry."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Literal

from salun.errors import SalunError, did_you_mean
from salun.metrics.evaluation import Evaluation, Models, Runs, Subject
from salun.registry import claim, load_installed, sections_of, summary_of

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

Unit = Literal["%", "s", "epochs", "images", "nats", "bits", "", "table"]
Direction = Literal["as retrained", "higher", "lower", "none"]
Cost = Literal["free", "attack", "many models", "weights"]
Against = Literal["base", "retrained", "random"]
Value = float | None
Detail = dict[str, float | None] | list[list[float | None]]
Found = dict[str, Any]

METRIC_SETS = DEFAULT, ATTACKS, ALL = "default", "attacks", "all"
GAP_METRICS = ("UA", "RA", "TA", "MIA")


@dataclass(frozen=True)
class Metric:
    """A registered metric.

    Attributes:
        name: as in JSON and tables.
        family: the names that its function is registered for, its own among them.
        compute: gives values of the family by name, of a subject and the names that are wanted.
        subject: what it is a function of: `Evaluation`, `Runs` or `Models`.
        unit: "%" for a fraction that is printed as a percentage, "" for a plain number, "table" for a matrix
            or a value a layer, which is kept in the record and stands in no column.
        direction: which change is good: towards the retrained model's value, up, or down; "none" where the
            value alone says nothing.
        ideal: the best value, in words.
        cost: "free" of outputs that are there, "attack" where something is fitted, "many models" where several
            runs are needed, "weights" where the models run once more.
        against: models beside its own that it needs.
        needs: sets that it is computed from.
        summary: first sentence of the docstring.
        formula: of the docstring.
        blind: what it cannot see, of the docstring.
        source: of the docstring.
        default: whether it is computed where no metric is named.
        original: whether it is kept only to reproduce figures of a code whose definition is faulty.
        derived: whether it repeats or is computed from UA, RA, TA and MIA, so that its test says nothing new.
        home: the module that it stands in.
        revised: version of its package whose values differ from those recorded before; None where none do.
    """

    name: str
    family: tuple[str, ...]
    compute: Callable[[Any, tuple[str, ...]], Found]
    subject: type[Evaluation] | type[Runs] | type[Models]
    unit: Unit
    direction: Direction
    ideal: str
    cost: Cost
    against: tuple[Against, ...]
    needs: tuple[str, ...]
    summary: str
    formula: str
    blind: str
    source: str
    default: bool
    original: bool
    derived: bool
    home: str
    revised: str | None


METRICS: dict[str, Metric] = {}


def metric(
    *names: str,
    unit: Unit | tuple[Unit, ...] = "%",
    direction: Direction = "as retrained",
    ideal: str | tuple[str, ...] = "equals retrained",
    cost: Cost = "free",
    against: tuple[Against, ...] = (),
    needs: tuple[str, ...] = (),
    default: bool = False,
    original: bool = False,
    derived: bool = False,
    revised: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a metric.

    Args:
        names: one name a value that the function returns.
        unit: of the values, as `Metric` says; one for all names, or one a name.
        direction: which change is good.
        ideal: the best value, in words; one for all names, or one a name.
        cost: what it takes.
        against: models that an `Evaluation` or `Models` must hold beside its own.
        needs: sets of an `Evaluation` that must not be empty, in the models of `against` too.
        default: whether it is computed where no metric is named.
        original: whether it is kept only to reproduce figures of a faulty definition.
        derived: whether it repeats or is computed from UA, RA, TA and MIA.
        revised: version that last changed the definition: a value recorded under another one counts as missing.

    Returns:
        A decorator for a function of one argument, annotated with its subject, that returns one value or a
        tuple of them; or of two, the second being the names that are wanted, that returns a dictionary of
        those. Where `against` or `needs` is not met, the values are None and the function is not called.

    Raises:
        TypeError: the function names no subject, or there are not as many units or ideals as names.
        SalunError: a name is taken.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())

        @wraps(function)
        def able(subject: Any, *wanted: tuple[str, ...]) -> Any:
            if is_met(subject, against, needs):
                return function(subject, *wanted)
            return dict.fromkeys(*wanted) if wanted else (None,) * len(names) if len(names) > 1 else None

        def compute(subject: Any, wanted: tuple[str, ...]) -> Found:
            if len(parameters) > 1:
                return dict(able(subject, wanted))
            found = able(subject)
            return dict(zip(names, found if len(names) > 1 else (found,), strict=True))

        subject = parameters[0].annotation if parameters else None
        if not names or subject not in (Evaluation, Runs, Models):
            raise TypeError(f"{function.__name__}: needs a name and an argument of type Evaluation, Runs or Models")
        homes = {name: found.home for name, found in METRICS.items()}
        for name in names:
            claim("metric", name, function.__module__, homes)
        said = sections_of(function)
        units = (unit,) * len(names) if isinstance(unit, str) else unit
        ideals = (ideal,) * len(names) if isinstance(ideal, str) else ideal
        for name, measure, best in zip(names, units, ideals, strict=True):
            METRICS[name] = Metric(
                name=name,
                family=names,
                compute=compute,
                subject=subject,
                unit=measure,
                direction=direction,
                ideal=best,
                cost=cost,
                against=against,
                needs=needs,
                summary=summary_of(function),
                formula=said.get("Formula", ""),
                blind=said.get("Cannot see", ""),
                source=said.get("Source", ""),
                default=default,
                original=original,
                derived=derived,
                home=function.__module__,
                revised=revised,
            )
        return able

    return register


def is_met(subject: Subject, against: tuple[Against, ...], needs: tuple[str, ...]) -> bool:
    """Tell whether a subject holds what a metric needs.

    Args:
        subject: what the metric is a function of.
        against: models that must be there.
        needs: sets that must not be empty.

    Returns:
        Whether it does; always of `Runs`, whose metrics look for themselves.
    """
    if isinstance(subject, Runs):
        return True
    others = [getattr(subject, name) for name in against]
    if any(other is None for other in others):
        return False
    models = [subject, *others]
    return all(len(model.sets[name].labels) for model in models if isinstance(model, Evaluation) for name in needs)


def load_metrics() -> None:
    """Import every file of `salun.metrics`, which registers its metrics, and what installed packages add.

    The package's own come first, in the order of its files.
    """
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    load_installed("salun.metrics")
    ordered = sorted(METRICS.items(), key=lambda item: (not item[1].home.startswith(__name__), item[1].home))
    METRICS.clear()
    METRICS.update(ordered)


def check_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that metrics exist, and put the metrics of a set in the place of its name.

    Args:
        names: as in JSON: metrics, or the sets "default", "attacks" and "all"; none for the default ones.

    Returns:
        The names of what is to be computed, each once.

    Raises:
        SalunError: one does not; the nearest is named.
    """
    load_metrics()
    corrected = [name for name, found in METRICS.items() if not found.original]
    sets = {
        DEFAULT: [name for name in corrected if METRICS[name].default],
        ATTACKS: [name for name in corrected if METRICS[name].cost == "attack"],
        ALL: corrected,
    }
    for name in names:
        if name not in METRICS and name not in sets:
            raise SalunError(f"metric '{name}': unknown{did_you_mean(name, [*METRICS, *METRIC_SETS])}")
    wanted = (sets.get(name, [name]) for name in names or (DEFAULT,))
    return tuple(dict.fromkeys(name for part in wanted for name in part))


def revisions(names: Collection[str]) -> dict[str, str]:
    """Tell under which definitions metrics are computed, where one was ever revised.

    Args:
        names: of metrics; others are passed over.

    Returns:
        The version of its last revision by "metric NAME".
    """
    known = {name: METRICS[name].revised for name in names if name in METRICS}
    return {f"metric {name}": revised for name, revised in known.items() if revised is not None}


def outdated(names: Collection[str], versions: Mapping[str, str]) -> list[str]:
    """Find the metrics that were computed under another definition than the one at hand.

    Args:
        names: of metrics that have a value.
        versions: what `revisions` told when it was computed, among others.

    Returns:
        Their names.
    """
    now = revisions(names)
    return [name for name in names if now.get(f"metric {name}") not in (None, versions.get(f"metric {name}"))]


def evaluate(subject: Subject, names: tuple[str, ...] = ()) -> Found:
    """Compute the metrics that are functions of a subject.

    Args:
        subject: a model's outputs, several models' outputs, or models.
        names: which; none for the default ones. Those of another kind of subject are left out.

    Returns:
        Values by name: fractions, seconds, plain numbers, tables; None where a metric does not apply, has no
        finite value, or needs a model that the subject lacks.

    Raises:
        SalunError: an unknown name.
    """
    wanted = [name for name in check_metrics(names) if isinstance(subject, METRICS[name].subject)]
    ordered = subject if isinstance(subject, Models) else subject.in_order()
    found: Found = {}
    for name in wanted:
        if name not in found:
            family = METRICS[name].family
            found |= METRICS[name].compute(ordered, tuple(other for other in wanted if other in family))
    return {name: finite(found[name]) for name in wanted}


def finite(value: Any) -> Any:
    """Put None in place of what is no finite number.

    Args:
        value: a number, None, or lists and dictionaries of them.

    Returns:
        The same with plain numbers.
    """
    if isinstance(value, dict):
        return {key: finite(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [finite(content) for content in value]
    return None if value is None or not math.isfinite(value) else float(value)
