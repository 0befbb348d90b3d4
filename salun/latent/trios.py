"""Unlearned models with the base model and the retrained model that each is compared with."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from salun.errors import SalunError, SalunErrors
from salun.experiments.base_model import recipe_identity
from salun.experiments.record import is_superseded
from salun.io.files import each_once
from salun.latent.extraction import ENDINGS, Model, find_checkpoints, read_model, read_models, recorded

CHECKPOINTS = Path("checkpoints")


@dataclass(frozen=True)
class Trio:
    """An unlearned model, the model before, a retrained one if there is one, and what is unexpected of the choice."""

    base: Model
    unlearned: Model
    retrained: Model | None
    remarks: tuple[str, ...] = ()


def _make_trios(
    unlearned: Sequence[Model], candidates: Sequence[Model], base: Model | None, retrained: Model | None
) -> tuple[list[Trio], list[str]]:
    """Find a trio for each model, the nearest candidates first, and a line for each that has no base model."""
    for model in unlearned:
        _check_named(model, base, retrained)
    trios, failed = [], []
    for model in unlearned:
        try:
            before, doubts = (base, []) if base is not None else _base_of(model, candidates)
        except SalunError as error:
            failed.append(str(error))
            continue
        after, choices = (retrained, []) if retrained is not None else _retrained_of(model, candidates)
        trios.append(Trio(before, model, after, (*doubts, *choices)))
    return trios, failed


def find_trios(
    paths: Sequence[str], base: str | None = None, retrained: str | None = None
) -> tuple[list[Trio], list[str]]:
    """Find the unlearned models below some paths, and base and retrained models there, beside or in `checkpoints/`.

    Args:
        paths: files and folders of checkpoints; none for all under `checkpoints/`.
        base: file that stands in for the base model of each.
        retrained: file that stands in for the retrained model of each.

    Returns:
        At least one trio, and a line for each model that cannot be read or compared.

    Raises:
        SalunError: a path is missing, a named model does not fit, or no unlearned model can be compared.
    """
    places = paths or [str(CHECKPOINTS)]
    files = each_once(file for path in places for file in find_checkpoints(Path(path)))
    models, failed = read_models(files)
    if not models:
        raise SalunErrors(failed)
    unlearned = [model for model in models if model.role == "unlearned"]
    if not unlearned:
        none = f"{', '.join(places)}: {len(models)} readable checkpoints, none of an unlearned model"
        raise SalunErrors([*failed, none])
    named = [_read_one(path) if path else None for path in (base, retrained)]
    candidates = models if all(named) else [*models, *_read_others(files)]
    trios, orphans = _make_trios([model for model in unlearned if model.excluded], candidates, *named)
    unknown = [model.path for model in unlearned if not model.excluded]
    failed += [f"{path}: does not record which images were to be forgotten" for path in unknown] + orphans
    if not trios:
        raise SalunErrors(failed)
    return trios, failed


def _read_one(path: str) -> Model:
    """Read the only checkpoint of a path."""
    files = find_checkpoints(Path(path))
    if len(files) > 1:
        raise SalunError(f"{path}: holds {len(files)} checkpoints; name one")
    return read_model(files[0])


def _read_others(known: Sequence[Path]) -> list[Model]:
    """Read the checkpoints beside those that are known, and under `checkpoints/`."""
    beside = [file for folder in dict.fromkeys(path.parent for path in known) for file in sorted(folder.iterdir())]
    files = {file.resolve(): file for file in [*beside, *sorted(CHECKPOINTS.rglob("*"))] if file.suffix in ENDINGS}
    for file in known:
        files.pop(file.resolve(), None)
    return read_models(list(files.values()))[0]


def _check_named(model: Model, base: Model | None, retrained: Model | None) -> None:
    """Check that the models that were named can be compared with an unlearned one."""
    for flag, named in (("--base", base), ("--retrained", retrained)):
        if named is not None and _kind_of(named) != _kind_of(model):
            raise SalunError(f"{flag} {named.path}: is {_described(named)}, but {model.path} is {_described(model)}")
    if retrained is not None and retrained.forget_key != model.forget_key:
        raise SalunError(f"--retrained {retrained.path}: was trained without other images than {model.path} forgot")


def _kind_of(model: Model) -> tuple[Any, ...]:
    """Tell what two models must have in common to be compared layer by layer."""
    return recorded(model.spec).architecture, model.spec.dataset, model.spec.split_seed


def _described(model: Model) -> str:
    """Name a model's kind."""
    shape = recorded(model.spec).architecture
    images = f"{shape.classes} classes of {shape.size} x {shape.size} images"
    return f"{shape.model} for {images} on {model.spec.dataset}, split_seed {model.spec.split_seed}"


def run_of(model: Model) -> dict[str, Any]:
    """Give what a checkpoint records of the run that made it: settings, seed and id; empty where there is nothing."""
    run = recorded(model.spec).config.get("unlearned")
    return run if isinstance(run, dict) else {}


def _seed_of(model: Model) -> int:
    """Tell the seed of the run that made a model; 0 where none is recorded."""
    seed = run_of(model).get("seed")
    return seed if isinstance(seed, int) else 0


def _is_superseded(model: Model) -> bool:
    run = dict(run_of(model))
    number, seed = run.pop("id", None), run.pop("seed", None)
    return isinstance(number, str) and isinstance(seed, int) and is_superseded(run, seed, number)


def _base_of(model: Model, candidates: Sequence[Model]) -> tuple[Model, list[str]]:
    """Find the base model of an unlearned one: by the identity that its run recorded, else by its kind."""
    fitting = [found for found in candidates if _kind_of(found) == _kind_of(model)]
    identity = (run_of(model).get("base") or {}).get("identity")
    known = [found for found in fitting if is_base(found, str(identity))] if identity else []
    bases = known or [found for found in fitting if found.role == "base"]
    if not bases:
        raise SalunError(f"{model.path}: its base model ({_described(model)}) is not here; name it with --base")
    if len({found.fingerprint for found in bases}) > 1:
        names = " and ".join(str(found.path) for found in bases[:2])
        raise SalunError(f"{model.path}: {names} may be its base model; name one with --base")
    if identity and not known:
        return bases[0], [f"{model.path}: came from another base model ({identity}) than {bases[0].path}"]
    return bases[0], []


def is_base(candidate: Model, identity: str) -> bool:
    """Tell whether a model is the base model of an identity, as runs record it."""
    if identity.startswith("weights "):
        return identity.split(" ")[1] == candidate.fingerprint
    spec = candidate.spec
    identities = recipe_identity(spec.model, spec.dataset, spec.recipe, spec.split_seed)
    return candidate.role == "base" and identities == identity


def _retrained_of(model: Model, candidates: Sequence[Model]) -> tuple[Model | None, list[str]]:
    """Find the model retrained without what an unlearned one was to forget, that of the smallest seed."""
    fitting = {
        found.fingerprint: found
        for found in reversed(candidates)
        if found.role == "retrained" and found.forget_key == model.forget_key and _kind_of(found) == _kind_of(model)
    }
    ordered = sorted(fitting.values(), key=lambda found: (_is_superseded(found), _seed_of(found), str(found.path)))
    if not ordered:
        return None, [f"{model.path}: no model retrained without the same images is here; --retrained names one"]
    remarks = []
    if len(ordered) > 1:
        remarks.append(f"{model.path}: of {len(ordered)} retrained models {ordered[0].path} is taken")
    if _is_superseded(ordered[0]):
        why = "which began seed 0 from the base model's own first weights"
        remarks.append(f"{ordered[0].path}: was retrained by an earlier version, {why}; retrain anew")
    return ordered[0], remarks
