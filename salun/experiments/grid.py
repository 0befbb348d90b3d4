"""Entries that stand for several experiments: lists as values of scalar keys, and `each`."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from salun.data.sources import class_count, subclass_count
from salun.data.split import check_subclasses
from salun.errors import SalunError, did_you_mean
from salun.experiments.config import Experiment

MOST_EXPERIMENTS = 10_000
EACH = "each"
_ALL = "all"
COUNTED = ("class_to_forget", "subclass_to_forget")  # keys whose values can all be listed
_MASK_KEYS = ("use_mask", "mask_thr", "mask_score")
_SHORT = {"class_to_forget": "class", "subclass_to_forget": "subclass", "unlearning_rate": "share", "forget_choice": ""}
_LONGEST = 40

_Fields = Callable[[Any], Mapping[str, FieldInfo]]


class _Variant(NamedTuple):
    """One of the experiments that an entry stands for: the entry as written out, and its values of what varies."""

    entry: Any
    varied: dict[str, Any]


def expand(entry: Any, fields_of: _Fields, default_dataset: str) -> tuple[list[_Variant], list[str]]:
    """List the experiments that an entry stands for: every combination of the values that it lists.

    Args:
        entry: as JSON gives it.
        fields_of: gives the keys of an entry of a method, with their types.
        default_dataset: of an entry that names none.

    Returns:
        The entries written out, the last key varying fastest, "all" after the others; none where `each` or a list is
        wrong, or where there are too many: then the lines say why.
    """
    if not isinstance(entry, dict):
        return [_Variant(entry, {})], []
    each, plain = entry.get(EACH), {key: value for key, value in entry.items() if key != EACH}
    own = any(EACH in fields_of(method) for method in _values("method", plain, {}))
    if each is None or (own and not isinstance(each, dict)):  # a method may have a setting of that name, no object
        each, plain = {}, entry if own else plain
    elif lines := _faults_of_each(plain, each, fields_of):
        return [], lines
    empty = [key for key, value in plain.items() if value == [] and _is_scalar(key, plain, each, fields_of)]
    if empty:
        return [], [f"{key}: []: must hold at least one value" for key in empty]
    keys = sorted(dict.fromkeys(["method", *plain, *each]), key=lambda key: (key != "method", each.get(key) == _ALL))
    variants = [_Variant(plain, {})]
    for key in keys:
        try:
            options = [_options(key, variant.entry, each, fields_of, default_dataset) for variant in variants]
        except SalunError as error:
            return [], [f'{EACH}.{key}: "{_ALL}": {error}']
        if sum(1 if values is None else len(values) for values in options) > MOST_EXPERIMENTS:
            return [], [f"{key}: makes more than {MOST_EXPERIMENTS} experiments of the entry; give fewer values"]
        variants = [
            variant if values is None else _Variant(variant.entry | {key: value}, variant.varied | {key: value})
            for variant, values in zip(variants, options, strict=True)
            for value in ([None] if values is None else values)
        ]
    return variants, []


def _faults_of_each(plain: dict[str, Any], each: Any, fields_of: _Fields) -> list[str]:
    """Find what is wrong with `each`."""
    if not isinstance(each, dict) or not each:
        return [f'{EACH}: {json.dumps(each)[:80]}: must be an object of keys and lists, as in {{"lr": [0.01, 0.1]}}']
    known = {key: kind for method in _values("method", plain, each) for key, kind in fields_of(method).items()}
    lines = [f"{EACH}.{key}: unknown key{did_you_mean(key, known)}" for key in each if key not in known]
    lines += [f"{EACH}.{key}: stands beside {key}; give one of them" for key in each if plain.get(key) is not None]
    for key in [key for key in each if key in known and not (each[key] == _ALL and key in COUNTED)]:
        if not isinstance(each[key], list) or not each[key]:
            accepted = "a list of values, not empty" + (f', or "{_ALL}"' if key in COUNTED else "")
            lines.append(f"{EACH}.{key}: {json.dumps(each[key])[:80]}: must be {accepted}")
    return lines


def _values(key: str, plain: dict[str, Any], each: Mapping[str, Any]) -> list[Any]:
    """List the values of a key that takes none of several."""
    value = each.get(key, plain.get(key))
    return (value or [None]) if isinstance(value, list) else [value]


def _options(
    key: str, entry: dict[str, Any], each: Mapping[str, Any], fields_of: _Fields, default_dataset: str
) -> list[Any] | None:
    """List the values that an entry gives to a key; None where it is one value, or none."""
    if key in each:
        return list(range(_count_of(entry, key, default_dataset))) if each[key] == _ALL else list(each[key])
    value = entry.get(key)
    return value if isinstance(value, list) and _is_scalar(key, entry, {}, fields_of) else None


def _count_of(entry: dict[str, Any], key: str, default_dataset: str) -> int:
    """Count the classes or subclasses of an entry's data."""
    name = entry.get("dataset") or default_dataset
    if entry.get("checkpoint") is not None or not isinstance(name, str):
        raise SalunError("needs model and dataset by name; beside a checkpoint, give a list")
    found = (class_count if key == COUNTED[0] else subclass_count)(name)
    if found is None:
        raise SalunError(f"how many '{name}' has is known once it is read; give a list")
    if found == 0:
        check_subclasses([_ALL], found, name)
    return found


