"""Experiment lists as users write them, their JSON Schema, and their checks."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from salun.data.corruption import Corruption
from salun.errors import ListErrors, SalunError, SalunErrors, did_you_mean, shown
from salun.experiments.base_model import FOLDER
from salun.experiments.config import Experiment, LeaveOut
from salun.experiments.entry import DEFAULT_DATASET, DEFAULT_METHOD, Entry, resolve
from salun.experiments.entry_checks import BASE_KEYS, CHOSEN, MASK_KEYS, entry_conflicts, unknown_names
from salun.experiments.grid import COUNTED, EACH, MOST_EXPERIMENTS, expand, placed, with_lists
from salun.experiments.requests import FORGET_KEYS, SHARE_KEYS, DrawnRequests, ForgetKeys, explain, not_null
from salun.io.limits import read_plain
from salun.metrics import METRIC_SETS, METRICS, load_metrics
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, Method, find_method, load_methods
from salun.unlearning.registry import WHOLE_CLASSES

_UNMASKED_KEYS = ("load_mask", "prune", "prune_epochs")

_NESTED: dict[str, type[BaseModel]] = {"recipe": Recipe, "corrupt": Corruption, "requests": DrawnRequests}

_REFUSALS = {
    **dict.fromkeys(SHARE_KEYS, WHOLE_CLASSES),
    **dict.fromkeys(("use_mask", "load_mask"), "takes no mask"),
    **dict.fromkeys(("prune", "prune_epochs"), "takes no mask, which is what keeps pruned weights at zero"),
    "budget": "is the gold standard, which no budget cuts short",
}


def _method_models() -> dict[str, type[Entry]]:
    """Build the schema of an entry for each method, from the method's signature; an alias has its method's."""
    load_methods()
    return _models_of(tuple(map(id, METHODS.values())))[0]


@lru_cache(maxsize=1)
def _models_of(_ids: tuple[int, ...]) -> tuple[dict[str, type[Entry]], list[Method]]:
    """Build the schemas, once while the methods are the same; these are kept, so that no others get their ids."""
    models: dict[str, type[Entry]] = {}
    for name, found in METHODS.items():
        for key in found.settings.keys() & Entry.model_fields.keys():
            raise SalunError(f"method '{name}': setting '{key}': every experiment has a key of that name; rename it")
        names = (name, found.alias) if found.alias else (name,)
        fields: dict[str, Any] = {"method": (Literal[names], name), **found.settings}
        if not found.maskable:
            fields |= {"use_mask": (Literal[False], False), **dict.fromkeys(_UNMASKED_KEYS, (None, None))}
        if name == "retrain":
            fields["budget"] = (None, None)
            about = "With corrupt: leave out all corrupted images (the gold standard) or only those that were found."
            fields["leave_out"] = (LeaveOut | None, Field(None, description=f"{about} Not given: corrupted."))
        if found.classwise:
            fields |= dict.fromkeys(SHARE_KEYS, (None, None))
        model = cast(type[Entry], create_model(f"{name}_entry", __base__=Entry, __doc__=found.summary, **fields))
        models |= dict.fromkeys(names, model)
    return models, list(METHODS.values())


def json_schema() -> dict[str, Any]:
    """Generate the JSON Schema of an experiment file, for editors.

    Returns:
        The schema: one experiment or a list of them, keys by method.
    """
    load_metrics()
    union: Any = None
    names = list(_method_models())
    for model in dict.fromkeys(_method_models().values()):
        union = model if union is None else union | model
    schema = TypeAdapter(list[union] | union).json_schema()
    fields = {model.__name__: model.model_fields for model in _method_models().values()}
    for title, definition in schema["$defs"].items():
        shapes = definition["properties"]
        if "method" in shapes:
            shapes["metrics"]["items"]["enum"] = [*METRIC_SETS, *METRICS]
            definition |= _exclusions()
            if shapes["method"].get("const") != DEFAULT_METHOD:
                definition["allOf"] += [_is_named("method")]
        elif "class_to_forget" in shapes:
            definition |= _forget_exclusions([key for key in FORGET_KEYS if key in shapes])
        needed = definition.get("required", ())
        shapes = {key: shapes[key] if key in needed else _or_null(shapes[key]) for key in shapes}
        definition["properties"] = with_lists(shapes, fields[title], names) if title in fields else shapes
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "salun experiments"} | schema


def _exclusions() -> dict[str, Any]:
    """Say in JSON Schema which keys of an entry do not go together."""
    elsewhere = {"dataset": {"type": "string", "not": {"pattern": f"^{FOLDER}"}}}
    others = [_is_given(key) for key in BASE_KEYS if key != "dataset"]
    named = {"anyOf": [*others, {"required": ["dataset"], "properties": elsewhere}]}
    forgetting = _forget_exclusions(FORGET_KEYS)
    return forgetting | {
        "not": {"allOf": [_is_given("checkpoint"), {"anyOf": [_is_given("corrupt"), named]}]},
        "allOf": [
            *forgetting["allOf"],
            {
                "if": {"anyOf": [_is_given(key) for key in MASK_KEYS]},
                "then": _is_named("use_mask") | {"not": _is_given("load_mask")},
            },
            {
                "if": _is_named("requests"),
                "then": {"not": {"anyOf": [_is_named("load_mask"), _is_named("prune")]}},
            },
            {"if": _is_given("leave_out"), "then": _is_given("corrupt")},
        ],
    }


def _forget_exclusions(keys: Sequence[str]) -> dict[str, Any]:
    """Say in JSON Schema which keys that name images do not go together."""
    return {
        "oneOf": [_is_named(key) for key in keys],
        "allOf": [
            {
                "if": {"required": ["stratified"], "properties": {"stratified": {"const": True}}},
                "then": _is_named("unlearning_rate") | {"properties": {"forget_choice": {"enum": ["random", None]}}},
            },
            {
                "if": {"required": ["forget_choice"], "properties": {"forget_choice": {"enum": list(CHOSEN)}}},
                "then": _is_named("unlearning_rate"),
            },
            {
                "if": {"required": ["indices_in"], "properties": {"indices_in": {"const": "imagefolder"}}},
                "then": _is_named("idxs_to_forget"),
            },
        ],
    }


def _is_given(key: str) -> dict[str, Any]:
    """Say in JSON Schema that a key is there and not null."""
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


def _is_named(key: str) -> dict[str, Any]:
    """Say in JSON Schema that a key is there and not null, or in `each`."""
    listed = {"required": [EACH], "properties": {EACH: {"type": "object", "required": [key]}}}
    return {"anyOf": [_is_given(key), listed]}


def _or_null(shape: dict[str, Any]) -> dict[str, Any]:
    """Let a value be null, which means not given."""
    about = {key: shape[key] for key in ("title", "description", "default") if key in shape}
    value = {key: part for key, part in shape.items() if key not in about}
    choices = value["anyOf"] if value.keys() == {"anyOf"} else [value]
    return about | {"anyOf": choices if {"type": "null"} in choices else [*choices, {"type": "null"}]}


def load_experiments(path: Path) -> list[Experiment]:
    """Read and validate an experiment file.

    Args:
        path: a JSON list of experiments, or one of them.

    Returns:
        The experiments, in order.

    Raises:
        SalunErrors: every mistake in the file, a line each.
    """
    content = read_plain(path)
    entries = content if isinstance(content, list) else [content]
    if not entries:
        raise SalunError(f"{path}: holds no experiment")
    return validate(entries, str(path))


def validate(entries: list[Any], source: str, files_must_exist: bool = True) -> list[Experiment]:
    """Validate experiments against the methods' signatures.

    Args:
        entries: as JSON gives them.
        source: what the text of errors begins with.
        files_must_exist: whether checkpoints and index files are looked for.

    Returns:
        The experiments, in order.

    Raises:
        SalunErrors: every mistake, a line each, with entry number, key and what is accepted.
    """
    models, wrong = _method_models(), list[tuple[str, str]]()
    found: list[Experiment] = []

    def fields_of(method: Any) -> dict[str, FieldInfo]:
        name = DEFAULT_METHOD if method is None else method
        return (models.get(name, Entry) if isinstance(name, str) else Entry).model_fields

    for place, entry in enumerate(entries, 1):
        variants, lines = expand(entry, fields_of, DEFAULT_DATASET)
        for variant in variants:
            try:
                read = _read_entry(variant.entry, len(found) + 1, models, files_must_exist)
                found.append(placed(read, place, variant.varied))
            except SalunErrors as errors:
                lines += errors.lines
        wrong += [(f"entry {place}", line) for line in dict.fromkeys(lines)]
        if len(found) > MOST_EXPERIMENTS:
            told = f"makes more than {MOST_EXPERIMENTS} experiments of the list; give fewer values"
            wrong.append((f"entry {place}", told))
            break
    if wrong:
        raise ListErrors(source, wrong)
    return found


def _read_entry(entry: Any, number: int, models: dict[str, type[Entry]], files_must_exist: bool) -> Experiment:
    """Validate one experiment."""
    if not isinstance(entry, dict):
        raise SalunErrors([f"{shown(entry)}: must be an object of keys and values"])
    name = DEFAULT_METHOD if entry.get("method") is None else entry["method"]
    model, lines = models.get(name) if isinstance(name, str) else None, []
    if model is None:
        lines = [f"method: {shown(name)}: unknown{did_you_mean(str(name), models)}"]
        model, entry = Entry, {key: entry[key] for key in entry if key in Entry.model_fields and key != "method"}
    given = _not_null(entry, model)
    try:
        valid = model.model_validate(given)
    except ValidationError as error:
        lines += _explain(error, model)
        wrong = {problem["loc"][0] for problem in error.errors()}
        valid = model.model_validate({key: value for key, value in given.items() if key not in wrong})
    lines += entry_conflicts(given, model) + unknown_names(valid, given, files_must_exist)
    if lines:
        raise SalunErrors(lines)
    return resolve(valid, number)


def _not_null(entry: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Take null for not given, in the entry and in the objects in it; unknown keys stay, to be refused."""
    given = not_null(entry, model)
    given |= {key: not_null(given[key], part) for key, part in _NESTED.items() if key in given}
    if isinstance(given.get("requests"), list):
        given["requests"] = [not_null(request, ForgetKeys) for request in given["requests"]]
    return cast(dict[str, Any], given)


