"""`exp/imagenet_random10.json` from end to end, on a folder of ImageNet's shape and two small models of timm."""

import json
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from pictures import draw_many

from salun.cli.unlearn import main as unlearn
from salun.experiments import records

SMALL = {"resnet50": "test_resnet", "vit_small_patch16_224": "test_vit"}
LIST = Path(__file__).resolve().parents[2] / "exp/imagenet_random10.json"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of downloaded weights that holds some of both models."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in SMALL.values():
        folder = tmp_path / "hub" / f"models--{timm.get_pretrained_cfg(name).hf_hub_id.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text("0" * 40)
        (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
        torch.manual_seed(0)
        state = timm.create_model(name).state_dict()
        safetensors.torch.save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")


@pytest.mark.slow
@pytest.mark.usefixtures("weights")
def test_the_list_runs_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("salun.data.stream.decoders", lambda: 2)
    draw_many(Path("data/imagenet"), {"train": 2, "val": 1}, classes=1000)
    entries = json.loads(LIST.read_text())
    for entry in entries:
        entry["model"] = SMALL[entry["model"]]
        entry["recipe"]["epochs"] = 1
    Path("imagenet.json").write_text(json.dumps(entries))
    assert unlearn(["-L", "imagenet.json", "--nexp", "1", "--device", "cpu", "-NL"]) == 0
    found = [*records.read(Path("runs/imagenet/records.jsonl"))[0].values()]
    assert len(found) == len(entries)
    for record in found:
        assert (record.split["forget"], record.split["retain"], record.split["test"]) == (200, 1800, 1000)
        assert all(np.isfinite(record.metrics[name]) for name in ("UA", "RA", "TA", "MIA"))
    outputs = [*Path("runs/imagenet/outputs").glob("*.npz")]
    assert outputs
    with np.load(outputs[0], allow_pickle=False) as arrays:
        assert arrays["retain/logits"].dtype == np.float16
        assert arrays["test/logits"].shape == (1000, 1000)
