"""Checks of an entry beyond the types of its values: keys that do not go together, and what it names."""

import os.path
from collections.abc import Callable
from functools import partial
from typing import Any

from salun.data.sources import class_count, subclass_count
from salun.data.split import check_classes, check_subclasses, class_numbers
from salun.errors import SalunError
from salun.experiments.base_model import FOLDER
from salun.experiments.entry import DEFAULT_DATASET, Entry
from salun.experiments.plugins import known_model
from salun.experiments.requests import (
    FORGET_KEYS,
    ForgetKeys,
    conflicts,
    request_conflicts,
    sorted_labels,
    valid_requests,
    without_effect,
)
from salun.metrics import check_metrics
from salun.unlearning import METHODS

MASK_KEYS = ("mask_thr", "mask_score", "mask_batches")

BASE_KEYS = ("model", "dataset", "split_seed", "base_seed")

CHOSEN = ("memorized", "easy", "worst")


def entry_conflicts(given: dict[str, Any], model: type[Entry]) -> list[str]:
    """Find keys that do not go together.

    Args:
        given: keys and values as JSON gives them, without null.
        model: knows the keys of the entry's method.

    Returns:
        A line each.
    """
    name = model.model_fields["method"].default
    is_classwise = name in METHODS and METHODS[name].classwise
    lines = conflicts(given, FORGET_KEYS, model.model_fields) + request_conflicts(given, name, is_classwise)
    return lines + _forget_conflicts(given) + _base_and_mask_conflicts(given)


def _forget_conflicts(given: dict[str, Any]) -> list[str]:
    """Find keys that do not go together with those that only an entry has of what is forgotten."""
    lines = []
    if "checkpoint" in given and "corrupt" in given:
        lines.append("checkpoint: excluded by corrupt, whose base model is trained on the corrupted images")
    if given.get("forget_choice") in CHOSEN and given.get("stratified") is True:
        lines.append("stratified: without effect on a share that is not random; leave it or forget_choice out")
    needed = {
        "forget_choice": ("unlearning_rate", given.get("forget_choice") in CHOSEN),
        "prune_epochs": ("prune", "prune_epochs" in given),
        "leave_out": ("corrupt", "leave_out" in given),
    }
    return lines + without_effect(given, needed)


def _base_and_mask_conflicts(given: dict[str, Any]) -> list[str]:
    """Find keys of the base model and of the mask that do not go together."""
    lines = []
    moves = str(given.get("dataset")).startswith(FOLDER)
    named = [key for key in BASE_KEYS if key in given and not (key == "dataset" and moves)]
    if "checkpoint" in given and named:
        advice = "salun-import makes a checkpoint of weights of another program"
        lines.append(f"{' and '.join(named)}: excluded by checkpoint, which records its own; {advice}")
    shaping = [key for key in MASK_KEYS if key in given]
    if shaping and "load_mask" in given:
        lines.append(f"{' and '.join(shaping)}: without effect on a mask that is loaded")
    elif shaping and "use_mask" not in given:
        lines.append(f"{' and '.join(shaping)}: without effect unless use_mask is true")
    if "load_mask" in given and given.get("use_mask") is False:
        lines.append("use_mask: false: contradicts load_mask")
    return lines


def unknown_names(entry: Entry, given: dict[str, Any], files_must_exist: bool) -> list[str]:
    """Check what an entry names: models, data sets, classes, metrics, files.

    Args:
        entry: its valid keys.
        given: keys and values as JSON gives them, without null.
        files_must_exist: whether files are looked for.

    Returns:
        A line for each name of something that is not there.
    """
    forgets: list[tuple[str, ForgetKeys]] = [("", entry), *valid_requests(given.get("requests"))]
    lines = [line for metric in entry.metrics for line in _fault("metrics", partial(check_metrics, (metric,)))]
    if entry.model is not None:
        lines += _fault("model", partial(known_model, entry.model))
    if "checkpoint" not in given and ("dataset" not in given or entry.dataset is not None):
        lines += _unknown_classes(entry, forgets)
    files = {key: getattr(entry, key) for key in ("checkpoint", "load_mask")}
    files |= {f"{where}idxs_to_forget": keys.idxs_to_forget for where, keys in forgets}
    if files_must_exist:
        lines += [f"{key}: {path}: no such file" for key, path in files.items() if path and not os.path.isfile(path)]
    return lines


def _unknown_classes(entry: Entry, forgets: list[tuple[str, ForgetKeys]]) -> list[str]:
    """Check the data set, and the classes of it that are named by number."""
    name = entry.dataset or DEFAULT_DATASET
    try:
        count = class_count(name)
    except SalunError as error:
        return [f"dataset: {error}"]
    lines: list[str] = []
    for where, keys in forgets:
        if count is None:
            break
        numbers = [label for label in sorted_labels(keys.class_to_forget) if isinstance(label, int)]
        lines += _fault(f"{where}class_to_forget", partial(check_classes, numbers, count, name))
    if count is not None and entry.corrupt is not None:
        labels = [label for label in entry.corrupt.named if isinstance(label, int)]
        key = "corrupt.classes" if entry.corrupt.classes else "corrupt.target"
        lines += _fault(key, partial(class_numbers, labels, (), count, name))
    asked = sorted_labels(entry.subclass_to_forget)
    parts = subclass_count(name) if asked and not lines else None
    return (
        lines
        if parts is None
        else [*lines, *_fault("subclass_to_forget", partial(check_subclasses, asked, parts, name))]
    )


def _fault(key: str, check: Callable[[], Any]) -> list[str]:
    """Do a check, and give the line of what it refuses."""
    try:
        check()
    except SalunError as error:
        return [f"{key}: {error}"]
    return []
