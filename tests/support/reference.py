"""The reference values, and the small network that they were made with."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from salun.data.images import Images

FOLDER = Path(os.environ.get("SALUN_GOLDEN", Path(__file__).parents[1] / "golden")).resolve()


def settings(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as content:
        return {key: torch.from_numpy(content[key]) for key in content.files}


def tensors(name: str) -> dict[str, Tensor]:
    return torch.load(FOLDER / f"{name}.pt", weights_only=True)


def raw_images(inputs: Tensor, labels: Tensor) -> Images:
    return Images(inputs, torch.arange(len(inputs)), labels, torch.device("cpu"), lambda pixels, generator: pixels)


class SmallNetwork(nn.Module):
    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        first, second = state["conv1.weight"].shape[0], state["conv2.weight"].shape[0]
        self.conv1 = nn.Conv2d(3, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(second)
        self.fc = nn.Linear(second, state["fc.weight"].shape[0])
        self.load_state_dict(state)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.bn1(self.conv1(x)))
        x = torch.tanh(self.bn2(self.conv2(x)))
        return self.fc(x.mean((2, 3)))
