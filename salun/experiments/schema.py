"""Experiment lists as users write them, their JSON Schema, and their checks."""

import os.path
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, create_model

from salun.data.sources import class_count
from salun.data.split import check_classes
from salun.errors import SalunError, SalunErrors, did_you_mean, shown
from salun.experiments.base_model import FOLDER
from salun.experiments.config import Experiment
from salun.experiments.plugins import known_model
from salun.experiments.requests import (
    FORGET_KEYS,
    SHARE_KEYS,
    ForgetKeys,
    Requests,
    conflicts,
    each_request,
    explain,
    request_conflicts,
    valid_requests,
)
from salun.io.limits import read_plain
from salun.metrics import METRIC_SETS, METRICS, check_metrics, load_metrics
from salun.models.architecture import default_model
from salun.training.recipe import Recipe
from salun.unlearning import METHODS, find_method, load_methods
from salun.unlearning.mask import Score
from salun.unlearning.registry import WHOLE_CLASSES

_DEFAULT_METHOD = "rl"

_DEFAULT_DATASET = "cifar10"

_MASK_KEYS = ("mask_thr", "mask_score", "mask_batches")

_UNMASKED_KEYS = ("load_mask", "prune", "prune_epochs")

_BASE_KEYS = ("model", "dataset", "split_seed", "base_seed")

_REFUSALS = {
    **dict.fromkeys(SHARE_KEYS, WHOLE_CLASSES),
    **dict.fromkeys(("use_mask", "load_mask"), "takes no mask"),
    **dict.fromkeys(("prune", "prune_epochs"), "takes no mask, which is what keeps pruned weights at zero"),
    "budget": "is the gold standard, which no budget cuts short",
}

_Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Entry(ForgetKeys):
    """The keys of one experiment that all methods share; null means not given."""

    checkpoint: str | None = Field(None, min_length=1, description="Path of the base model's checkpoint.")
    model: str | None = Field(
        None, min_length=1, description="timm name or resnet_tiny; with dataset, in place of a checkpoint."
    )
    dataset: str | None = Field(
        None,
        min_length=1,
        description="Data set of the base model, which is trained on first need; with checkpoint: where its folder is.",
    )
    recipe: Recipe | None = Field(None, description="How the base model is trained, and so the retrained one.")
    split_seed: _Seed = Field(0, description="Seed of the validation split of model + dataset.")
    base_seed: _Seed | None = Field(
        None, description="Seed of the base model's training; --nbase counts on from it. Not given: the recipe's."
    )
    requests: Requests | None = Field(
        None,
        description="What to forget one after another, each from the model of the one before, in place of one set.",
    )
    forget_seed: _Seed = Field(0, description="Seed of the share that is forgotten; --nforget counts on from it.")
    use_mask: bool = Field(False, description="Let only the salient weights move (SalUn).")
    mask_thr: float = Field(0.5, gt=0, le=1, description="Fraction of the weights that may move.")
    mask_score: Score = Field("sum", description="How weights are ranked.")
    mask_batches: int | None = Field(None, ge=1, description="Forget batches that the mask reads at most.")
    load_mask: str | None = Field(None, min_length=1, description="Path of a mask to use instead of computing one.")
    method: str = Field(_DEFAULT_METHOD, description="Unlearning method.")
    prune: float | None = Field(
        None, gt=0, lt=1, description="Share of the weights that are pruned by magnitude, and stay zero, before it."
    )
    prune_epochs: int | None = Field(
        None, ge=0, description="Epochs of training after the pruning, before the method. Not given: the recipe's."
    )
    budget: int | None = Field(
        None, ge=1, description="Image passes that are not exceeded, forward and backward together, mask included."
    )
    metrics: list[str] = Field(
        [], description="Metrics to compute, or sets of them: default, attacks, all; empty for the default ones."
    )
    seed: _Seed = Field(0, description="Seed of the first run; run i uses seed + i.")
    tag: str | None = Field(None, max_length=200, description="Name of the experiment in tables and logs.")


def _method_models() -> dict[str, type[_Entry]]:
    """Build the schema of an entry for each method, from the method's signature.

    Returns:
        A pydantic model by method name; an alias has its method's.

    Raises:
        SalunError: a method's setting is called as a key that all of them share.
    """
    load_methods()
    models: dict[str, type[_Entry]] = {}
    for name, found in METHODS.items():
        for key in found.settings.keys() & _Entry.model_fields.keys():
            raise SalunError(f"method '{name}': setting '{key}': every experiment has a key of that name; rename it")
        names = (name, found.alias) if found.alias else (name,)
        fields: dict[str, Any] = {"method": (Literal[names], name), **found.settings}
        if not found.maskable:
            fields |= {"use_mask": (Literal[False], False), **dict.fromkeys(_UNMASKED_KEYS, (None, None))}
        if name == "retrain":
            fields["budget"] = (None, None)
        if found.classwise:
            fields |= dict.fromkeys(SHARE_KEYS, (None, None))
        model = cast(type[_Entry], create_model(f"{name}_entry", __base__=_Entry, __doc__=found.summary, **fields))
        models |= dict.fromkeys(names, model)
    return models


