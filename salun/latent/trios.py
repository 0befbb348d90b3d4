"""Which base model and which retrained model belong to an unlearned model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from salun.errors import SalunError
from salun.experiments.base_model import recipe_identity
from salun.experiments.record import is_superseded
from salun.latent.extraction import Model, recorded


@dataclass(frozen=True)
class Triple:
    """An unlearned model, and what it is compared with.

    Attributes:
        base: the model before.
        unlearned: the model after.
        retrained: trained without what was to be forgotten; None where there is none.
        remarks: what a user might not expect of the choice, one line each.
    """

    base: Model
    unlearned: Model
    retrained: Model | None
    remarks: tuple[str, ...] = ()


def make_triples(
    unlearned: Sequence[Model],
    candidates: Sequence[Model],
    base: Model | None = None,
    retrained: Model | None = None,
) -> tuple[list[Triple], list[str]]:
    """Find the base model and the retrained model of each unlearned one.

    Args:
        unlearned: the models to compare.
        candidates: all models known, the nearest first.
        base: stands in for the base model of each.
        retrained: stands in for the retrained model of each.

    Returns:
        A triple for each unlearned model, and a line for each whose base model is missing or ambiguous.

    Raises:
        SalunError: a model that was named does not fit.
    """
    for model in unlearned:
        _check_named(model, base, retrained)
    triples, failed = [], []
    for model in unlearned:
        try:
            before, doubts = (base, []) if base is not None else _base_of(model, candidates)
        except SalunError as error:
            failed.append(str(error))
            continue
        after, choices = (retrained, []) if retrained is not None else _retrained_of(model, candidates)
        triples.append(Triple(before, model, after, (*doubts, *choices)))
    return triples, failed


def _check_named(model: Model, base: Model | None, retrained: Model | None) -> None:
    """Check that the models that were named can be compared with an unlearned one."""
    for flag, named in (("--base", base), ("--retrained", retrained)):
        if named is not None and _kind_of(named) != _kind_of(model):
            raise SalunError(f"{flag} {named.path}: is {_said(named)}, but {model.path} is {_said(model)}")
    if retrained is not None and retrained.forget_key != model.forget_key:
        raise SalunError(f"--retrained {retrained.path}: was trained without other images than {model.path} forgot")


def _kind_of(model: Model) -> tuple[Any, ...]:
    """Tell what two models must have in common to be compared layer by layer."""
    return recorded(model.spec).architecture, model.spec.dataset, model.spec.split_seed


def _said(model: Model) -> str:
    """Name a model's kind."""
    shape = recorded(model.spec).architecture
    images = f"{shape.classes} classes of {shape.size} x {shape.size} images"
    return f"{shape.model} for {images} on {model.spec.dataset}, split_seed {model.spec.split_seed}"


def run_of(model: Model) -> dict[str, Any]:
    """Give what a checkpoint records of the run that made it.

    Args:
        model: an unlearned or retrained one.

    Returns:
        Settings, seed and id; empty where nothing is recorded.
    """
    run = recorded(model.spec).config.get("unlearned")
    return run if isinstance(run, dict) else {}


def seed_of(model: Model) -> int:
    """Tell the seed of the run that made a model.

    Args:
        model: an unlearned or retrained one.

    Returns:
        The seed; 0 where none is recorded.
    """
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
    known = [found for found in fitting if _is_base(found, str(identity))] if identity else []
    bases = known or [found for found in fitting if found.role == "base"]
    if not bases:
        raise SalunError(f"{model.path}: its base model ({_said(model)}) is not here; name it with --base")
    if len({found.fingerprint for found in bases}) > 1:
        names = " and ".join(str(found.path) for found in bases[:2])
        raise SalunError(f"{model.path}: {names} may be its base model; name one with --base")
    if identity and not known:
        return bases[0], [f"{model.path}: came from another base model ({identity}) than {bases[0].path}"]
    return bases[0], []


def _is_base(candidate: Model, identity: str) -> bool:
    """Tell whether a model is the one of a recorded identity."""
    if identity.startswith("weights "):
        return identity.split(" ")[1] == candidate.fingerprint
    spec = candidate.spec
    return candidate.role == "base" and identity == recipe_identity(
        spec.model, spec.dataset, spec.recipe, spec.split_seed
    )


def _retrained_of(model: Model, candidates: Sequence[Model]) -> tuple[Model | None, list[str]]:
    """Find the model retrained without what an unlearned one was to forget, that of the smallest seed."""
    fitting = {
        found.fingerprint: found
        for found in reversed(candidates)
        if found.role == "retrained" and found.forget_key == model.forget_key and _kind_of(found) == _kind_of(model)
    }
    ordered = sorted(fitting.values(), key=lambda found: (_is_superseded(found), seed_of(found), str(found.path)))
    if not ordered:
        return None, [f"{model.path}: no model retrained without the same images is here; --retrained names one"]
    remarks = []
    if len(ordered) > 1:
        remarks.append(f"{model.path}: of {len(ordered)} retrained models {ordered[0].path} is taken")
    if _is_superseded(ordered[0]):
        why = "which began seed 0 from the base model's own first weights"
        remarks.append(f"{ordered[0].path}: was retrained by an earlier version, {why}; retrain anew")
    return ordered[0], remarks
