"""What a run leaves behind, and its identity."""

import hashlib
import json
import platform
import subprocess
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from itertools import chain, islice
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from salun import __version__
from salun.data.sets import Sets
from salun.data.split import Split
from salun.device import derived_seed
from salun.errors import SalunError
from salun.experiments.config import Experiment
from salun.experiments.evaluate import RANDOM_MODEL_SEED
from salun.experiments.problem import ForgettingProblem, Group
from salun.io.files import name_part
from salun.io.tensors import tensors_digest
from salun.metrics import Value
from salun.metrics.evaluation import CORRUPTED_SETS
from salun.models.checkpoint import weights_file
from salun.training.progress import Epoch

EARLIER = "earlier"


@dataclass(frozen=True)
class Record:
    """What one run leaves behind: a line of `records.jsonl`.

    Attributes:
        id: hash of everything that decides the outcome, `settings` and `seed`.
        settings: base model, forget set, method, mask, all resolved.
        seed: of the run.
        tag: the user's name for the experiment, when it ran.
        metrics: fractions and seconds by name; None where a metric does not apply.
        base_metrics: the same of the base model.
        curve: one point an epoch.
        seconds: wall time of "mask", "method" and "evaluation", and of "prune", which precedes them.
        peak_memory: bytes.
        device: where it ran.
        versions: of the packages that matter; of plugin files the digest; of metrics that were ever revised, by
            "metric NAME", the revision that their values are of.
        revision: of the code.
        split: fingerprints and sizes.
        diverged: whether the loss or the model's outputs stopped being numbers; its metrics are then None.
        finished: when, UTC.
        details: matrices and values a layer, by metric.
        retrained: id of the retrained model that the run was compared with.
        outputs: digest of the outputs that are kept beside the record.
        passes: images that went "forward" and "backward" through models, for "mask", "method", and "prune".
        parent: id of the run of the request before this one, whose model it started from and whose cost `seconds` and
            `passes` give, with that of the requests before, as "earlier"; retraining takes the cost alone from it.
        diverged_epoch: of a diverged run, the epoch, from 1, in which its loss or, after the last one, its outputs
            stopped being numbers; None of a method without epochs.
        certificate: what a certified method guarantees, "epsilon" and "delta", and by which noise, clipping and steps;
            None of all other methods.
        digest: of the line that it was read from, as it was written; None of a new record, and of one from before
            there were digests.
        edited: whether the line was changed since, and not all that was changed could be computed anew.
        unknown: what the line holds under keys that this version does not know, and under "curve" the same of each
            point; it is written again.
    """

    id: str
    settings: dict[str, Any]
    seed: int
    tag: str | None
    metrics: dict[str, Value]
    base_metrics: dict[str, Value]
    curve: list[Epoch]
    seconds: dict[str, float]
    peak_memory: int
    device: str
    versions: dict[str, str]
    revision: str
    split: dict[str, Any]
    diverged: bool
    finished: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    details: dict[str, Any] = field(default_factory=dict)
    retrained: str | None = None
    outputs: str | None = None
    passes: dict[str, dict[str, int]] = field(default_factory=dict)
    parent: str | None = None
    diverged_epoch: int | None = None
    certificate: dict[str, float] | None = None
    digest: str | None = field(default=None, compare=False)
    edited: bool = False
    unknown: dict[str, Any] = field(default_factory=dict)

    @property
    def is_gold(self) -> bool:
        """Whether it is of the retraining that everything else is compared with."""
        return self.settings["method"] == "retrain" and self.settings.get("leave_out") != "found"

    @property
    def unlearning_passes(self) -> int | None:
        """Image passes of mask and method, forward and backward together; None where they were not counted."""
        counted = [sum(self.passes[part].values()) for part in ("mask", "method") if part in self.passes]
        return sum(counted) if counted else None

    @property
    def unlearning_seconds(self) -> float:
        """Wall time of mask and method."""
        return self.seconds["mask"] + self.seconds["method"]

    @property
    def earlier_cost(self) -> tuple[float, int]:
        """Wall time and image passes of the requests before this one."""
        return self.seconds.get(EARLIER, 0.0), sum(self.passes.get(EARLIER, {}).values())

    @property
    def base_name(self) -> str:
        """What the base model's outputs on this run's sets are called."""
        base, forget = self.settings["base"]["identity"], self.settings["forget"]["fingerprint"]
        deciding = f"{base} {forget} {RANDOM_MODEL_SEED}"  # the random model's outputs are kept in the same file
        return f"base_{hashlib.sha256(deciding.encode()).hexdigest()[:16]}"