def json_schema() -> dict[str, Any]:
    """Generate the JSON Schema of an experiment file, for editors.

    Returns:
        The schema: one experiment or a list of them, keys by method.
    """
    load_metrics()
    union: Any = None
    for model in dict.fromkeys(_method_models().values()):
        union = model if union is None else union | model
    schema = TypeAdapter(list[union] | union).json_schema()
    for definition in schema["$defs"].values():
        shapes = definition["properties"]
        if "method" in shapes:
            shapes["metrics"]["items"]["enum"] = [*METRIC_SETS, *METRICS]
            definition |= _exclusions()
            if shapes["method"].get("const") != _DEFAULT_METHOD:
                definition["allOf"] += [_is_given("method")]
        elif "class_to_forget" in shapes:
            definition |= _forget_exclusions([key for key in FORGET_KEYS if key in shapes])
        if "count" in shapes:
            continue
        definition["properties"] = {key: _or_null(shape) for key, shape in shapes.items()}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "salun experiments"} | schema


def _exclusions() -> dict[str, Any]:
    """Say in JSON Schema which keys of an entry do not go together."""
    elsewhere = {"dataset": {"type": "string", "not": {"pattern": f"^{FOLDER}"}}}
    others = [_is_given(key) for key in _BASE_KEYS if key != "dataset"]
    named = {"anyOf": [*others, {"required": ["dataset"], "properties": elsewhere}]}
    forgetting = _forget_exclusions(FORGET_KEYS)
    return forgetting | {
        "not": {"allOf": [_is_given("checkpoint"), named]},
        "allOf": [
            *forgetting["allOf"],
            {
                "if": {"anyOf": [_is_given(key) for key in _MASK_KEYS]},
                "then": _is_given("use_mask") | {"not": _is_given("load_mask")},
            },
            {
                "if": _is_given("requests"),
                "then": {"not": {"anyOf": [_is_given("load_mask"), _is_given("prune")]}},
            },
        ],
    }


def _forget_exclusions(keys: Sequence[str]) -> dict[str, Any]:
    """Say in JSON Schema which keys that name images do not go together."""
    return {
        "oneOf": [_is_given(key) for key in keys],
        "allOf": [
            {
                "if": {"required": ["stratified"], "properties": {"stratified": {"const": True}}},
                "then": _is_given("unlearning_rate"),
            },
            {
                "if": {"required": ["indices_in"], "properties": {"indices_in": {"const": "imagefolder"}}},
                "then": _is_given("idxs_to_forget"),
            },
        ],
    }


def _is_given(key: str) -> dict[str, Any]:
    """Say in JSON Schema that a key is there and not null."""
    return {"required": [key], "properties": {key: {"not": {"type": "null"}}}}


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
    models, found, wrong = _method_models(), [], []
    for number, entry in enumerate(entries, 1):
        where = f"{source}: entry {number}" if source != "command line" else source
        try:
            found.append(_read_entry(entry, number, models, files_must_exist))
        except SalunErrors as errors:
            wrong += [f"{where}: {line}" for line in errors.lines]
    if wrong:
        raise SalunErrors(wrong)
    return found


def _read_entry(entry: Any, number: int, models: dict[str, type[_Entry]], files_must_exist: bool) -> Experiment:
    """Validate one experiment."""
    if not isinstance(entry, dict):
        raise SalunErrors([f"{shown(entry)}: must be an object of keys and values"])
    name = _DEFAULT_METHOD if entry.get("method") is None else entry["method"]
    model, lines = models.get(name) if isinstance(name, str) else None, []
    if model is None:
        lines = [f"method: {shown(name)}: unknown{did_you_mean(str(name), models)}"]
        model, entry = _Entry, {key: entry[key] for key in entry if key in _Entry.model_fields and key != "method"}
    given = _not_null(entry, model)
    try:
        valid = model.model_validate(given)
    except ValidationError as error:
        lines += _explain(error, model)
        wrong = {problem["loc"][0] for problem in error.errors()}
        valid = model.model_validate({key: value for key, value in given.items() if key not in wrong})
    lines += _conflicts(given, model) + _outside(valid, given, files_must_exist)
    if lines:
        raise SalunErrors(lines)
    return _resolve(valid, number)


