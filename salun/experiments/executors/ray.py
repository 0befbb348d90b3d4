"""Who does the runs of a list on a cluster: workers on every machine that Ray knows, as many as find room there.

A worker is an actor of Ray with its own workbench, and lives as long as the list. It needs nothing of this machine's
file system but the data sets: base models, forget sets, masks and plugins are brought to it. Only this process writes
records, outputs and weights, base models among them.
"""

import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from math import floor
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import current_thread, main_thread
from types import TracebackType
from typing import Any, Self

import torch

from salun import __version__
from salun.data.split import make_split
from salun.errors import SalunError, one_line
from salun.experiments.base_model import BaseModelSpec, check_belongs
from salun.experiments.config import Experiment
from salun.experiments.executors.processes import Answer, Cell, Lost, Order, Outcome, Setup, answer, setup_like
from salun.experiments.record import ForgettingProblem
from salun.experiments.run import Workbench
from salun.io.files import replacing, write_text
from salun.io.locks import CLAIMS, POLL, Claims
from salun.models.checkpoint import Checkpoint
from salun.training.progress import Callback, Progress, no_callback
from salun.unlearning.mask import Mask

_LOCAL = "local"

_RUNNING = "auto"

REACHED_WITHIN = 15.0

_UP_WITHIN = 300.0

_LOOK = 1.0

_PAUSE = 0.3

_SECRET = re.compile(r"(KEY|SECRET|TOKEN|PASSWORD)S?$", re.IGNORECASE)

_MISSING = "--ray: Ray is not installed here; pip install 'salun[ray]' does that"

_log = logging.getLogger("salun")


@dataclass(frozen=True)
class RayRequest:
    """What a user asks of Ray.

    Attributes:
        address: of a cluster; empty for one that runs on this machine, or is started on it where none does.
        gpus: share of a GPU for each run; None for a whole one where the cluster has any, else none.
        most: workers at the most; None for as many as find room.
        device: as it was asked for.
    """

    address: str = ""
    gpus: float | None = None
    most: int | None = None
    device: str = "auto"


@dataclass(frozen=True)
class Parcel:
    """An order, and what belongs to it; the worker keeps what it was brought before.

    Attributes:
        order: what to do.
        origin: reference to the base model's origin and, where it is trained already, to the model.
        forget: reference to the indices of a forget set that was read from a file.
        mask: reference to a mask that was read from a file.
    """

    order: Order
    spec: "Stored"
    forget: "Stored | None" = None
    mask: "Stored | None" = None


@dataclass(frozen=True)
class Stored:
    """Something in Ray's object store.

    Attributes:
        name: what a worker remembers it by.
        ref: Ray's reference.
    """

    name: str
    ref: Any


@dataclass(frozen=True)
class _Reply:
    """What a worker says of a parcel.

    Attributes:
        answer: to the order.
        files: of a base model that was trained, by name.
        lacks: why the data cannot be had where the worker is, in one line; elsewhere they may be.
    """

    answer: Answer
    files: dict[str, bytes] = field(default_factory=dict)
    lacks: str | None = None


# In the worker's process


@dataclass
class _Supplied(Workbench):
    """A workbench to which base models, forget sets and masks are brought.

    Attributes:
        parcel: what belongs to the order at hand.
        kept: what was brought so far, by name.
        folder: where a base model that is trained here is written.
    """

    parcel: Parcel | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    folder: Path = Path()

    def brought(self, stored: Stored) -> Any:
        """Fetch something, unless it was brought before."""
        if stored.name not in self.kept:
            import ray

            self.kept[stored.name] = ray.get(stored.ref)
        return self.kept[stored.name]

    def problem(self, experiment: Experiment) -> ForgettingProblem:
        """Put together what an experiment works on."""
        assert self.parcel is not None
        found: tuple[BaseModelSpec, Checkpoint | None] = self.brought(self.parcel.spec)
        spec, checkpoint = found
        dataset = self.dataset(spec.dataset)
        request = experiment.forget
        if self.parcel.forget is not None:
            request = replace(request, indices=self.folder / "forget.json")
            write_text(self.folder / "forget.json", str(self.brought(self.parcel.forget)))
        never = spec.checkpoint.excluded if spec.checkpoint else ()
        split = make_split(dataset, request, spec.split_seed, torch.tensor(never, dtype=torch.int64))
        check_belongs(spec, dataset, split)
        if checkpoint is None:
            spec = replace(spec, path=self.folder / spec.path.name)
        else:
            self.bases[spec.identity] = checkpoint
        mask: Mask | None = None if self.parcel.mask is None else self.brought(self.parcel.mask)
        return ForgettingProblem(spec, dataset, split, mask)


