from pathlib import Path

import pytest
import torch

from salun.device import pick_device
from salun.experiment import validate
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


def write_folder(folder: Path) -> Path:
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label in ("a", "b"):
        (folder / label).mkdir(parents=True)
        for number in range(100):
            pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=generator)
            Image.fromarray(pixels.numpy()).save(folder / label / f"{number}.png")
    return folder
