import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lists import BASE, CPU, RECORDS, SMALL, WEIGHTS, do, planned, runner, train_small
from plugins import forgotten

from salun import __version__
from salun.errors import SalunError
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.executors.executor import Order, Outcome, RunFailure, setup_like
from salun.experiments.executors.ray import (
    Hand,
    Parcel,
    RayRequest,
    Stored,
    connect,
    device_of,
    gpus_of,
    is_secret,
    rooms,
)
from salun.experiments.plan import Job
from salun.experiments.plugins import load_plugins
from salun.experiments.records import read
from salun.experiments.runner import Runner
from salun.models.architecture import TINY
from salun.models.checkpoint import load_checkpoint, save_checkpoint
from salun.training.progress import Callback, Progress
from salun.unlearning.mask import save_mask

OWN = {"checkpoint": None, "model": TINY, "dataset": SMALL, "recipe": {"epochs": 1, "batch_size": 32}, "method": "ft"}
BARE = OWN | {"epochs": None}
TIMES = {"seconds", "peak_memory", "finished", "device", "revision", "curve", "digest"}
PLUGIN = '''
import os
import signal
import time
from pathlib import Path

import torch.nn.functional as F

from salun.unlearning import Task, method

HERE = Path("{here}")


def place() -> str:
    """The machine of the cluster, where this is one."""
    import ray

    return ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""


def ascend(task: Task) -> None:
    ascent = lambda logits, batch: -F.cross_entropy(logits, batch.y)
    task.fit(lambda epoch: task.forget.batches(64, task.generator), epochs=1, lr=1e-3, loss=ascent)


@method()
def held(task: Task) -> None:
    """Forget, a little; on a machine that is to be lost without end, on others not before it begins there."""
    with (HERE / "begun").open("a") as file:
        print(task.generator.initial_seed(), place(), sorted(os.environ), file=file, flush=True)
    ascend(task)
    time.sleep(0.5)
    doomed = HERE / "doomed"
    while doomed.exists() and (doomed.read_text() == place() or doomed.read_text() not in (HERE / "begun").read_text()):
        time.sleep(0.05)


@method()
def raising(task: Task) -> None:
    """Raise, where this is a cluster."""
    if place():
        raise ValueError("will not")
    ascend(task)


@method()
def dying(task: Task) -> None:
    """End the process, where this is a cluster."""
    if place():
        os.kill(os.getpid(), signal.SIGKILL)
    ascend(task)
'''


class Seen:
    """Watches several runs at a time."""

    def __init__(self) -> None:
        self.steps: dict[str, list[Progress]] = {}

    def callback(self, job: Job) -> Callback:
        return self.steps.setdefault(job.id, []).append


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[Path]:
    """A file of methods that know whether they run on a cluster."""
    path = tmp_path / "elsewhere.py"
    path.write_text(PLUGIN.replace("{here}", str(tmp_path)))
    with forgotten():
        load_plugins([path])
        yield path


def on_ray(address: str, plugins: tuple[Path, ...] = ()) -> Runner:
    """A runner of a cluster that keeps all weights."""
    return replace(runner("all"), plugins=plugins, ray=RayRequest(address, device="cpu"))


def results() -> dict[str, tuple[Any, ...]]:
    """What is recorded and kept of each run, but for times; each run has one record."""
    kept = {path.stem[-8:]: load_checkpoint(path).fingerprint for path in WEIGHTS.glob("*.pt")}
    lines = [json.loads(line)["id"] for line in RECORDS.read_text().splitlines()]
    assert len(lines) == len(set(lines))
    return {
        name: (
            {key: value for key, value in asdict(record).items() if key not in TIMES},
            [(point.epoch, point.loss, point.accuracy, point.lr) for point in record.curve],
            kept[name[:8]],
        )
        for name, record in read(RECORDS)[0].items()
    }


def done_again(jobs: Callable[[], list[Job]]) -> dict[str, tuple[Any, ...]]:
    """The same runs in turn, with nothing left of those before but what the user wrote."""
    shutil.rmtree(RECORDS.parent)
    shutil.rmtree(WEIGHTS)
    for path in Path("checkpoints").glob(f"{TINY}*"):
        path.unlink()
    do(jobs(), keep="all")
    return results()