class Hand:
    """What a worker is: an actor with a workbench that stays warm."""

    bench: _Supplied

    def begin(self, setup: Setup, plugins: Mapping[str, bytes], home: str, version: str) -> str | None:
        """Set the worker up.

        Args:
            setup: what it needs.
            plugins: files that are run first, by name.
            home: the folder to work in, where there is such a one here.
            version: of the package that sends orders.

        Returns:
            Why that cannot be, in one line; None where all is well.
        """
        if version != __version__:
            return f"has salun {__version__}, the command {version}"
        for name in filter(is_secret, list(os.environ)):
            del os.environ[name]
        _log.setLevel(logging.ERROR)  # what it warns of the command has told
        with suppress(OSError):
            os.chdir(home)
        if not setup.checkpoints.is_dir():
            setup = replace(setup, save_every=0.0)  # the folder of the command is not to be had here
        try:
            with TemporaryDirectory() as folder:
                files = tuple(Path(folder, name) for name in plugins)
                for file in files:
                    file.write_bytes(plugins[file.name])
                self.bench = _Supplied(**vars(replace(setup, plugins=files).bench()))
        except SalunError as error:
            return one_line(str(error))
        return None

    def do(self, parcel: Parcel, post: Any = None) -> _Reply:
        """Do an order, whatever comes of it.

        Args:
            parcel: the order, and what belongs to it.
            post: an actor that steps are handed to; None where nobody watches.

        Returns:
            What to send home.
        """
        order = parcel.order
        try:
            self.bench.dataset(self.bench.brought(parcel.spec)[0].dataset)
        except SalunError as error:
            return _Reply(Answer(order.id, None), lacks=one_line(str(error)))
        with TemporaryDirectory() as folder:
            self.bench.parcel, self.bench.folder = parcel, Path(folder)
            said = answer(order, self.bench, no_callback if post is None else _posting(post, order.id))
            if isinstance(said.outcome, Outcome):
                self.bench.forget_state(order.id)
            if order.seed is not None or said.outcome is not None:
                return _Reply(said)
            made = sorted(filter(Path.is_file, Path(folder).iterdir()), key=lambda file: file.suffix == ".pt")
            return _Reply(said, {file.name: file.read_bytes() for file in made})  # the model last


def is_secret(name: str) -> bool:
    """Tell whether an environment variable is none of a worker's business; Ray's own are.

    Args:
        name: of the variable.

    Returns:
        Whether it holds a key, a token or a password, by its name.
    """
    return _SECRET.search(name) is not None and not name.startswith("RAY_")


def _posting(post: Any, name: str) -> Callback:
    """Watch a training for the command."""
    latest = -_PAUSE

    def tell(step: Progress) -> None:
        nonlocal latest
        if step.done is not None or time.monotonic() - latest >= _PAUSE:
            post.put_nowait.remote(pickle.dumps((name, step)))
            latest = time.monotonic()

    return tell


# In the command's process


@dataclass(frozen=True)
class _Task:
    """A run that a worker has taken.

    Attributes:
        order: the run.
        problem: what it is done to.
        watch: is told of its steps.
    """

    order: Order
    problem: ForgettingProblem
    callback: Callback

    @property
    def cell(self) -> Cell:
        """Its base model and forget set."""
        return self.problem.spec.identity, self.problem.split.forget_fingerprint

    @property
    def dataset(self) -> str:
        """The name of the data that it needs."""
        return self.problem.spec.dataset


