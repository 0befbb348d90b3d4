"""The stage before the first run: every base model that runs need is trained and written."""

import time
from collections.abc import Callable, Mapping

from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, make_split
from salun.errors import SalunError, one_line
from salun.experiments.base_model import BaseModelSpec
from salun.experiments.base_training import save_with_forget
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.executor import Answer, BaseRequest, Executor, RunFailure, SerialExecutor
from salun.experiments.problem import ForgettingProblem
from salun.io.locks import LOCKS, POLL, Locks
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, no_callback

CallbackForBase = Callable[[BaseModelSpec], Callback]


def prepare_bases(
    untrained: Mapping[str, ForgettingProblem], executor: Executor, context: RunContext, callback_for: CallbackForBase
) -> dict[str, RunFailure]:
    """Train base models and write them; each is trained by one process, and all wait until it is written.

    Args:
        untrained: problems by the identity of their base model, which is in no file yet.
        executor: does the training.
        context: of the runs.
        callback_for: gives the callback of a base model's training.

    Returns:
        Why those that cannot be had cannot, by identity.
    """
    waiting, failed = dict(untrained), {}
    requests: dict[str, BaseRequest] = {}
    with Locks(context.checkpoints / LOCKS) as locks:
        while waiting or requests:
            for identity, problem in list(waiting.items()):
                path = problem.spec.path
                if path.exists():
                    del waiting[identity]
                elif executor.has_room() and locks.take(path.name):
                    del waiting[identity]
                    if path.exists():
                        locks.release(path.name)
                        continue
                    whole = make_split(problem.dataset, ForgetRequest(), problem.spec.split_seed)
                    requests[identity] = BaseRequest(identity, problem.spec, whole)
                    executor.submit(requests[identity], callback_for(problem.spec))
            if requests:
                identity, answer = executor.next_finished()
                request = requests.pop(identity)
                failure = _written(request, answer, context, untrained[identity].dataset)
                locks.release(request.spec.path.name)
                if failure is not None:
                    failed[identity] = failure
            elif waiting:
                time.sleep(POLL)  # other processes train the rest
    return failed


def _written(request: BaseRequest, answer: Answer, context: RunContext, dataset: Dataset) -> RunFailure | None:
    """Write a base model that was trained."""
    if isinstance(answer, RunFailure):
        return answer
    assert isinstance(answer, Checkpoint)
    path = request.spec.path
    try:
        save_with_forget(path, answer, request.split, dataset)
    except SalunError as error:
        return RunFailure(one_line(str(error)))
    context.forget_state(path.stem)
    return None


def prepare_base(problem: ForgettingProblem, cache: ModelCache) -> None:
    """Train the base model of one problem in this process, unless it is there.

    Args:
        problem: its base model may still have to be trained.
        cache: of this process.

    Raises:
        SalunError: it cannot be trained or written.
    """
    spec = problem.spec
    if spec.checkpoint is None and not spec.path.exists():
        failed = prepare_bases({spec.identity: problem}, SerialExecutor(cache), cache.context, lambda _: no_callback)
        for failure in failed.values():
            raise SalunError(failure.reason)
