"""Experiment lists as users write them, their JSON Schema, and their checks."""

import json
import os.path
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from salun.data.corruption import Corruption
from salun.data.forget_file import Order
from salun.data.sources import class_count, subclass_count
from salun.data.split import Choice, ForgetRequest, check_classes, check_subclasses, class_numbers
from salun.errors import SalunError, SalunErrors, did_you_mean, nearest
from salun.experiments.base_model import FOLDER
from salun.experiments.config import Experiment, LeaveOut
from salun.experiments.grid import COUNTED, EACH, MOST_EXPERIMENTS, expand, placed, with_lists
from salun.experiments.plugins import known_model
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

_SHARE_KEYS = ("unlearning_rate", "idxs_to_forget", "subclass_to_forget")

_FORGET_KEYS = ("class_to_forget", "unlearning_rate", "idxs_to_forget", "subclass_to_forget", "corrupt")

_CHOSEN = ("memorized", "easy", "worst")

_NESTED: dict[str, type[BaseModel]] = {"recipe": Recipe, "corrupt": Corruption}

_CORRECTIVE = ("default", "ASR", "CA_found", "CA_undiscovered")

_BASE_KEYS = ("model", "dataset", "split_seed", "base_seed")

_REFUSALS = {
    **dict.fromkeys((*_SHARE_KEYS, "corrupt"), WHOLE_CLASSES),
    **dict.fromkeys(("use_mask", "load_mask"), "takes no mask"),
    **dict.fromkeys(("prune", "prune_epochs"), "takes no mask, which is what keeps pruned weights at zero"),
    "budget": "is the gold standard, which no budget cuts short",
}

_Label = Annotated[int, Field(ge=0)] | Annotated[str, Field(min_length=1)]

_Seed = Annotated[int, Field(ge=0, lt=2**31)]


