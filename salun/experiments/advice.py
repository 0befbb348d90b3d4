"""What a user should know before the first run: of base models, of data, and of settings that do not suit them."""

from collections.abc import Mapping, Sequence
from math import ceil
from typing import Any

from salun.data.manifest import manifest_path
from salun.experiments.plan import Job
from salun.experiments.problem import ForgettingProblem
from salun.training.recipe import Recipe, default_recipe
from salun.unlearning import find_method

_DECIDING = ("lr", "epochs", "batch_size")
# Of training over the retain set: with 10 or 12 steps some methods cost 9 to 76 points of RA, with 30 to 40 most
# at most 5, and the others change nothing (docs/choosing.md).
_FEWEST_STEPS = 40


def warnings_of(jobs: Sequence[Job]) -> list[str]:
    """Say what a user might not expect of the runs of a list.

    Args:
        jobs: the runs.

    Returns:
        Lines, each once; none where nothing is unusual.
    """
    lines = [line for job in jobs for line in about_problem(job.problem)]
    for job in jobs:
        one, split = job.experiment, job.problem.split
        if one.step <= 1:
            lines += few_steps(one.title, one.method, one.settings, len(split.forget), len(split.retain))
    return list(dict.fromkeys(lines))


def about_problem(problem: ForgettingProblem) -> list[str]:
    """Say what is unusual of a base model and of the data.

    Args:
        problem: what is to be forgotten.

    Returns:
        Lines: what became of the images that were listed, where the images lie, and what is not known of the model.
    """
    spec, lines = problem.spec, [*problem.dataset.notices, *problem.split.notices]
    if not problem.is_chosen:
        count = len(problem.split.forget)
        lines.append(f"forget_choice: which {count} images are forgotten is known once the base model is trained")
    if spec.moved_to is not None and not manifest_path(spec.path).is_file():
        lines.append(f"{spec.path}: has no manifest beside it; the images of '{spec.moved_to}' are taken for its own")
    if spec.checkpoint is None:
        return lines
    if "split" not in spec.checkpoint.config:
        unsure = "VA, MIA and the forests may count images that it was trained on as unseen"
        lines.append(f"{spec.path}: records no split; that of seed {spec.split_seed} is taken, so {unsure}")
    if not spec.by_weights and spec.recipe != default_recipe(spec.dataset) and spec.path.stem.endswith("_base"):
        lines.append(f"{spec.path}: was trained by a recipe of its own ({spec.recipe}), which retraining follows")
    return lines


def few_steps(
    title: str, method: str, settings: Mapping[str, Any], forget: int, retain: int, recipe: Recipe | None = None
) -> list[str]:
    """Say that default settings, made for tens of thousands of images, give a few hundred too few steps.

    Args:
        title: of the experiment, as the line begins.
        method: its name.
        settings: of the method, resolved.
        forget: number of images to forget.
        retain: number of images to retain.
        recipe: by which retraining is judged; None for not at all.

    Returns:
        A line, or none.
    """
    if method == "retrain":
        return few_steps_of_training(title, recipe, retain) if recipe else []
    defaults = find_method(method).settings
    if not all(key in settings and settings[key] == defaults[key][1] for key in _DECIDING):
        return []
    size = settings["batch_size"]
    steps = [settings["epochs"] * ceil(count / size) for count in (forget, retain)]
    if steps[1] >= _FEWEST_STEPS:
        return []
    ours = ", ".join(f"{key} {settings[key]:g}" for key in _DECIDING)
    made = f"{forget} forget and {retain} retain images make {steps[0]} and {steps[1]} steps"
    told = f"{title}: its defaults ({ours}) are for tens of thousands of images; {made}, too few to forget or to repair"
    return [f"{told}: give a batch_size of 16 or 32, more epochs or another lr; see docs/choosing.md"]


def few_steps_of_training(title: str, recipe: Recipe, images: int) -> list[str]:
    """Say that a training from scratch is too short to be the gold standard.

    Args:
        title: of the training, as the line begins.
        recipe: of the training.
        images: number of images.

    Returns:
        A line, or none.
    """
    steps = recipe.epochs * ceil(images / recipe.batch_size)
    if steps >= _FEWEST_STEPS:
        return []
    made = f"{recipe.epochs} epochs of {images} images in batches of {recipe.batch_size} make {steps} steps"
    return [f"{title}: {made}, too few to train a new model; give more epochs or a smaller batch_size"]