def resolved_settings(experiment: Experiment, problem: ForgettingProblem) -> dict[str, Any]:
    """Gather everything but the seed that decides a run's outcome.

    Args:
        experiment: what is done.
        problem: what it is done to.

    Returns:
        Plain values.
    """
    spec = problem.spec
    base = {
        "identity": spec.identity,
        "model": spec.model,
        "dataset": spec.dataset,
        "recipe": spec.recipe.model_dump() if spec.recipe else None,
        "seed": spec.recipe.seed if spec.recipe else None,
        "split": problem.split.fingerprint,
        **({"corrupt": spec.corruption.described()} if spec.corruption else {}),
    }
    mask_digest = None if problem.mask is None else tensors_digest(problem.mask)
    fingerprints = [split.forget_fingerprint for split in (*problem.split.earlier, problem.split)]
    return experiment.resolved(problem.dataset).dump(base, fingerprints, mask_digest)


def experiment_of(record: Record, number: int) -> Experiment:
    """Read from a record which experiment was run.

    Args:
        record: of a run.
        number: given to the experiment.

    Returns:
        The experiment, as `Experiment.from_record` gives it.

    Raises:
        SalunError: the settings are not such as this version writes.
    """
    try:
        return Experiment.from_record(record.settings, number, record.tag)
    except SalunError as error:
        raise SalunError(f"record {record.id}: {error}") from error


def run_id(settings: dict[str, Any], seed: int) -> str:
    """Hash what decides a run's outcome; where its files lie does not, what they hold does.

    The base model's seed is part of its recipe, and so of its identity. Of a retraining the seed that it draws by
    counts too.

    Args:
        settings: as `resolved` gives them.
        seed: of the run.

    Returns:
        16 hexadecimal digits.
    """
    drawn = drawn_seed(settings, seed)
    places = {"base": "seed", "forget": "request", "mask": "file"}
    deciding = {
        key: {name: part for name, part in value.items() if name != places[key]} if key in places and value else value
        for key, value in settings.items()
    }
    described = [deciding, seed] if drawn == seed else [deciding, seed, drawn]
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:16]


def drawn_seed(settings: dict[str, Any], seed: int) -> int:
    """Settle what a run's randomness starts from.

    A retrained model starts from nothing. The base model is mixed in, so that two base models are not compared with
    one and the same retrained model, and no base model with one that starts from its own first weights. Requests one
    after another draw anew for each.

    Args:
        settings: as `resolved` gives them; an audit, whose shadow models are others, gives no base model.
        seed: of the run.

    Returns:
        The seed; another one for retraining, and for requests after the first.
    """
    if settings["method"] != "retrain":
        earlier = (settings["forget"] or {}).get("earlier", ())
        return derived_seed("request", len(earlier) + 1, seed) if earlier else seed
    return derived_seed("retraining", (settings["base"] or {}).get("identity"), seed)


def is_superseded(run: dict[str, Any], seed: int, number: str) -> bool:
    """Tell whether a model was retrained from other random numbers than its seed gives now.

    Earlier versions began retraining with seed 0 from the base model's own first weights.

    Args:
        run: the run's settings, as `resolved` gave them.
        seed: of the run.
        number: its id.

    Returns:
        Whether a run of these settings has another id now; False of other methods.
    """
    try:
        return run.get("method") == "retrain" and number != run_id(run, seed)
    except (TypeError, AttributeError):  # a file may hold settings that no run has
        return False


