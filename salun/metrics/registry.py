"""The registry of metrics: their names, what they need, and how the wanted ones are computed."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, Literal

from salun.errors import SalunError, did_you_mean
from salun.metrics.evaluation import Evaluation, Models, Runs, Subject
from salun.registry import claim, load_installed, sections_of, summary_of

_Unit = Literal["%", "s", "epochs", "images", "nats", "bits", "", "table"]
_Direction = Literal["as retrained", "higher", "lower", "none"]
_Cost = Literal["free", "attack", "many models", "weights"]
_Against = Literal["base", "retrained", "random"]
_Found = dict[str, Any]
Value = float | None
Detail = dict[str, float | None] | list[list[float | None]]

_PACKAGE = "salun.metrics"
METRIC_SETS = _DEFAULT, _ATTACKS, _GONE, _ALL = "default", "attacks", "gone", "all"
GAP_METRICS = ("UA", "RA", "TA", "MIA")


@dataclass(frozen=True, repr=False)
class Metric:
    """A registered metric."""

    name: str  # as in JSON and tables
    family: tuple[str, ...]  # the names that its function is registered for, its own among them
    compute: Callable[[Any, tuple[str, ...]], _Found]  # gives the wanted values of the family by name, of a subject
    subject: type[Evaluation] | type[Runs] | type[Models]
    unit: _Unit  # "%": a fraction; "": a plain number; "table": a matrix or a value a layer, kept in the record alone
    direction: _Direction  # which change is good; "none" where the value alone says nothing
    ideal: str  # the best value, in words
    cost: _Cost  # "attack": something is fitted; "weights": the models run once more
    against: tuple[_Against, ...]  # models beside its own that it needs
    needs: tuple[str, ...]  # sets that it is computed from
    summary: str  # the docstring's first sentence
    formula: str  # and its sections
    blind: str
    source: str
    default: bool  # computed where no metric is named
    gone: bool  # asks whether what was forgotten can be brought back
    head: bool  # looks at the features that the classification head sees
    original: bool  # kept only to reproduce figures of a code whose definition is faulty
    derived: bool  # repeats or is computed from UA, RA, TA and MIA, so that its test says nothing new
    home: str  # the module that registered it
    revised: str | None  # version of its package whose values differ from those recorded before

    def __repr__(self) -> str:
        return f"{f'{self.name} {self.unit}'.rstrip()}: {self.summary} Ideal: {self.ideal}."


METRICS: dict[str, Metric] = {}


def metric(
    *names: str,
    unit: _Unit | tuple[_Unit, ...] = "%",
    direction: _Direction = "as retrained",
    ideal: str | tuple[str, ...] = "equals retrained",
    cost: _Cost = "free",
    against: tuple[_Against, ...] = (),
    needs: tuple[str, ...] = (),
    default: bool = False,
    gone: bool = False,
    head: bool = False,
    original: bool = False,
    derived: bool = False,
    revised: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a metric; `Metric` says what the arguments mean.

    Args:
        names: one name a value that the function returns.
        unit: of all values, or one a name; so is `ideal`.
        revised: version that last changed the definition: a value recorded under another one counts as missing.

    Returns:
        A decorator for a function of one argument, annotated with its subject, that returns one value or a
        tuple of them; or of two, the second being the names that are wanted, that returns a dictionary of
        those. Where `against` or `needs` is not met, the values are None and the function is not called.

    Raises:
        TypeError: the function names no subject, or there are not as many units or ideals as names.
        SalunError: a name is taken.
    """
    units = (unit,) * len(names) if isinstance(unit, str) else unit
    ideals = (ideal,) * len(names) if isinstance(ideal, str) else ideal

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        home, sections, summary = function.__module__, sections_of(function), summary_of(function)
        formula, blind, source = (sections.get(heading, "") for heading in ("Formula", "Cannot see", "Source"))
        able, compute, subject = _callables(function, names, against, needs)
        homes = {name: found.home for name, found in METRICS.items()}
        for name in names:
            claim("metric", name, home, homes)
        for name, one, best in zip(names, units, ideals, strict=True):
            METRICS[name] = Metric(
                name=name, family=names, compute=compute, subject=subject, unit=one, direction=direction, ideal=best,
                cost=cost, against=against, needs=needs, summary=summary, formula=formula, blind=blind, source=source,
                default=default, gone=gone, head=head, original=original, derived=derived, home=home, revised=revised,
            )  # fmt: skip
        return able

    return register


