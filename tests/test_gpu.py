from pathlib import Path

import numpy as np
import pytest
import torch
from clouds import make_features

from salun.data.sets import to_device
from salun.data.sources import load
from salun.device import pick_device
from salun.experiment import validate
from salun.latent.embedding import directions, trustworthy
from salun.latent.extraction import choose, extract, read_model, source_of
from salun.latent.tsne import in_plane
from salun.models import Architecture, Checkpoint, build, save_checkpoint
from salun.run import Workbench

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
        bench = Workbench(pick_device("cuda"), tmp_path / "data", tmp_path / place)
        record, checkpoint = bench.run(experiment, bench.problem(experiment), 3)
        assert record.device.startswith("cuda")
        found.append((record.metrics | {"RTE": None}, checkpoint.weights))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(found[0][1][name], found[1][1][name]) for name in found[0][1])


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


@pytest.mark.gpu
def test_exact_t_sne_keeps_neighbours_on_cuda() -> None:
    points = directions(make_features(1000).features, 10)
    embedded = in_plane(points, 30, 0, "torch", "cuda")
    assert np.array_equal(embedded, in_plane(points, 30, 0, "torch", "cuda"))
    assert trustworthy(points, embedded) > trustworthy(points, in_plane(points, 30, 0, "opentsne")) - 0.01


def write_folder(folder: Path) -> Path:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(100):
            pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(folder / label / f"{number}.png")
    return folder
