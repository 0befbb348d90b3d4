"""Shadow models of an audit: each is trained on a random half of the images asked for, unlearned, and retrained."""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from salun.data.dataset import held_out
from salun.data.images import Images
from salun.data.split import Split, digest, drawn_share, without
from salun.device import placed
from salun.errors import SalunError, SalunErrors
from salun.experiments.base_model import recipe_identity
from salun.experiments.base_training import train_checkpoint
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache
from salun.experiments.margins import Margins, Singles, are_kept, read_margins, write_margins
from salun.experiments.problem import ForgettingProblem, check_problem, load_with
from salun.experiments.record import resolved_settings, run_id
from salun.experiments.run import UnlearningResult, unlearn_once
from salun.metrics.scores import margins
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_file
from salun.training.evaluate import predict
from salun.training.progress import Callback, no_callback
from salun.training.recipe import Recipe
from salun.training.runtime import Runtime

Flags = NDArray[np.bool_]

_Watched = Callable[[str], Callback]

FEWEST = 6

_WITNESSES = 1000

BASE = "base"


@dataclass(frozen=True)
class Pool:
    """The images that an audit asks about, and everything else.

    Each shadow model is trained on a random half of the candidates and on all other images, and unlearns that
    half; so each candidate is trained on and forgotten in half of the models, and never seen by the others.

    Attributes:
        problem: base model, data, split.
        recipe: of the base model, by which shadow models are trained.
        candidates: (N,) sorted training indices.
        witnesses: (R,) training indices that are never forgotten.
        stratified: whether each shadow model is trained on half of each class of the candidates.
    """

    problem: ForgettingProblem
    recipe: Recipe
    candidates: Tensor
    witnesses: Tensor
    stratified: bool = False

    @cached_property
    def key(self) -> str:
        """Identity of what its shadow models are trained on, how, and what they are asked."""
        spec, split = self.problem.spec, self.problem.split
        indices = (split.train, split.validation, split.test, split.forgotten_test, self.candidates, self.witnesses)
        described = [spec.model, spec.dataset, self.recipe.model_dump(), split.fingerprint]
        described += ["stratified"] * self.stratified
        text = json.dumps([*described, digest(*indices, torch.tensor(split.classes))], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def trained(self, number: int) -> Flags:
        """Draw which candidates a shadow model is trained on; models 2k and 2k + 1 share them out.

        Args:
            number: of the shadow model, from 0.

        Returns:
            (N,).
        """
        pair, odd = divmod(number, 2)
        count, seed = len(self.candidates), [int(self.key, 16), pair]
        chosen = np.zeros(count, dtype=np.bool_)
        if self.stratified:
            labels = self.problem.dataset.train.labels.cpu()[self.candidates]
            half = held_out(labels, 0.5, seed, count // 2)[0].numpy()
        else:
            half = np.random.default_rng(seed).permutation(count)[: count // 2]
        chosen[half] = True
        return ~chosen if odd else chosen

    def split(self, number: int) -> Split:
        """Split the data for a shadow model.

        Args:
            number: of the shadow model.

        Returns:
            The split; to be forgotten are the candidates that the model is trained on.
        """
        split = self.problem.split
        chosen = torch.from_numpy(self.trained(number))
        forget, never = self.candidates[chosen], self.candidates[~chosen]
        train = without(split.train, never)
        return replace(split, train=train, forget=forget, retain=without(train, forget), listed=forget)


def _pool_of(experiment: Experiment, problem: ForgettingProblem) -> Pool:
    """Choose the images that an audit of an experiment asks about.

    Those of the classes or of the list; of a share r of N training images 2rN / (1 + r), half of which are a share r
    of what a shadow model is trained on.
    """
    if experiment.corruption is not None:
        raise SalunError("corrupt: an audit draws its images itself; give class_to_forget, unlearning_rate or a list")
    if experiment.mask is not None and experiment.mask.file is not None:
        raise SalunError("load_mask: a mask belongs to one model; an audit computes one for each (use_mask)")
    if experiment.forget.choice != "random":
        raise SalunError(f"forget_choice: {experiment.forget.choice}: an audit draws the images that it asks about")
    spec, split, share = problem.spec, problem.split, experiment.forget.share
    if spec.recipe is None:
        reason = "records no recipe to train shadow models by; give one under the key 'recipe'"
        raise SalunError(f"checkpoint: {spec.path}: {reason}")
    candidates = split.forget
    if share is not None:
        count = min(round(2 * share * len(split.train) / (1 + share)), len(split.train) - 1)
        labels, share = problem.dataset.train.labels.cpu(), 2 * share / (1 + share)
        candidates = drawn_share(labels, split.train, experiment.forget, share, count)
    if len(candidates) < 2:
        raise SalunError(f"{experiment.forget}: an audit needs at least 2 training images to ask about")
    rest = without(split.train, candidates)
    at = torch.linspace(0, len(rest) - 1, min(_WITNESSES, len(rest))).long()
    identity = recipe_identity(spec.model, spec.dataset, spec.recipe, spec.split_seed)
    recipe_alone = replace(spec, checkpoint=None, identity=identity)  # shadow models stand in its place
    alone = replace(problem, spec=recipe_alone)
    return Pool(alone, spec.recipe, candidates, rest[at], experiment.forget.stratified)


def name_of(experiment: Experiment, pool: Pool) -> str:
    """Identify what is done to every shadow model of a pool.

    The base model that an entry names does not count: shadow models stand in its place.

    Args:
        experiment: the method.
        pool: the images.

    Returns:
        16 hexadecimal digits.
    """
    shadows = {"base": None, "forget": {"pool": pool.key}}
    return run_id({**resolved_settings(experiment, pool.problem), **shadows}, experiment.seed)


@dataclass(frozen=True)
class Audit:
    """Experiments that share their shadow models.

    Attributes:
        pool: the images that are asked about.
        experiments: what is done to each shadow model; the first is retraining, which all are compared with.
    """

    pool: Pool
    experiments: tuple[Experiment, ...]

    @cached_property
    def named(self) -> dict[str, Experiment | None]:
        """What is kept for each shadow model, by name; None for the shadow model itself."""
        return {BASE: None, **{name_of(experiment, self.pool): experiment for experiment in self.experiments}}

    def __str__(self) -> str:
        spec, forget = self.pool.problem.spec, self.experiments[-1].forget
        seeds = {"forget_seed": forget.seed, "base_seed": self.pool.recipe.seed}
        told = "".join(f", {name} {seed}" for name, seed in seeds.items() if seed)
        what = f"{spec.model} on {spec.dataset}, forgetting {forget}{told}"
        return f"{what}: {len(self.pool.candidates)} images asked for"


def audits_of(experiments: Sequence[Experiment], cache: ModelCache, source: str) -> list[Audit]:
    """Load what experiments need, and gather those that share their shadow models; nothing is trained.

    Args:
        experiments: validated entries.
        cache: keeps data sets and base models.
        source: what the text of errors begins with.

    Returns:
        The audits; where no entry retrains, retraining is added.

    Raises:
        SalunErrors: data, checkpoints or masks are refused, a line an experiment.
    """
    pools: dict[str, tuple[Pool, list[Experiment]]] = {}
    wrong = []
    for experiment in experiments:
        try:
            if experiment.requests:
                raise SalunError("requests: an audit asks about one forget set; give its key in their place")
            pool = _pool_of(experiment, check_problem(experiment, cache))
            pools.setdefault(pool.key, (pool, []))[1].append(experiment)
        except SalunError as error:
            wrong.append(f"{source}: {experiment.place}: {error}")
    if wrong:
        raise SalunErrors(wrong)
    return [Audit(pool, _with_retraining(listed)) for pool, listed in pools.values()]


def _with_retraining(experiments: Sequence[Experiment]) -> tuple[Experiment, ...]:
    """Put retraining first, and add it where it is missing."""
    found = sorted(experiments, key=lambda experiment: experiment.method != "retrain")
    if found[0].method == "retrain":
        return tuple(found)
    plain = {"mask": None, "metrics": (), "tag": None, "prune": None, "budget": None}
    added = found[0].model_copy(update=plain | {"number": 0, "method": "retrain", "settings": {}, "seed": 0})
    return (added, *found)


@dataclass(frozen=True)
class _Done:
    """One model that was trained or unlearned just now."""

    number: int
    experiment: Experiment | None
    seconds: float


@dataclass(frozen=True)
class Auditor:
    """Trains, unlearns and retrains shadow models, and keeps what each gives; what is kept is not done again.

    Attributes:
        cache: data sets and the device.
        folder: margins are kept here.
        weights: the shadow models' own weights are kept here, for methods that are added later.
    """

    cache: ModelCache
    folder: Path
    weights: Path

    def path(self, pool: Pool, name: str, number: int) -> Path:
        """Name the file of a model's margins.

        Args:
            pool: its images.
            name: "base", or the identity of an experiment.
            number: of the shadow model.

        Returns:
            The path.
        """
        return self.folder / pool.key / f"{name}_{number}.npz"

    def missing(self, audit: Audit, shadows: int) -> list[tuple[int, str]]:
        """List the models whose margins are not kept, or no longer readable.

        Args:
            audit: what is to be done.
            shadows: to how many models.

        Returns:
            Number of the shadow model and name, by number.
        """
        wanted = [(number, name) for number in range(shadows) for name in audit.named]
        return [(number, name) for number, name in wanted if not are_kept(self.path(audit.pool, name, number))]

    def go(self, audit: Audit, missing: Sequence[tuple[int, str]], callback: _Watched) -> Iterator[_Done]:
        """Do what is missing, shadow model by shadow model.

        Args:
            audit: what is to be done.
            missing: as `missing` gives it.
            watch: gives a watch for each training, by its title.

        Yields:
            Each model as its margins are kept.

        Raises:
            SalunError: a model cannot be had, or a file not be written.
        """
        for number, names in groupby(missing, itemgetter(0)):
            begun = time.perf_counter()
            base = self.base(audit.pool, number, callback(f"shadow model {number}"))
            for _, name in names:
                experiment = audit.named[name]
                model: nn.Module | None = placed(base.restore(), self.cache.context.device)
                if experiment is not None:
                    seen = callback(f"shadow model {number}, {experiment.title}")
                    model = self.unlearned(audit.pool, base, experiment, number, seen)
                self.keep(self.path(audit.pool, name, number), audit.pool, model, base)
                yield _Done(number, experiment, time.perf_counter() - begun)
                begun = time.perf_counter()

    def base(self, pool: Pool, number: int, callback: Callback = no_callback) -> Checkpoint:
        """Give a shadow model: as it is kept, or trained where it is not, or is no longer readable.

        Args:
            pool: the images.
            number: of the shadow model.
            watch: is told of every step.

        Returns:
            Its checkpoint.

        Raises:
            SalunError: it cannot be trained or written.
        """
        path = weights_file(self.weights / pool.key, f"shadow_{number}")
        try:
            return load_checkpoint(path)
        except SalunError:
            checkpoint = self.train(pool, number, callback)
        save_checkpoint(path, checkpoint)
        return checkpoint

    def train(self, pool: Pool, number: int, callback: Callback) -> Checkpoint:
        """Train a shadow model.

        Args:
            pool: the images.
            number: of the shadow model, which also decides its first weights.
            watch: is told of every step.

        Returns:
            Its checkpoint.

        Raises:
            SalunError: it cannot be built, or training diverged.
        """
        spec, split = pool.problem.spec, pool.split(number)
        seed = int(np.random.SeedSequence([pool.recipe.seed, number, 1]).generate_state(1)[0]) // 2
        recipe = pool.recipe.model_copy(update={"seed": seed})
        unseen = without(pool.candidates, split.forget)
        learned = replace(split, forget=split.forget[:0], retain=split.train, listed=unseen)
        data, device = pool.problem.dataset, self.cache.context.device
        checkpoint, _ = train_checkpoint(spec.model, data, learned, recipe, device, Runtime(callback=callback))
        return replace(checkpoint, optimizer=None)

    def unlearned(
        self, pool: Pool, base: Checkpoint, experiment: Experiment, number: int, callback: Callback
    ) -> nn.Module | None:
        """Unlearn a shadow model's half of the candidates.

        Args:
            pool: the images.
            base: the shadow model.
            experiment: the method.
            number: of the shadow model; counts the experiment's seed on.
            watch: is told of every step.

        Returns:
            The model after, on the device; None where the method's loss stopped being a number.

        Raises:
            SalunError: what is recorded of the shadow model is not usable.
        """
        loaded = load_with(base, replace(pool.problem, split=pool.split(number)), self.cache)
        done: UnlearningResult = unlearn_once(experiment, loaded, experiment.seed + number, self.cache, callback)
        return done.task.model if done.task.diverged is None else None

    def keep(self, path: Path, pool: Pool, model: nn.Module | None, base: Checkpoint) -> None:
        """Write the margins of a model.

        Args:
            path: of the file.
            pool: the images.
            model: on the device; None of one that diverged, whose margins are NaN.
            base: the shadow model, which knows how its images are prepared.

        Raises:
            SalunError: the file cannot be written.
        """
        asked = replace(pool.problem.split, forget=pool.candidates, retain=pool.witnesses)
        sets = load_with(base, replace(pool.problem, split=asked), self.cache).sets

        def of(images: Images) -> Singles:
            if model is None or not len(images):
                return np.full(len(images), np.nan, dtype=np.float32)
            return margins(predict(model, images))

        found = Margins(of(sets.forget), of(sets.retain), np.concatenate([of(sets.test), of(sets.forgotten_test)]))
        write_margins(path, found)

    def margins(self, pool: Pool, name: str, shadows: int) -> list[Margins]:
        """Read the margins of all shadow models.

        Args:
            pool: the images.
            name: "base", or the identity of an experiment.
            shadows: how many.

        Returns:
            One a shadow model.

        Raises:
            SalunError: one is missing or damaged.
        """
        return [read_margins(self.path(pool, name, number)) for number in range(shadows)]