class _Entry(BaseModel):
    """The keys of one experiment that all methods share; null means not given."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

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
    class_to_forget: _Label | Annotated[list[_Label], Field(min_length=1)] | None = Field(
        None, description="Class, by number or name, or list of classes, to forget as a whole."
    )
    subclass_to_forget: _Label | Annotated[list[_Label], Field(min_length=1)] | None = Field(
        None, description="Subclass, by number or name, or list of subclasses, to forget, of data that have them."
    )
    unlearning_rate: float | None = Field(None, gt=0, lt=1, description="Share of the training split to forget.")
    forget_choice: Choice = Field(
        "random",
        description="Which images the share is: random ones, those that the base model has memorised most or least, or "
        "the worst case, those that are hardest to forget.",
    )
    stratified: bool = Field(
        False,
        description="Take the share of each class; false, as in the SalUn paper's code: whatever the images' classes.",
    )
    idxs_to_forget: str | None = Field(
        None, min_length=1, description="File that lists the images to forget, by index, path or SHA-256."
    )
    corrupt: Corruption | None = Field(
        None, description="Corrupt a share of the training images, of which the part that is found is to be forgotten."
    )
    indices_in: Order = Field("salun", description="Order that the file's indices count in.")
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
        [], description="Metrics to compute, or sets of them: default, attacks, gone, all; empty for the default ones."
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
            about = "With corrupt: leave out all corrupted images (the gold standard) or only those that were found."
            fields["leave_out"] = (LeaveOut | None, Field(None, description=f"{about} Not given: corrupted."))
        if found.classwise:
            fields |= dict.fromkeys((*_SHARE_KEYS, "corrupt"), (None, None))
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
            if shapes["method"].get("const") != _DEFAULT_METHOD:
                definition["allOf"] += [_is_named("method")]
        needed = definition.get("required", ())
        shapes = {key: shapes[key] if key in needed else _or_null(shapes[key]) for key in shapes}
        definition["properties"] = with_lists(shapes, fields[title], names) if title in fields else shapes
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "salun experiments"} | schema


def _exclusions() -> dict[str, Any]:
    """Say in JSON Schema which keys of an entry do not go together."""
    elsewhere = {"dataset": {"type": "string", "not": {"pattern": f"^{FOLDER}"}}}
    others = [_is_given(key) for key in _BASE_KEYS if key != "dataset"]
    named = {"anyOf": [*others, {"required": ["dataset"], "properties": elsewhere}]}
    return {
        "oneOf": [_is_named(key) for key in _FORGET_KEYS],
        "not": {"allOf": [_is_given("checkpoint"), {"anyOf": [_is_given("corrupt"), named]}]},
        "allOf": [
            {
                "if": {"anyOf": [_is_given(key) for key in _MASK_KEYS]},
                "then": _is_named("use_mask") | {"not": _is_given("load_mask")},
            },
            {
                "if": {"required": ["stratified"], "properties": {"stratified": {"const": True}}},
                "then": _is_named("unlearning_rate") | {"properties": {"forget_choice": {"enum": ["random", None]}}},
            },
            {
                "if": {"required": ["forget_choice"], "properties": {"forget_choice": {"enum": list(_CHOSEN)}}},
                "then": _is_named("unlearning_rate"),
            },
            {
                "if": {"required": ["indices_in"], "properties": {"indices_in": {"const": "imagefolder"}}},
                "then": _is_named("idxs_to_forget"),
            },
            {"if": _is_given("leave_out"), "then": _is_given("corrupt")},
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
    models, wrong = _method_models(), []
    found: list[Experiment] = []

    def fields_of(method: Any) -> dict[str, FieldInfo]:
        name = _DEFAULT_METHOD if method is None else method
        return (models.get(name, _Entry) if isinstance(name, str) else _Entry).model_fields

    for place, entry in enumerate(entries, 1):
        where = f"{source}: entry {place}" if source != "command line" else source
        variants, lines = expand(entry, fields_of, _DEFAULT_DATASET)
        for variant in variants:
            try:
                read = _read_entry(variant.entry, len(found) + 1, models, files_must_exist)
                found.append(placed(read, place, variant.varied))
            except SalunErrors as errors:
                lines += errors.lines
        wrong += [f"{where}: {line}" for line in dict.fromkeys(lines)]
        if len(found) > MOST_EXPERIMENTS:
            wrong.append(f"{where}: makes more than {MOST_EXPERIMENTS} experiments of the list; give fewer values")
            break
    if wrong:
        raise SalunErrors(wrong)
    return found


def _read_entry(entry: Any, number: int, models: dict[str, type[_Entry]], files_must_exist: bool) -> Experiment:
    """Validate one experiment."""
    if not isinstance(entry, dict):
        raise SalunErrors([f"{_shown(entry)}: must be an object of keys and values"])
    name = _DEFAULT_METHOD if entry.get("method") is None else entry["method"]
    model, lines = models.get(name) if isinstance(name, str) else None, []
    if model is None:
        lines = [f"method: {_shown(name)}: unknown{did_you_mean(str(name), models)}"]
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
    """Take null for not given, in the entry and in the objects in it; unknown keys stay, to be refused."""
    given = {key: value for key, value in entry.items() if value is not None or key not in model.model_fields}
    nested = {key: _not_null(given[key], _NESTED[key]) for key in _NESTED if isinstance(given.get(key), dict)}
    return given | nested


def _resolve(entry: _Entry, number: int) -> Experiment:
    """Turn a valid entry into an experiment, with every default filled in."""
    chosen, share, listed = entry.class_to_forget, entry.unlearning_rate, entry.idxs_to_forget
    corrupt = entry.corrupt
    classes, subclasses = (_labels(asked) for asked in (chosen, entry.subclass_to_forget))
    request = ForgetRequest(
        classes,
        share,
        indices=Path(listed) if listed else None,
        stratified=entry.stratified,
        order=entry.indices_in,
        subclasses=subclasses,
        choice=entry.forget_choice,
        found=corrupt.found if corrupt else None,
    )
    mask = None
    if entry.use_mask or entry.load_mask:
        shape = {"keep": entry.mask_thr, "score": entry.mask_score, "batches": entry.mask_batches}
        mask = shape | {"file": entry.load_mask}
    dataset = entry.dataset if entry.checkpoint else entry.dataset or _DEFAULT_DATASET
    method, left_out = find_method(entry.method), getattr(entry, "leave_out", None) or "corrupted"
    same = ("checkpoint", "recipe", "split_seed", "seed", "tag", "base_seed", "budget")
    return Experiment.model_validate(
        {key: getattr(entry, key) for key in same}
        | {
            "number": number,
            "method": method.name,
            "settings": {key: getattr(entry, key) for key in method.settings},
            "model": None if entry.checkpoint else known_model(entry.model or default_model(str(dataset))),
            "dataset": dataset,
            "metrics": entry.metrics or (_CORRECTIVE if corrupt else ()),
            "corruption": corrupt,
            "leave_out": left_out if corrupt and method.name == "retrain" else None,
            "forget": replace(request, seed=entry.forget_seed if request.is_drawn else 0),
            "mask": mask,
            "prune": None if entry.prune is None else {"share": entry.prune, "epochs": entry.prune_epochs},
        }
    )


def _labels(asked: int | str | list[int | str] | None) -> tuple[int | str, ...]:
    """Sort the classes that are asked for, each once, numbers before names."""
    listed = asked if isinstance(asked, list) else [] if asked is None else [asked]
    return tuple(sorted(set(listed), key=lambda label: (isinstance(label, str), label)))


def _explain(error: ValidationError, model: type[_Entry]) -> list[str]:
    """Put pydantic's findings into one line a key."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        key = ".".join(path[:2]) if path[0] in (*_NESTED, "metrics") else path[0]
        if key in lines:
            continue
        if problem["type"] == "extra_forbidden":
            lines[key] = f"{key}: unknown key{_instead_of(path, model)}"
        elif problem["type"] == "none_required" or (key == "use_mask" and problem["type"] == "literal_error"):
            name = model.model_fields["method"].default
            lines[key] = f"{key}: {_shown(problem['input'])}: method '{name}' {_REFUSALS[key]}"
        elif problem["type"] == "model_type":
            lines[key] = f"{key}: {_shown(problem['input'])}: must be an object of keys and values"
        elif key in COUNTED:
            what = key.removesuffix("_to_forget")
            lines[key] = f"{key}: {_shown(problem['input'])}: must be a {what}, a number from 0 or a name, or a list"
        else:
            lines[key] = f"{key}: {_shown(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"
    return list(lines.values())


