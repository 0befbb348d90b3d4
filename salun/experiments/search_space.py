"""What a search tries: values that an entry lists, ranges that it gives, or the default ranges of its method."""

import json
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from salun.errors import SalunError, SalunErrors
from salun.experiments.config import Experiment
from salun.experiments.schema import validate
from salun.training.recipe import Around, Range
from salun.unlearning import find_method

_RANGE_KEYS = {"low", "high", "log"}
_MASK_KEYS = ("use_mask", "mask_thr", "mask_score", "mask_batches", "prune", "prune_epochs")
_REFUSED_KEYS = ("requests", "subclass_to_forget", "corrupt", "forget_choice")
_KEEP, _KEPT = Range(0.1, 0.9), 0.5
_MOST_VALUES = 1000


@dataclass(frozen=True)
class Study:
    """One entry of a list, and what is searched of it.

    Attributes:
        number: of the entry, from 1.
        entry: its keys that stay as they are.
        space: what is tried of the others, by key.
        first: values by key that are accepted; the entry's own, or the defaults, where its ranges are the method's.
        begins: whether the first trial is of these.
        experiment: the entry with them.
    """

    number: int
    entry: dict[str, Any]
    space: dict[str, BaseDistribution]
    first: dict[str, Any]
    begins: bool
    experiment: Experiment

    @property
    def title(self) -> str:
        """Tag, or method and mask, as a user reads them."""
        masked = " + mask" if self.experiment.mask is not None else ""
        return self.experiment.tag or f"{self.experiment.method}{masked}"


def read_studies(entries: Sequence[Any], source: str) -> list[Study]:
    """Read a list of experiments whose keys may hold lists of values or ranges.

    Args:
        entries: as JSON gives them. `{"low": 1e-4, "high": 0.1, "log": true}` is a range. An entry that has
            neither lists nor ranges is searched in the default ranges of its method.
        source: what the text of errors begins with.

    Returns:
        A study for each entry but those of the method "retrain".

    Raises:
        SalunErrors: every mistake, a line each.
    """
    studies, wrong = [], []
    for number, entry in enumerate(entries, 1):
        try:
            study = _read_study(entry, number)
        except SalunErrors as errors:
            wrong += [f"{source}: entry {number}: {line}" for line in errors.lines]
            continue
        if study is not None:
            studies.append(study)
    if wrong:
        raise SalunErrors(wrong)
    if not studies:
        raise SalunError(f"{source}: holds no experiment to search settings of")
    return studies


def _read_study(entry: Any, number: int) -> Study | None:
    """Tell the searched keys of an entry from the others, and try the ends of each."""
    if not isinstance(entry, dict):
        raise SalunErrors([f"{entry!r}: must be an object of keys and values"])
    if entry.get("method") == "retrain":
        return None
    keys = _searchable(entry)
    searched = {key: value for key, value in entry.items() if key in keys and _is_searched(keys[key], value)}
    fixed = {key: value for key, value in entry.items() if key not in searched}
    wrong, space = [], {}
    for key, value in searched.items():
        try:
            space[key] = _distribution(key, value)
        except SalunError as error:
            wrong.append(str(error))
    if wrong:
        raise SalunErrors(wrong)
    start = None
    if not space:
        space, start = _default_space(entry)
        fixed = {key: value for key, value in entry.items() if key not in space}
    tried = {key: _ends(distribution) for key, distribution in space.items()}
    first = start or {key: values[0] for key, values in tried.items()}
    whole = fixed | first
    probes = [whole, *(whole | {key: value} for key, values in tried.items() for value in values)]
    lines: dict[str, None] = {}
    for probe in probes:
        try:
            validate([probe], "command line")
        except SalunErrors as errors:
            lines |= dict.fromkeys(line.removeprefix("command line: ") for line in errors.lines)
    if lines:
        raise SalunErrors(list(lines))
    return Study(number, fixed, space, first, start is not None, validate([whole], "command line")[0])


def _searchable(entry: dict[str, Any]) -> dict[str, Any]:
    """Find the keys that may be searched, with the types of the method's own; refuse what no search can forget."""
    if refused := [key for key in _REFUSED_KEYS if entry.get(key) not in (None, "random")]:
        told = "takes no part in a search; give class_to_forget, unlearning_rate or idxs_to_forget alone"
        raise SalunErrors([f"{key}: {told}" for key in refused])
    try:
        settings = find_method(str(entry.get("method") or "rl")).settings
    except SalunError as error:
        raise SalunErrors([str(error)]) from error
    return {key: annotation for key, (annotation, _) in settings.items()} | dict.fromkeys(_MASK_KEYS)


def _is_searched(annotation: Any, value: Any) -> bool:
    """Tell values to try from a value that is itself a list or an object."""
    kinds = {typing.get_origin(each) for each in (annotation, *typing.get_args(annotation))}
    return isinstance(value, list | dict) and list not in kinds


def _distribution(key: str, value: Any) -> BaseDistribution:
    """Read a list of values or a range."""
    if isinstance(value, list):
        if not 1 <= len(value) <= _MOST_VALUES:
            raise SalunError(f"{key}: must list 1 to {_MOST_VALUES} values to try")
        return CategoricalDistribution(value)
    if not {"low", "high"} <= value.keys() <= _RANGE_KEYS:
        raise SalunError(f'{key}: a range has the keys "low" and "high", and may have "log"; not {sorted(value)}')
    low, high, log = value["low"], value["high"], value.get("log", False)
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if not numbers or not isinstance(log, bool) or not low < high or (log and low <= 0):
        raise SalunError(f'{key}: {value}: "low" must be less than "high", and above 0 where "log" is true')
    whole = isinstance(low, int) and isinstance(high, int)
    return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)


def _default_space(entry: dict[str, Any]) -> tuple[dict[str, BaseDistribution], dict[str, Any]]:
    """Take the ranges that a method's signature declares, and where they begin: the entry's values, or the defaults."""
    method, space = find_method(str(entry.get("method") or "rl")), dict[str, BaseDistribution]()
    start: dict[str, Any] = {}
    for key, (annotation, default) in method.settings.items():
        found = [each for each in getattr(annotation, "__metadata__", ()) if isinstance(each, Around | Range)]
        if found:
            start[key] = default if entry.get(key) is None else entry[key]
            space[key] = _declared(found[0], start[key])
    if entry.get("use_mask"):
        start["mask_thr"] = entry.get("mask_thr") or _KEPT
        space["mask_thr"] = _declared(_KEEP, start["mask_thr"])
    if not space:
        raise SalunErrors([f"method '{method.name}': declares no range; give lists or ranges of its settings"])
    return space, start


def _declared(found: Around | Range, value: Any) -> BaseDistribution:
    """Make a distribution of what stands beside a setting in a signature, which holds a value."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise SalunErrors([f"{json.dumps(value)}: must be a number, around which is searched"])
    if isinstance(found, Range):
        return FloatDistribution(min(found.low, value), max(found.high, value), log=found.log)
    if value <= 0:
        return FloatDistribution(value, 1.0)
    if isinstance(value, int):
        return IntDistribution(max(1, round(value / found.factor)), round(value * found.factor), log=True)
    return FloatDistribution(value / found.factor, value * found.factor, log=True)


def _ends(distribution: BaseDistribution) -> list[Any]:
    """List what is tried first, and last."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    return [distribution.low, distribution.high]