def node(cpus: float, gpus: float = 0.0, alive: bool = True) -> dict[str, Any]:
    return {"NodeID": f"{cpus:g}-{gpus:g}", "Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus, "memory": 1e9}}


def test_machines_have_room_by_cpus_and_shares_of_gpus() -> None:
    found = [node(4), node(8, 2), node(2, 4), node(16, 1, alive=False)]
    assert rooms(found, 0) == {"4-0": 4, "8-2": 8, "2-4": 2}
    assert rooms(found, 1) == {"8-2": 2, "2-4": 2}
    assert rooms(found, 0.25) == {"8-2": 8, "2-4": 2}
    assert rooms([node(64, 4)], 1 / 3) == {"64-4": 12}
    assert rooms([node(64, 4)], 0.4) == {"64-4": 8}
    assert rooms([node(0, 4)], 0) == {}


@pytest.mark.parametrize(
    ("asked", "share", "there", "given"),
    [
        ("auto", None, 0, (0, "cpu")),
        ("auto", None, 2, (1, "cuda")),
        ("auto", 0.25, 2, (0.25, "cuda")),
        ("auto", 0.0, 2, (0, "cpu")),
        ("cpu", None, 2, (0, "cpu")),
        ("cuda:1", None, 2, (1, "cuda")),
        ("mps", None, 0, (0, "mps")),
    ],
)
def test_runs_have_a_gpu_where_there_is_one(
    asked: str, share: float | None, there: int, given: tuple[float, str]
) -> None:
    gpus = gpus_of(RayRequest(gpus=share, device=asked), [node(4), node(8, there)])
    assert (gpus, device_of(asked, gpus)) == given


@pytest.mark.parametrize(
    ("asked", "share", "there", "reason"),
    [
        ("cpu", 0.5, 2, "--gpus-per-run 0.5: does not go with --device cpu"),
        ("cuda", 0.0, 2, "--gpus-per-run 0: does not go with --device cuda"),
        ("auto", 1.0, 0, "no machine of the cluster has a GPU"),
        ("cuda", None, 0, "no machine of the cluster has a GPU"),
    ],
)
def test_devices_that_cannot_be_are_refused(asked: str, share: float | None, there: int, reason: str) -> None:
    with pytest.raises(SalunError, match=reason):
        gpus_of(RayRequest(gpus=share, device=asked), [node(8, there)])


def test_keys_and_tokens_are_no_business_of_workers() -> None:
    kept = ["WANDB_API_KEY", "WANDB_SECRET", "HF_TOKEN", "my_password", "RAY_AUTH_TOKEN", "PATH", "KEYBOARD", "HOME"]
    assert [name for name in kept if is_secret(name)] == kept[:4]


def begun(monkeypatch: pytest.MonkeyPatch, plugins: tuple[Path, ...] = ()) -> Hand:
    """A worker without Ray, which changes no more of this process than it must."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(logging.getLogger("salun"), "level", logging.NOTSET)
    hand = Hand()
    contents = {path.name: path.read_bytes() for path in plugins}
    assert hand.begin(setup_like(ModelCache(RunContext(CPU)), (), 1), contents, "nowhere", __version__) is None
    return hand


def packed(hand: Hand, job: Job, **more: Stored) -> Parcel:
    """What a worker is brought of a run; what it consists of is there already."""
    base = Stored("base", None)
    hand.cache.kept["base"] = (job.problem.spec, ModelCache(RunContext(CPU)).base(job.problem))
    return Parcel(Order(job.experiment, job.seed, job.id), base, **more)


def test_a_worker_needs_no_file_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(Path(BASE), small := train_small())
    Path("forget.json").write_text("[1, 2, 3]")
    mask = {name: torch.rand_like(weight) > 0.5 for name, weight in small.restore().named_parameters()}
    save_mask(Path("half.mask"), mask)
    entry = {"class_to_forget": None, "idxs_to_forget": "forget.json", "load_mask": "half.mask", "method": "ft"}
    (job,) = planned(entry)
    do([job])
    for path in (BASE, "forget.json", "half.mask"):
        Path(path).unlink()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    hand = begun(monkeypatch)
    hand.cache.kept |= {"forget": [1, 2, 3], "mask": job.problem.mask}
    parcel = packed(hand, job, forget=Stored("forget", None), mask=Stored("mask", None))
    outcome = hand.do(parcel).answer.outcome
    assert isinstance(outcome, Outcome)
    alone = read(tmp_path / RECORDS)[0][job.id]
    here, there = (replace(record, **dict.fromkeys(TIMES)) for record in (alone, outcome.record))  # type: ignore
    assert here == there
    hand.cache.kept["forget"] = [1, 2, 4]
    other = hand.do(parcel).answer.outcome
    assert other == RunFailure(f"{BASE}: base model, data or mask have changed since the command began")
    assert not list(Path().rglob("*"))


def test_a_worker_of_another_version_does_not_begin() -> None:
    assert (
        Hand().begin(setup_like(ModelCache(RunContext(CPU)), (), 1), {}, ".", "0")
        == f"has salun {__version__}, the command 0"
    )


def test_a_worker_without_its_device_or_plugin_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    begun(monkeypatch)
    setup = setup_like(ModelCache(RunContext(CPU)), (), 1)
    reason = Hand().begin(replace(setup, device="nothing"), {}, ".", __version__)
    assert reason == "--device nothing: unknown; accepted: auto, cpu, cuda, cuda:N, mps"
    assert "wrong.py" in str(Hand().begin(setup, {"wrong.py": b"1 / 0"}, ".", __version__))


def test_a_worker_without_the_data_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(Path(BASE), train_small())
    (job,) = planned({})
    hand = begun(monkeypatch)
    parcel = packed(hand, job)
    hand.cache.kept["base"] = (replace(job.problem.spec, dataset="folder:nowhere"), None)
    reply = hand.do(parcel)
    assert "folder:nowhere" in str(reply.lacks)
    assert reply.answer.outcome is None


@pytest.mark.parametrize("address", ["127.0.0.1:1", "auto"])
def test_a_cluster_that_is_not_there_is_one_line(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salun.experiments.executors.ray.REACHED_WITHIN", 4.0)
    with pytest.raises(SalunError, match=f"^--ray {address}: no Ray cluster [^\n]*$"):
        connect(address)


def test_runs_on_ray_give_what_they_give_in_turn(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Ray of this machine alone, which is started and ended."""
    import ray

    monkeypatch.setenv("WANDB_API_KEY", "hidden")

    def jobs() -> list[Job]:
        return planned(BARE | {"method": "retrain"}, OWN, BARE | {"method": "held"})

    seen = Seen()
    assert len(list(on_ray("local", (plugin,)).run(jobs(), seen.callback))) == 3
    assert not ray.is_initialized()
    assert os.environ["WANDB_API_KEY"] == "hidden"
    (told,) = Path("begun").read_text().splitlines()
    assert "WANDB_API_KEY" not in told
    assert "RAY_" in told
    (job,) = [job for job in jobs() if job.experiment.method == "held"]
    assert all(step.images for step in seen.steps[job.id])
    assert seen.steps[job.id]
    found = results()
    assert len(found) == 3
    assert done_again(jobs) == found


@pytest.mark.slow
def test_a_machine_that_is_lost_in_mid_list_costs_no_run(plugin: Path, tmp_path: Path) -> None:
    """Two machines, of which one dies with a run under way there, and methods that fail and kill their worker: 50 s."""
    import ray
    from ray.cluster_utils import Cluster

    def jobs() -> list[Job]:
        held = [BARE | {"method": method} for method in ("held", "retrain")]
        return [*planned(*held, runs=3), *planned(BARE | {"method": "raising"}, BARE | {"method": "dying"})]

    small = {"num_cpus": 1, "object_store_memory": 2**27}
    cluster = Cluster(initialize_head=True, head_node_args=small | {"include_dashboard": False})
    try:
        other = cluster.add_node(**small)
        doomed = tmp_path / "doomed"
        doomed.write_text(other.node_id)
        done: list[tuple[Job, Any]] = []
        with closing(on_ray(cluster.address, (plugin,)).run(jobs(), Seen().callback)) as runs:
            for ended in runs:
                done.append(ended)
                if doomed.exists():
                    assert other.node_id in Path("begun").read_text()
                    cluster.remove_node(other, allow_graceful=False)
                    doomed.unlink()
        assert not ray.is_initialized()
    finally:
        cluster.shutdown()
    lost = {job.experiment.method: outcome.reason for job, outcome in done if isinstance(outcome, RunFailure)}
    assert len(done) == 8
    assert lost.keys() == {"raising", "dying"}
    assert lost["raising"].startswith("ValueError: will not (")
    assert lost["dying"].endswith(" was lost (ActorDiedError), the second time")
    seeds = [line.split()[0] for line in Path("begun").read_text().splitlines()]
    assert sorted(map(seeds.count, set(seeds))) == [1, 1, 2]
    found = results()
    assert len(found) == 6
    again = done_again(jobs)
    assert {name: again[name] for name in found} == found