def _not_null(entry: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Take null for not given, in the entry, its recipe and its requests; unknown keys stay, to be refused."""
    given = {key: value for key, value in entry.items() if value is not None or key not in model.model_fields}
    if isinstance(given.get("recipe"), dict):
        given["recipe"] = _not_null(given["recipe"], Recipe)
    if isinstance(given.get("requests"), list):
        given["requests"] = [_not_null(one, ForgetKeys) if isinstance(one, dict) else one for one in given["requests"]]
    return given


def _resolve(entry: _Entry, number: int) -> Experiment:
    """Turn a valid entry into an experiment, with every default filled in."""
    mask = None
    if entry.use_mask or entry.load_mask:
        shape = {"keep": entry.mask_thr, "score": entry.mask_score, "batches": entry.mask_batches}
        mask = shape | {"file": entry.load_mask}
    dataset = entry.dataset if entry.checkpoint else entry.dataset or _DEFAULT_DATASET
    method = find_method(entry.method)
    same = ("checkpoint", "recipe", "split_seed", "metrics", "seed", "tag", "base_seed", "budget")
    return Experiment.model_validate(
        {key: getattr(entry, key) for key in same}
        | {
            "number": number,
            "method": method.name,
            "settings": {key: getattr(entry, key) for key in method.settings},
            "model": None if entry.checkpoint else known_model(entry.model or default_model(str(dataset))),
            "dataset": dataset,
            "forget": entry.request(entry.forget_seed),
            "requests": tuple(each.request(entry.forget_seed) for each in each_request(entry.requests)),
            "mask": mask,
            "prune": None if entry.prune is None else {"share": entry.prune, "epochs": entry.prune_epochs},
        }
    )


def _explain(error: ValidationError, model: type[_Entry]) -> list[str]:
    """Put pydantic's findings into one line a key."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        if path[0] == "requests":
            lines.setdefault(*explain(problem))
            continue
        key = ".".join(path[:2]) if path[0] in ("recipe", "metrics") else path[0]
        if key in lines:
            continue
        if problem["type"] == "extra_forbidden":
            lines[key] = f"{key}: unknown key{_instead_of(path, model)}"
        elif problem["type"] == "none_required" or (key == "use_mask" and problem["type"] == "literal_error"):
            name = model.model_fields["method"].default
            lines[key] = f"{key}: {shown(problem['input'])}: method '{name}' {_REFUSALS[key]}"
        elif problem["type"] == "model_type":
            lines[key] = f"{key}: {shown(problem['input'])}: must be an object of keys and values"
        elif key == "class_to_forget":
            lines[key] = f"{key}: {shown(problem['input'])}: must be a class, a number from 0 or a name, or a list"
        else:
            lines[key] = f"{key}: {shown(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    return list(lines.values())


def _instead_of(path: list[str], model: type[_Entry]) -> str:
    """Say which keys there are in place of an unknown one."""
    if path[0] == "recipe":
        return did_you_mean(path[-1], Recipe.model_fields)
    if not any(path[0] in found.settings for found in METHODS.values()):
        return did_you_mean(path[0], model.model_fields)
    settings = [name for name in model.model_fields if name not in _Entry.model_fields]
    return f" of method '{model.model_fields['method'].default}'; its settings: {', '.join(settings) or 'none'}"


def _conflicts(given: dict[str, Any], model: type[_Entry]) -> list[str]:
    """Find keys that do not go together."""
    name = model.model_fields["method"].default
    is_classwise = name in METHODS and METHODS[name].classwise
    lines = conflicts(given, FORGET_KEYS, model.model_fields) + request_conflicts(given, name, is_classwise)
    moves = str(given.get("dataset")).startswith(FOLDER)
    named = [key for key in _BASE_KEYS if key in given and not (key == "dataset" and moves)]
    if "checkpoint" in given and named:
        lines.append(f"{' and '.join(named)}: excluded by checkpoint, which records its own")
    shaping = [key for key in _MASK_KEYS if key in given]
    if shaping and "load_mask" in given:
        lines.append(f"{' and '.join(shaping)}: without effect on a mask that is loaded")
    elif shaping and "use_mask" not in given:
        lines.append(f"{' and '.join(shaping)}: without effect unless use_mask is true")
    if "prune_epochs" in given and "prune" not in given:
        lines.append("prune_epochs: without effect unless prune is given")
    if "load_mask" in given and given.get("use_mask") is False:
        lines.append("use_mask: false: contradicts load_mask")
    return lines


def _outside(entry: _Entry, given: dict[str, Any], files_must_exist: bool) -> list[str]:
    """Check what an entry names: models, data sets, classes, metrics, files."""
    lines = []

    def check(key: str, action: Any) -> Any:
        try:
            return action()
        except SalunError as error:
            lines.append(f"{key}: {error}")
            return None

    asked = [("", entry), *valid_requests(given.get("requests"))]
    for metric in entry.metrics:
        check("metrics", partial(check_metrics, (metric,)))
    if entry.model is not None:
        check("model", partial(known_model, entry.model))
    if "checkpoint" not in given and ("dataset" not in given or entry.dataset is not None):
        name = entry.dataset or _DEFAULT_DATASET
        count = check("dataset", lambda: class_count(name))
        for where, keys in asked:
            numbers = [label for label in keys.classes if isinstance(label, int)]
            if count is not None and numbers:
                check(f"{where}class_to_forget", partial(check_classes, numbers, count, name))
    files = {key: getattr(entry, key) for key in ("checkpoint", "load_mask")}
    files |= {f"{where}idxs_to_forget": keys.idxs_to_forget for where, keys in asked}
    if files_must_exist:
        lines += [f"{key}: {path}: no such file" for key, path in files.items() if path and not os.path.isfile(path)]
    return lines