def _instead_of(path: list[str], model: type[_Entry]) -> str:
    """Say which keys there are in place of an unknown one."""
    if path[0] in _NESTED:
        return did_you_mean(path[-1], _NESTED[path[0]].model_fields)
    if not any(path[0] in found.settings for found in METHODS.values()):
        return did_you_mean(path[0], model.model_fields)
    name = model.model_fields["method"].default
    settings = find_method(name).settings
    return f" of method '{name}'; its settings: {', '.join(settings) or 'none'}"


def _forget_conflicts(given: dict[str, Any], model: type[_Entry]) -> list[str]:
    """Find keys of the forget set that do not go together."""
    lines = []
    asked = [key for key in _FORGET_KEYS if key in given]
    if len(asked) > 1:
        lines.append(f"{' and '.join(asked)}: exclude each other; give exactly one of {', '.join(_FORGET_KEYS)}")
    if "checkpoint" in given and "corrupt" in given:
        lines.append("checkpoint: excluded by corrupt, whose base model is trained on the corrupted images")
    misspelt = {nearest(key, model.model_fields) for key in given.keys() - model.model_fields.keys()}
    if not asked and not misspelt & set(_FORGET_KEYS):
        lines.append(f"nothing to forget; give exactly one of {', '.join(_FORGET_KEYS)}")
    if given.get("forget_choice") in _CHOSEN and given.get("stratified") is True:
        lines.append("stratified: without effect on a share that is not random; leave it or forget_choice out")
    return lines + _without_effect(given)