def split_summary(split: Split, images: Sets) -> dict[str, Any]:
    """Describe a split for a record.

    Args:
        split: the split.
        images: taken from it.

    Returns:
        Its fingerprints, and the number of images of each set.
    """
    sets = ("train", "forget", "retain", "validation", "test", "forgotten_test")
    counts = {name: len(getattr(split, name)) for name in sets}
    if images.corrupted is not None:
        counts |= {name: len(getattr(images.corrupted, name)) for name in CORRUPTED_SETS}
    return {"fingerprint": split.fingerprint, "forget_fingerprint": split.forget_fingerprint, **counts}


def weights_path(folder: Path, record: Record) -> Path:
    """Name the file of an unlearned model so that it says what it is.

    Args:
        folder: of the list's checkpoints.
        record: of the run.

    Returns:
        Method, mask, forget set, seed and id, ending in `.safetensors`; in `.pt` where an earlier version wrote it so.
    """
    settings, mask = record.settings, record.settings["mask"]
    forget = settings["forget"]
    parts = forget.get("subclasses", [])
    what = f"class{'+'.join(map(str, forget['classes']))}" if forget["classes"] else "list"
    if forget.get("found") is not None:
        what = f"found{forget['found']:g}"
    what = f"subclass{'+'.join(map(str, parts))}" if parts else what
    if forget["share"] is not None:
        how = forget.get("choice", "stratified" if forget.get("stratified") else "")
        what = f"share{forget['share']:g}" + (f"-{how}" if how else "")
    masked = "" if mask is None else f"_mask{'' if mask['file'] else format(mask['keep'], 'g')}"
    name = name_part(f"{settings['method']}{masked}_{what}_seed{record.seed}_{record.id[:8]}")
    return weights_file(folder, name)


@lru_cache
def versions() -> dict[str, str]:
    """List the versions that a result may depend on.

    Returns:
        By package.
    """
    return {
        "salun": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": version("timm"),
        "numpy": np.__version__,
        "scikit-learn": version("scikit-learn"),
    }


@lru_cache
def revision() -> str:
    """Tell the revision of the code, where it runs from a git checkout.

    Returns:
        The commit, "-dirty" behind it where files differ, or the package's version.
    """
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        described = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return __version__
    return described.stdout.strip()


def group_of(record: Record) -> Group:
    """Tell which runs a run may be compared with.

    Args:
        record: of a run.

    Returns:
        Base model and forget set.
    """
    settings = record.settings
    return settings["base"]["identity"], settings["forget"]["fingerprint"]


def group_named(cells: Iterable[Group]) -> Group:
    """Name what experiments over several base models or forget sets are compared within.

    Args:
        cells: pairs of base model and forget set.

    Returns:
        The base models and the forget sets, each once, sorted, with blanks between them.
    """
    bases, forgets = zip(*cells, strict=True)
    return " ".join(sorted(set(bases))), " ".join(sorted(set(forgets)))


def partner_of(record: Record, gold: list[Record]) -> Record | None:
    """Choose the retrained model that a run is compared with.

    Each run is compared with the retrained model of its own seed, so that runs stay independent of each other; a
    retrained model with that of the next seed, which shows how far two retrainings are apart.

    Args:
        record: of the run.
        gold: retrained models, by seed.

    Returns:
        The retrained model's record; where none has the seed, the runs' seeds go round. None where there is none
        but the run itself.
    """
    seed = attrgetter("seed")
    if record.is_gold:
        later = bisect_right(gold, record.seed, key=seed)
        return next((other for other in chain(islice(gold, later, None), gold) if other.id != record.id), None)
    place = bisect_left(gold, record.seed, key=seed)
    if place < len(gold) and gold[place].seed == record.seed:
        return gold[place]
    return gold[record.seed % len(gold)] if gold else None
