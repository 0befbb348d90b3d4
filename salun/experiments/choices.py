"""The stage between base models and runs: the images of a share that the base model chooses are found, once."""

from salun.data.forget_file import write_forget
from salun.device import derived_seed, placed, seeded, seeded_globally
from salun.experiments.config import Experiment
from salun.experiments.context import ModelCache
from salun.experiments.problem import ForgettingProblem, base_checkpoint, choice_path, load_with
from salun.io.locks import LOCKS, Locks
from salun.unlearning.forget_choice import choose


def make_choice(experiment: Experiment, problem: ForgettingProblem, cache: ModelCache) -> None:
    """Choose the images that an experiment forgets and write them, unless that is done; `check_problem` reads them.

    Args:
        experiment: with share and choice.
        problem: of the experiment, with a random share of the same size; its base model is trained.
        cache: keeps base models.

    Raises:
        SalunError: the base model cannot be read, or the file not be written.
    """
    request, device = experiment.forget, cache.context.device
    path = choice_path(problem.spec, problem.split, request, cache)
    assert path is not None
    with Locks(cache.context.checkpoints / LOCKS) as locks, locks.holding(path.name):
        if path.is_file():
            return
        base = base_checkpoint(problem.spec, cache)
        images = load_with(base, problem, cache).sets.train
        seed = derived_seed("forget choice", request.seed)
        with seeded_globally(seed, device):
            model, generator = placed(base.restore(), device), seeded(seed, device)
            places = choose(model, images, request.choice, len(problem.split.forget), generator)
        write_forget(path, problem.split.train[places])