def _is_scalar(key: str, entry: dict[str, Any], each: Mapping[str, Any], fields_of: _Fields) -> bool:
    """Tell whether a list that a known key has is several values, and not one value."""
    kinds = [fields_of(method).get(key) for method in _values("method", entry, each)]
    known = [kind.annotation for kind in kinds if kind is not None]
    return bool(known) and not any(map(_holds_list, known))


def _holds_list(kind: Any) -> bool:
    """Tell whether a type is a list, or a union with one."""
    return get_origin(kind) is list or any(_holds_list(part) for part in get_args(kind))


def placed(experiment: Experiment, entry: int, varied: Mapping[str, Any]) -> Experiment:
    """Note where an experiment was written, and name it after what sets it apart from the others of its entry.

    Args:
        experiment: read from a variant.
        entry: its place in the list.
        varied: its values of the keys that have several.

    Returns:
        The experiment; where anything varies, its tag is its title, or the entry's tag, followed by these values.
    """
    if not varied:
        return experiment if experiment.number == entry else experiment.model_copy(update={"entry": entry})
    mask = str(experiment.mask or "no mask")
    texts = {("mask" if key in _MASK_KEYS else key): _spelled(key, value) for key, value in varied.items()}
    texts |= {"mask": mask} if "mask" in texts else {}
    title = experiment.title.removesuffix(f" + {mask}") if "mask" in texts else experiment.title
    tag = ", ".join([experiment.tag or title, *(text for key, text in texts.items() if key != "method")])
    variant = ", ".join(_spelled(key, value) for key, value in varied.items())
    return experiment.model_copy(update={"entry": entry, "variant": variant, "tag": tag})


def _spelled(key: str, value: Any) -> str:
    """Spell a value with its key, as titles do."""
    text = f"{value:g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
    text = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
    return f"{_SHORT.get(key, key)} {text}".strip()


def with_lists(schema: dict[str, Any], fields: Mapping[str, FieldInfo], names: list[str]) -> dict[str, Any]:
    """Let the JSON Schema of an entry's keys take lists of values, and `each`.

    Args:
        schema: of each key.
        fields: of the keys.
        names: of all methods.

    Returns:
        The schema of each key, and of `each`.
    """
    found: dict[str, Any] = {}
    lists: dict[str, Any] = {}
    for key, shape in schema.items():
        lists[key] = {"type": "array", "minItems": 1, "items": {"anyOf": shape["anyOf"]}}
        if key == "method":
            lists[key] |= {"items": {"enum": names}, "contains": {"anyOf": shape["anyOf"]}}
        own = [] if _holds_list(fields[key].annotation) else [lists[key]]
        found[key] = shape | {"anyOf": [*shape["anyOf"], *own]}
    each = {key: {"anyOf": [shape, {"const": _ALL}]} if key in COUNTED else shape for key, shape in lists.items()}
    about = f'Keys with lists of values, or for classes and subclasses "{_ALL}"; every combination is an experiment.'
    shape = {"type": "object", "minProperties": 1, "additionalProperties": False, "properties": each}
    setting = found.get(EACH, {"title": "Each", "description": about, "anyOf": [{"type": "null"}]})
    return found | {EACH: setting | {"anyOf": [*setting["anyOf"], shape]}}