def _callables(
    function: Callable[..., Any], names: tuple[str, ...], against: tuple[_Against, ...], needs: tuple[str, ...]
) -> tuple[Callable[..., Any], Callable[[Any, tuple[str, ...]], _Found], Any]:
    """Give a metric that is None where its needs are not met, the same by names, and its subject."""
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    kind = parameters[0].annotation if parameters else None
    if not names or kind not in (Evaluation, Runs, Models):
        raise TypeError(f"{function.__name__}: needs a name and an argument of type Evaluation, Runs or Models")

    @wraps(function)
    def able(subject: Any, *wanted: tuple[str, ...]) -> Any:
        if _is_met(subject, against, needs):
            return function(subject, *wanted)
        return dict.fromkeys(*wanted) if wanted else (None,) * len(names) if len(names) > 1 else None

    def compute(subject: Any, wanted: tuple[str, ...]) -> _Found:
        if len(parameters) > 1:
            return dict(able(subject, wanted))
        found = able(subject)
        return dict(zip(names, found if len(names) > 1 else (found,), strict=True))

    return able, compute, kind


def _is_met(subject: Subject, against: tuple[_Against, ...], needs: tuple[str, ...]) -> bool:
    """Tell whether a subject holds what a metric needs; `Runs` always do, whose metrics look for themselves."""
    if isinstance(subject, Runs):
        return True
    others = [getattr(subject, name) for name in against]
    if any(other is None for other in others):
        return False
    models = [subject, *others]
    held = [model.sets for model in models if isinstance(model, Evaluation)]
    return all(name in sets and len(sets[name].labels) for sets in held for name in needs)


def load_metrics() -> None:
    """Register the package's metrics, in the order of its files, and then those of installed packages."""
    _import_own()
    load_installed("salun.metrics")
    ordered = _in_order(tuple(METRICS))
    if ordered != tuple(METRICS):
        found = [(name, METRICS[name]) for name in ordered]
        METRICS.clear()
        METRICS.update(found)


@lru_cache
def _in_order(names: tuple[str, ...]) -> tuple[str, ...]:
    """Sort metrics by the files that registered them, the package's own first."""
    return tuple(sorted(names, key=lambda name: (not METRICS[name].home.startswith(_PACKAGE), METRICS[name].home)))


@lru_cache
def _import_own() -> None:
    """Import the package's files, once: every run of a list asks for the metrics several times."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        importlib.import_module(f"{_PACKAGE}.{module.name}")


def check_metrics(names: tuple[str, ...]) -> tuple[str, ...]:
    """Check that metrics exist, and put the metrics of a set in the place of its name.

    Args:
        names: as in JSON: metrics, or the sets "default", "attacks", "gone" and "all"; none for the default ones.

    Returns:
        The names of what is to be computed, each once.

    Raises:
        SalunError: one does not; the nearest is named.
    """
    load_metrics()
    for name in names:
        if not isinstance(name, str):
            raise SalunError(f"metric {name!r}: must be a name; accepted sets: {', '.join(METRIC_SETS)}")
        if name not in METRICS and name not in METRIC_SETS:
            raise SalunError(f"metric '{name}': unknown{did_you_mean(name, [*METRICS, *METRIC_SETS])}")
    wanted = (_members(name) if name in METRIC_SETS else [name] for name in names or (_DEFAULT,))
    return tuple(dict.fromkeys(name for part in wanted for name in part))


def _members(name: str) -> list[str]:
    """List the metrics of a set."""
    within: dict[str, Callable[[Metric], bool]] = {
        _DEFAULT: lambda found: found.default,
        _ATTACKS: lambda found: found.cost == "attack",
        _GONE: lambda found: found.gone,
        _ALL: lambda found: True,
    }
    return [one for one, found in METRICS.items() if not found.original and within[name](found)]


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


def evaluate(subject: Subject, names: tuple[str, ...] = ()) -> _Found:
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
    found: _Found = {}
    for name in wanted:
        if name not in found:
            family = METRICS[name].family
            found |= METRICS[name].compute(ordered, tuple(other for other in wanted if other in family))
    return {name: _finite(found[name]) for name in wanted}


def _finite(value: Any) -> Any:
    """Put None in place of what is no finite number, within lists and dictionaries too."""
    if isinstance(value, dict):
        return {key: _finite(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(content) for content in value]
    return None if value is None or not math.isfinite(value) else float(value)