def _conflicts(given: dict[str, Any], model: type[_Entry]) -> list[str]:
    """Find keys that do not go together."""
    lines = _forget_conflicts(given, model)
    moves = str(given.get("dataset")).startswith(FOLDER)
    named = [key for key in _BASE_KEYS if key in given and not (key == "dataset" and moves)]
    if "checkpoint" in given and named:
        advice = "salun-import makes a checkpoint of weights of another program"
        lines.append(f"{' and '.join(named)}: excluded by checkpoint, which records its own; {advice}")
    shaping = [key for key in _MASK_KEYS if key in given]
    if shaping and "load_mask" in given:
        lines.append(f"{' and '.join(shaping)}: without effect on a mask that is loaded")
    elif shaping and "use_mask" not in given:
        lines.append(f"{' and '.join(shaping)}: without effect unless use_mask is true")
    if "load_mask" in given and given.get("use_mask") is False:
        lines.append("use_mask: false: contradicts load_mask")
    return lines


def _without_effect(given: dict[str, Any]) -> list[str]:
    """Find keys that need another one, which is not given."""
    asked = {
        "stratified": ("unlearning_rate", given.get("stratified") is True),
        "forget_choice": ("unlearning_rate", given.get("forget_choice") in _CHOSEN),
        "indices_in": ("idxs_to_forget", given.get("indices_in") == "imagefolder"),
        "prune_epochs": ("prune", "prune_epochs" in given),
        "leave_out": ("corrupt", "leave_out" in given),
    }
    found = {key: needed for key, (needed, shaping) in asked.items() if shaping and needed not in given}
    return [f"{key}: without effect unless {needed} is given" for key, needed in found.items()]


def _outside(entry: _Entry, given: dict[str, Any], files_must_exist: bool) -> list[str]:
    """Check what an entry names: models, data sets, classes, metrics, files."""
    lines = []

    def check(key: str, action: Any) -> Any:
        try:
            return action()
        except SalunError as error:
            lines.append(f"{key}: {error}")
            return None

    for metric in entry.metrics:
        check("metrics", partial(check_metrics, (metric,)))
    if entry.model is not None:
        check("model", partial(known_model, entry.model))
    if "checkpoint" not in given and ("dataset" not in given or entry.dataset is not None):
        name, before = entry.dataset or _DEFAULT_DATASET, len(lines)
        count = check("dataset", lambda: class_count(name))
        chosen = entry.class_to_forget
        if count is not None and chosen is not None:
            classes = [label for label in (chosen if isinstance(chosen, list) else [chosen]) if isinstance(label, int)]
            check("class_to_forget", lambda: check_classes(classes, count, name))
        if count is not None and entry.corrupt is not None:
            labels = [label for label in entry.corrupt.named if isinstance(label, int)]
            check(
                "corrupt.classes" if entry.corrupt.classes else "corrupt.target",
                lambda: class_numbers(labels, (), count, name),
            )
        asked = _labels(entry.subclass_to_forget)
        parts = subclass_count(name) if asked and len(lines) == before else None
        if parts is not None:
            check("subclass_to_forget", lambda: check_subclasses(asked, parts, name))
    for key in ("checkpoint", "idxs_to_forget", "load_mask"):
        path = getattr(entry, key)
        if path is not None and files_must_exist and not os.path.isfile(path):
            lines.append(f"{key}: {path}: no such file")
    return lines


def _shown(value: Any) -> str:
    """Show a value as it stands in JSON.

    Args:
        value: from a JSON file.

    Returns:
        At most 80 characters.
    """
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