@dataclass
class _Worker:
    """A worker as the command sees it.

    Attributes:
        actor: of Ray.
        node: where it lives.
        call: what it has been asked last and has not answered yet.
        up: whether it came up.
        task: what it is doing.
        cells: base models and forget sets that it has had.
    """

    actor: Any
    node: str
    call: Any
    up: bool = False
    task: _Task | None = None
    cells: set[Cell] = field(default_factory=set)


class Cluster:
    """Does runs in workers of a Ray cluster; a context manager that ends them.

    Attributes:
        bench: of this process.
        request: what was asked of Ray.
        setup: what workers need.
        plugins: files that are run in each, by name.
        size: how many there are at the most.
        workers: those that are up, or coming up.
        unfit: machines that cannot be used.
        lacking: why a data set cannot be had on a machine.
        waiting: runs that no worker does: just taken, or begun by one that was lost or lacked the data.
        lost: ids of runs whose worker was lost.
        stored: what is in Ray's object store, by name.
        post: keeps steps for this process.
    """

    def __init__(self, bench: Workbench, plugins: tuple[Path, ...], request: RayRequest, runs: int) -> None:
        self.bench = bench
        self.request = request
        self.setup = setup_like(bench, (), 1)
        self.plugins = {file.name: file.read_bytes() for file in plugins}
        self.size = min(runs, request.most or runs)
        self.workers: list[_Worker] = []
        self.unfit: set[str] = set()
        self.lacking: dict[tuple[str, str], str] = {}
        self.waiting: list[_Task] = []
        self.lost: set[str] = set()
        self.stored: dict[str, Stored] = {}
        self.post: Any = None
        self.mail: Any = None
        self.opened = False
        self.gpus = 0.0
        self.looked = self.useful = 0.0

    def __enter__(self) -> Self:
        self.opened = connect(self.request.address)
        try:
            self.gpus = gpus_of(self.request, _nodes())
            self.setup = replace(
                self.setup,
                device=device_of(self.request.device, self.gpus),
                data_dir=Path(os.path.abspath(self.bench.data_dir)),
                checkpoints=Path(os.path.abspath(self.bench.checkpoints)),
            )
            with suppress(OSError):
                self.setup.checkpoints.mkdir(parents=True, exist_ok=True)
            self.useful = time.monotonic()
            self.recruit()
            if not self.workers:
                raise SalunError(f"--ray: no machine of the cluster has room for a run, {_need(self.gpus)}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers, and leave the cluster; one that was started by this process ends."""
        import ray

        while self.workers:
            self.dismiss(self.workers[-1])
        if self.post is not None:
            ray.kill(self.post)
        if self.opened:
            ray.shutdown()

    def recruit(self) -> None:
        """Ask for workers wherever there is room for more, on the emptiest machines first."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

        self.looked = time.monotonic()
        room = {node: slots for node, slots in rooms(_nodes(), self.gpus).items() if node not in self.unfit}
        held = {node: sum(worker.node == node for worker in self.workers) for node in room}
        while len(self.workers) < self.size and any(held[node] < room[node] for node in room):
            node = min((node for node in room if held[node] < room[node]), key=lambda name: held[name])
            held[node] += 1
            kind = ray.remote(num_cpus=1, num_gpus=self.gpus, max_restarts=0)(Hand)
            actor = kind.options(scheduling_strategy=On(node, soft=False)).remote()
            setup = replace(self.setup, beside=min(room[node], self.size))
            call = actor.begin.remote(setup, self.plugins, os.getcwd(), __version__)
            self.workers.append(_Worker(actor, node, call))

    def dismiss(self, worker: _Worker) -> None:
        """End a worker at once.

        Args:
            worker: the worker.
        """
        import ray

        self.workers.remove(worker)
        with suppress(ray.exceptions.RayError):
            ray.kill(worker.actor)

    def prepare(self, untrained: Mapping[str, tuple[Experiment, ForgettingProblem]]) -> dict[str, Lost]:
        """Have base models trained on the cluster, side by side, and write them here.

        Args:
            untrained: those that are in no file yet, by identity, with an experiment on each.

        Returns:
            Those that cannot be trained or written, by identity.

        Raises:
            SalunError: no worker can be had.
        """
        left, barren = dict(untrained), {}
        with Claims(self.bench.checkpoints / CLAIMS) as claims:
            while left or self.busy():
                self.hand_out_bases(left, claims)
                if self.busy():
                    identity, outcome = self.answered()
                    claims.release(untrained[identity][1].spec.path.name)
                    if isinstance(outcome, Lost):
                        barren[identity] = outcome
                elif left:
                    time.sleep(POLL)  # the rest is other processes'
        return barren

    def hand_out_bases(self, left: dict[str, tuple[Experiment, ForgettingProblem]], claims: Claims) -> None:
        """Hand base models to the free workers, but for those that another process trains at this moment.

        Args:
            left: base models that are to be trained; loses those that are handed out, and those that are there by now.
            claims: of the folder where they are kept.
        """
        for identity, (experiment, problem) in list(left.items()):
            path = problem.spec.path
            if path.exists():
                del left[identity]
            elif self.free() and claims.take(path.name):
                del left[identity]
                if path.exists():
                    claims.release(path.name)
                else:
                    self.take(Order(experiment, None, identity), problem, self.bench.on_base(problem.spec))

    def free(self) -> bool:
        """Tell whether another run can be taken; where there is nobody at all, wait until there is.

        Returns:
            Whether there is a worker, up or coming up, for whom nothing waits.

        Raises:
            SalunError: no worker can be had.
        """
        while not (self.workers or self.busy()):
            self.listen()
        return len(self.waiting) < sum(worker.task is None for worker in self.workers)

    def idle(self) -> list[_Worker]:
        """List the workers that have nothing to do.

        Returns:
            Workers that are up.
        """
        return [worker for worker in self.workers if worker.up and worker.task is None]

    def busy(self) -> bool:
        """Tell whether anything is under way.

        Returns:
            Whether a run was taken and is not over.
        """
        return bool(self.waiting) or any(worker.task for worker in self.workers)

    def rank(self, cell: Cell) -> int:
        """Tell how well a run would fit now: workers keep what they compute of base models and forget sets.

        Args:
            cell: base model and forget set.

        Returns:
            0 where a free worker has had them, 1 where none has, 2 where another worker has.
        """
        if any(cell in worker.cells for worker in self.idle()):
            return 0
        return 2 if any(cell in worker.cells for worker in self.workers) else 1

    def take(self, order: Order, problem: ForgettingProblem, callback: Callback) -> None:
        """Hand a run to the free worker that it fits best, or to the next that comes up.

        Args:
            order: the run.
            problem: what it is done to.
            watch: is told of its steps.
        """
        self.waiting.append(_Task(replace(order, watched=callback is not no_callback), problem, callback))
        self.hand_out()

    def hand_out(self) -> None:
        """Hand the runs that wait, with all that belongs to them, to the free workers that they fit best."""
        for task in list(self.waiting):
            able = [worker for worker in self.able(task) if worker in self.idle()]
            if not able:
                continue
            self.waiting.remove(task)
            worker = min(able, key=lambda idle: task.cell not in idle.cells)
            worker.task = task
            worker.cells.add(task.cell)
            worker.call = worker.actor.do.remote(self.parcel(task), self.listener() if task.order.watched else None)

    def able(self, task: _Task) -> list[_Worker]:
        """List the workers that can do a run.

        Args:
            task: the run.

        Returns:
            Those on machines that are not known to lack its data.
        """
        return [worker for worker in self.workers if (worker.node, task.dataset) not in self.lacking]

    def parcel(self, task: _Task) -> Parcel:
        """Pack a run.

        Args:
            task: the run.

        Returns:
            The order, and references to what belongs to it; each is stored once.
        """
        order, problem = task.order, task.problem
        spec, experiment = problem.spec, order.experiment
        if order.seed is None:
            return Parcel(order, self.store(f"untrained {spec.identity}", (spec, None)))
        forget = mask = None
        if experiment.forget.indices is not None:
            forget = self.store(f"forget {problem.split.forget_fingerprint}", problem.split.listed.tolist())
        if experiment.mask is not None and problem.mask is not None:
            mask = self.store(f"mask {experiment.mask.file}", problem.mask)
        return Parcel(order, self.base(problem), forget, mask)

    def base(self, problem: ForgettingProblem) -> Stored:
        """Store a base model, without what only its training needs.

        Args:
            problem: its origin tells which.

        Returns:
            Where origin and model are.
        """
        spec = problem.spec
        if spec.identity in self.stored:
            return self.stored[spec.identity]
        checkpoint = replace(self.bench.base(problem), optimizer=None)
        return self.store(spec.identity, (replace(spec, checkpoint=spec.checkpoint and checkpoint), checkpoint))

    def store(self, name: str, thing: Any) -> Stored:
        """Put something into Ray's object store, unless it is there.

        Args:
            name: of the thing.
            thing: that pickle can take.

        Returns:
            Where it is.
        """
        import ray

        if name not in self.stored:
            self.stored[name] = Stored(name, ray.put(thing))
        return self.stored[name]

    def listener(self) -> Any:
        """Open the letter box for the steps of all runs, once.

        Returns:
            The actor that keeps them.
        """
        if self.post is None:
            from ray.util.queue import Queue

            self.post = Queue(actor_options={"num_cpus": 0}).actor
            self.mail = self.post.get.remote()
        return self.post

    def finished(self) -> tuple[str, Outcome | Lost]:
        """Wait until one of the runs taken is over, and show the progress of all meanwhile.

        Returns:
            Its id and what came of it.

        Raises:
            SalunError: no worker can be had.
        """
        name, outcome = self.answered()
        assert outcome is not None
        return name, outcome

    def answered(self) -> tuple[str, Outcome | Lost | None]:
        """Wait until one of the orders given is answered.

        Returns:
            Its id and what came of it.

        Raises:
            SalunError: no worker can be had.
        """
        while True:
            self.hand_out()
            said = self.given_up() or self.listen()
            if said is not None:
                return said.id, said.outcome

    def given_up(self) -> Answer | None:
        """Give up a run whose data are on none of the machines.

        Returns:
            The answer to its order; None where there is no such run.
        """
        for task in self.waiting:
            reasons = [reason for (_, name), reason in self.lacking.items() if name == task.dataset]
            if self.workers and reasons and not self.able(task):
                self.waiting.remove(task)
                return Answer(task.order.id, Lost(reasons[-1]))
        return None

    def listen(self) -> Answer | None:
        """Hear what is said next, by a worker or the letter box, and look for room for more workers now and then.

        Returns:
            The answer to an order, if that is what is said.

        Raises:
            SalunError: no worker can be had.
        """
        import ray

        if time.monotonic() - self.looked >= _LOOK:
            self.recruit()
        self.check_useful()
        calls = {worker.call: worker for worker in self.workers if worker.call is not None}
        asked = [*([] if self.mail is None else [self.mail]), *calls]  # steps first: after its end a run has none
        if not asked:
            time.sleep(_LOOK)
            return None
        ready, _ = ray.wait(asked, timeout=_LOOK)
        for call in ready:
            if call in calls:
                return self.hear(calls[call])
            self.show_steps()
        return None

    def check_useful(self) -> None:
        """Give up where no worker has been up for long.

        Raises:
            SalunError: that is so.
        """
        if any(worker.up for worker in self.workers):
            self.useful = time.monotonic()
        elif time.monotonic() - self.useful > _UP_WITHIN:
            reason = f"no worker came up within {_UP_WITHIN:.0f} s; each asks for a free {_need(self.gpus)}"
            raise SalunError(f"--ray: {reason}; the same command goes on from what is recorded")

    def show_steps(self) -> None:
        """Show a step of a run that is still under way."""
        import ray

        try:
            name, step = pickle.loads(ray.get(self.mail))
        except ray.exceptions.RayError:  # the letter box was lost with its machine; runs do without
            self.mail = None
            return
        self.mail = self.post.get.remote()
        for worker in self.workers:
            if worker.task is not None and worker.task.order.id == name:
                worker.task.callback(step)

    def hear(self, worker: _Worker) -> Answer | None:
        """Hear what a worker says.

        Args:
            worker: who says something, or was lost.

        Returns:
            The answer to its order, if that is what it says.

        Raises:
            SalunError: no worker can be had.
        """
        import ray

        call, worker.call = worker.call, None
        try:
            said: _Reply | str | None = ray.get(call)
        except ray.exceptions.RayError as error:
            return self.bury(worker, error)
        if isinstance(said, _Reply):
            return self.accept(worker, said)
        if said is None:
            worker.up = True
        else:
            self.avoid(worker, said)
        return None

    def accept(self, worker: _Worker, reply: _Reply) -> Answer | None:
        """Take what a worker brings.

        Args:
            worker: who brings it.
            reply: what it brings.

        Returns:
            The answer; None where another worker is to do the run.
        """
        task, worker.task = worker.task, None
        assert task is not None
        if reply.lacks is not None:
            self.lacking[worker.node, task.dataset] = f"on {_address_of(worker.node)}: {reply.lacks}"
            self.waiting.append(task)
            return None
        if reply.answer.worn:
            self.dismiss(worker)
        try:
            for name, content in reply.files.items():
                with replacing(task.problem.spec.path.with_name(name)) as temporary:
                    temporary.write_bytes(content)
        except SalunError as error:
            return Answer(task.order.id, Lost(one_line(str(error))))
        return reply.answer

    def avoid(self, worker: _Worker, reason: str) -> None:
        """Use a machine no longer.

        Args:
            worker: that found out.
            reason: why it cannot be used.

        Raises:
            SalunError: no machine is left.
        """
        place, known = _address_of(worker.node), worker.node in self.unfit
        self.unfit.add(worker.node)
        self.dismiss(worker)
        self.recruit()
        if not self.workers:
            raise SalunError(f"--ray: machine {place} cannot be used, and no other is left: {reason}")
        if not known:
            _log.warning("--ray: machine %s is not used: %s", place, reason)

    def bury(self, worker: _Worker, error: Exception) -> Answer | None:
        """Take a worker away that was lost, and have what it was doing done again, once.

        Args:
            worker: the worker.
            error: Ray's.

        Returns:
            The answer that it did not give any more, where the run was lost once before.
        """
        reason = f"its worker on {_address_of(worker.node)} was lost ({type(error).__name__})"
        self.dismiss(worker)
        task = worker.task
        if task is None:
            return None
        if task.order.id in self.lost:
            return Answer(task.order.id, Lost(f"{reason}, the second time"))
        self.lost.add(task.order.id)
        self.waiting.append(task)
        return None


def rooms(found: list[dict[str, Any]], gpus: float) -> dict[str, int]:
    """Count how many runs find room on each machine of a cluster.

    Args:
        found: machines as Ray lists them.
        gpus: share of a GPU that a run needs; each needs a CPU too.

    Returns:
        Runs side by side, by machine; of those that have room for any.
    """
    room = {}
    for node in found:
        resources = node["Resources"] if node["Alive"] else {}
        slots = int(resources.get("CPU", 0))
        if gpus > 0:
            slots = min(slots, int(resources.get("GPU", 0)) * floor(1 / gpus + 1e-6))
        if slots > 0:
            room[str(node["NodeID"])] = slots
    return room


def gpus_of(request: RayRequest, found: list[dict[str, Any]]) -> float:
    """Settle which share of a GPU a run gets.

    Args:
        request: what was asked of Ray.
        found: machines as Ray lists them.

    Returns:
        As asked for; else 1 where there is any GPU and the CPU was not asked for, else 0.

    Raises:
        SalunError: device and share do not go together, or the cluster has no GPU.
    """
    there = any(node["Alive"] and node["Resources"].get("GPU", 0) for node in found)
    if request.device in ("cpu", "mps"):
        if request.gpus:
            raise SalunError(f"--gpus-per-run {request.gpus:g}: does not go with --device {request.device}")
        return 0.0
    wanted = request.gpus if request.gpus is not None else float(there or request.device != "auto")
    if wanted and not there:
        raise SalunError("--ray: no machine of the cluster has a GPU; --gpus-per-run 0 --device cpu goes without")
    if not wanted and request.device != "auto":
        raise SalunError(f"--gpus-per-run 0: does not go with --device {request.device}")
    return wanted


def device_of(asked: str, gpus: float) -> str:
    """Name the device of workers.

    Args:
        asked: on the command line; which GPU it is Ray decides.
        gpus: share of one that each has.

    Returns:
        The name.
    """
    if gpus:
        return "cuda"
    return "mps" if asked == "mps" else "cpu"


def _need(gpus: float) -> str:
    """Say what a run needs."""
    return f"CPU and {gpus:g} GPU" if gpus else "CPU"


def _nodes() -> list[dict[str, Any]]:
    """List the machines of the cluster."""
    import ray

    return list(ray.nodes())


def _address_of(node: str) -> str:
    """Name a machine so that a user finds it."""
    return next((str(found["NodeManagerAddress"]) for found in _nodes() if found["NodeID"] == node), node)


def connect(address: str) -> bool:
    """Connect this process to a cluster, or start one.

    Args:
        address: of the cluster; "local" starts one; empty takes that of `RAY_ADDRESS`, else one that runs on this
            machine, else starts one.

    Returns:
        Whether this process was not connected before.

    Raises:
        SalunError: Ray is not installed, or the cluster cannot be reached.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # read at import; else Ray prints of each worker lost
    try:
        import ray
    except ImportError as error:
        raise SalunError(_MISSING) from error
    if ray.is_initialized():
        return False
    wanted = address or os.environ.get("RAY_ADDRESS", "") or _RUNNING
    if wanted != _LOCAL and (reason := _unreachable(wanted)) is not None:
        if wanted != _RUNNING or address:
            raise SalunError(f"--ray {wanted}: {reason}")
        wanted = _LOCAL
    with _quietly():
        try:
            ray.init(wanted, log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
        except Exception as error:  # Ray raises errors of all kinds, and each is about the cluster
            raise SalunError(f"--ray {wanted}: {one_line(str(error))}") from error
    return True


def _unreachable(address: str) -> str | None:
    """Try to connect to a cluster in a process of its own, since Ray itself tries for minutes."""
    code = "import ray, sys; ray.init(sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    command = [sys.executable, "-c", code, address]
    try:
        tried = subprocess.run(command, capture_output=True, text=True, timeout=REACHED_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        return f"no Ray cluster answers within {REACHED_WITHIN:.0f} s"
    if tried.returncode == 0:
        return None
    if address == _RUNNING:
        return "no Ray cluster runs on this machine"
    return one_line((tried.stderr.strip() or "cannot be reached").splitlines()[-1])


@contextmanager
def _quietly() -> Iterator[None]:
    """Start or join Ray so that it says nothing, reports to nobody, learns no secrets, and leaves SIGTERM alone."""
    kept = dict(os.environ)
    handler = signal.getsignal(signal.SIGTERM)
    for name in filter(is_secret, kept):
        del os.environ[name]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        yield
    finally:
        del os.environ["RAY_USAGE_STATS_ENABLED"]
        os.environ.update(kept)
        if current_thread() is main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)