def _explain(error: ValidationError, model: type[Entry]) -> list[str]:
    """Put pydantic's findings into one line a key."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        if path[0] == "requests":
            lines.setdefault(*explain(problem))
            continue
        key = ".".join(path[:2]) if path[0] in (*_NESTED, "metrics") else path[0]
        if key in lines:
            continue
        if problem["type"] == "extra_forbidden":
            lines[key] = f"{key}: unknown key{_instead_of(path, model)}"
        elif problem["type"] == "none_required" or (key == "use_mask" and problem["type"] == "literal_error"):
            name = model.model_fields["method"].default
            lines[key] = f"{key}: {shown(problem['input'])}: method '{name}' {_REFUSALS[key]}"
        elif problem["type"] == "model_type":
            lines[key] = f"{key}: {shown(problem['input'])}: must be an object of keys and values"
        elif key in COUNTED:
            what = key.removesuffix("_to_forget")
            lines[key] = f"{key}: {shown(problem['input'])}: must be a {what}, a number from 0 or a name, or a list"
        else:
            lines[key] = f"{key}: {shown(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    return list(lines.values())


def _instead_of(path: list[str], model: type[Entry]) -> str:
    """Say which keys there are in place of an unknown one."""
    if path[0] in _NESTED:
        return did_you_mean(path[-1], _NESTED[path[0]].model_fields)
    if not any(path[0] in found.settings for found in METHODS.values()):
        return did_you_mean(path[0], model.model_fields)
    name = model.model_fields["method"].default
    settings = find_method(name).settings
    return f" of method '{name}'; its settings: {', '.join(settings) or 'none'}"
