from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from salun.data.images import Batch
from salun.data.sets import make_sets, prepare, to_device
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split
from salun.device import pick_device, placed, seeded
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.runner import run_experiment
from salun.experiments.schema import validate
from salun.latent.extraction import choose, extract, read_model, source_of
from salun.models.architecture import TINY, Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, save_checkpoint
from salun.training import step as step_module
from salun.training.cost import PassCounter
from salun.training.cuda_graph import CudaGraphStep
from salun.training.loop import fit
from salun.training.progress import Epoch
from salun.training.recipe import TrainingConfig
from salun.training.runtime import Runtime
from salun.unlearning.mask import masked_updates, saliency

RECIPE = {"epochs": 1, "batch_size": 64, "precision": "bf16"}


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["resnet_tiny", "resnet18", "vgg16_bn", "vit_tiny_patch16_224"])
@pytest.mark.parametrize("mapped", [False, True])
def test_same_seed_same_bits_on_cuda(model: str, mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = "synthetic:n=600,size=32"
    if mapped:
        dataset = f"folder:{write_folder(tmp_path / 'images')}"
        monkeypatch.setenv("SALUN_MEMORY_LIMIT", "1")
    entry = {"model": model, "dataset": dataset, "recipe": RECIPE, "class_to_forget": 0, "method": "rl_split"}
    (experiment,) = validate([entry | {"epochs": 1, "use_mask": True, "grad_clip": 1.0}], "list")
    found = []
    for place in ("first", "second"):
        cache = ModelCache(RunContext(pick_device("cuda", deterministic=True), tmp_path / "data", tmp_path / place))
        result = run_experiment(experiment, 3, cache)
        assert result.record.device.startswith("cuda")
        found.append((result.record.metrics | {"RTE": None}, result.checkpoint.weights))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


def trained_steps(
    recorded: bool, optimizer: str, precision: str, grad_clip: float | None, masked: bool
) -> tuple[list[Epoch], dict[str, torch.Tensor], int, bool]:
    """Train for two epochs of 40 steps and a smaller one, and say what came of it, and whether a step was recorded."""
    device = pick_device("cuda", deterministic=True)
    dataset = to_device(load("synthetic:n=1200,size=32,noise=0.3"), device)
    parts = make_split(dataset, ForgetRequest(classes=(0,)))
    sets = make_sets(dataset, parts, replace(prepare(dataset, parts), padding=4, flip=True), device)
    torch.manual_seed(0)
    model, passes = placed(build(Architecture(TINY, 10, 3, 32)), device), PassCounter()
    taken, generator = sets.train.take(torch.arange(16 * 40 + 5)), seeded(0, device)
    mask = saliency(model, sets.forget, 0.5) if masked else {}
    made: list[CudaGraphStep] = []

    class Noted(CudaGraphStep):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)
            made.append(self)

    with pytest.MonkeyPatch.context() as patch, passes.counting(model), masked_updates(model, mask) as hold:
        patch.setattr(step_module, "CudaGraphStep", Noted)
        lr = 2**-7  # as exact on the device, where a recorded step reads it in float32
        config = TrainingConfig(lr, 2, optimizer=optimizer, schedule="cosine", grad_clip=grad_clip)
        runtime = Runtime(precision, cuda_graphs=recorded, passes=passes, hold=hold)
        curve, _ = fit(model, lambda epoch: taken.batches(16, generator), config, runtime)
    return curve, {name: tensor.cpu() for name, tensor in model.state_dict().items()}, passes.total, bool(made)


@pytest.mark.gpu
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(
    ("optimizer", "precision", "grad_clip"),
    [("sgd", "bf16", None), ("sgd", "float32", 1.0), ("adam", "bf16", 1.0), ("adamw", "float32", None)],
)
def test_recorded_steps_equal_steps_one_by_one(
    optimizer: str, precision: str, grad_clip: float | None, masked: bool
) -> None:
    plain, found = (trained_steps(recorded, optimizer, precision, grad_clip, masked) for recorded in (False, True))
    assert (plain[3], found[3]) == (False, True)
    assert plain[2] == found[2] == 2 * 2 * (16 * 40 + 5)
    for one, other in zip(plain[0], found[0], strict=True):
        assert (one.epoch, one.lr) == (other.epoch, other.lr)
        assert other.loss == pytest.approx(one.loss, rel=1e-3)
    for name, tensor in plain[1].items():
        assert torch.allclose(found[1][name].float(), tensor.float(), rtol=1e-2, atol=1e-3), name


@pytest.mark.gpu
def test_an_epoch_reads_nothing_back_from_the_device() -> None:
    device = pick_device("cuda")
    dataset = to_device(load("synthetic:n=600,size=32"), device)
    parts = make_split(dataset, ForgetRequest(classes=(0,)))
    sets = make_sets(dataset, parts, replace(prepare(dataset, parts), padding=4, flip=True), device)
    model, generator = placed(build(Architecture(TINY, 10, 3, 32)), device), seeded(0, device)

    def watched(epoch: int) -> Iterator[Batch]:
        for number, batch in enumerate(sets.train.batches(16, generator)):
            torch.cuda.set_sync_debug_mode("error" if 0 < number < 15 else "default")
            yield batch
        torch.cuda.set_sync_debug_mode("default")

    curve, _ = fit(model, watched, TrainingConfig(epochs=2, lr=0.01), Runtime(precision="bf16"))
    assert len(curve) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("model", ["resnet18", "vit_tiny_patch16_224"])
def test_features_do_not_depend_on_device_or_batch_size(model: str, tmp_path: Path) -> None:
    dataset = load("synthetic:n=120,size=32")
    torch.manual_seed(0)
    architecture = Architecture(model, 10, 3, 32)
    save_checkpoint(tmp_path / "m.pt", Checkpoint(build(architecture).state_dict(), architecture, dataset.name))
    found = read_model(tmp_path / "m.pt")
    features = []
    for device, batch_size in ((torch.device("cpu"), 32), (pick_device("cuda"), 1), (pick_device("cuda"), 1000)):
        sample = choose(to_device(dataset, device), [found], "train", 100)
        source = source_of(found, sample, "pre-head", found.path)
        images, marks = sample.images(found, device), sample.forgotten(found)
        features.append(extract(found.restore(device), images, marks, dataset.classes, source, batch_size).features)
    assert features[1] == pytest.approx(features[2], abs=1e-5)
    assert features[0] == pytest.approx(features[1], abs=1e-3)


def write_folder(folder: Path) -> Path:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(100):
            pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(folder / label / f"{number}.png")
    return folder
