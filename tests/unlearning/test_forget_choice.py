import math

import pytest
import torch
from elsewhere import elsewhere, moved
from torch import Tensor, nn

from salun.data.images import Images
from salun.data.split import Choice
from salun.unlearning.forget_choice import choose, memorization

PIXELS = 16


def flat(values: Tensor, labels: list[int]) -> Images:
    return Images.from_tensors(values.view(-1, 1, 4, 4), labels)


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2))


class Certain(nn.Module):
    """Gives class 0 the image's first pixel as its logit, class 1 nothing; has one weight, without effect."""

    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        first = x.flatten(1)[:, :1]
        return torch.cat([first, torch.zeros_like(first)], 1) + self.idle


@pytest.fixture
def graded() -> Images:
    """Five images of class 0 of which the model is sure by 3, 0, -2, 1 and 5."""
    values = torch.zeros(5, PIXELS)
    values[:, 0] = torch.tensor([3.0, 0.0, -2.0, 1.0, 5.0])
    return flat(values, [0] * 5)


def chosen(model: nn.Module, images: Images, choice: Choice, count: int, seed: int = 0) -> list[int]:
    return [int(place) for place in choose(model, images, choice, count, torch.Generator().manual_seed(seed))]


def test_memorisation_is_the_surprise_at_the_true_class(graded: Images) -> None:
    scores = memorization(Certain(), graded)
    assert scores.tolist() == pytest.approx([math.log1p(math.exp(-sure)) for sure in (3, 0, -2, 1, 5)])


@pytest.mark.parametrize(
    ("choice", "places"), [("memorized", [[2], [1, 2], [1, 2, 3]]), ("easy", [[4], [0, 4], [0, 3, 4]])]
)
def test_the_most_and_the_least_memorised_come_first(graded: Images, choice: Choice, places: list[list[int]]) -> None:
    assert [chosen(Certain(), graded, choice, count) for count in (1, 2, 3)] == places


@pytest.mark.parametrize("choice", ["random", "worst"])
def test_a_seed_decides(choice: Choice) -> None:
    images = flat(torch.randn(30, PIXELS, generator=torch.Generator().manual_seed(1)), [0, 1] * 15)
    one, again, other = (chosen(linear(), images, choice, 6, seed) for seed in (0, 0, 1))
    assert one == again != other
    assert len(set(one)) == 6
    assert one == sorted(one)


def test_the_worst_to_forget_is_what_the_rest_teaches_anyway() -> None:
    # 24 images alike of class 0, whose loss stays low while some of them remain; 8 of class 1, each a pixel of its own.
    # The pixels are so bright that the few steps of 0.001 move logits.
    images = flat(torch.cat([1000 * torch.eye(PIXELS)[:8], torch.full((24, PIXELS), 150.0)]), [1] * 8 + [0] * 24)
    model = linear()
    for weight in model.parameters():
        nn.init.zeros_(weight)
    for seed in range(3):
        assert min(chosen(model, images, "worst", 8, seed)) >= 8


@pytest.mark.parametrize("choice", ["random", "memorized", "easy", "worst"])
def test_the_model_stays_as_it_is(choice: Choice) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = flat(torch.randn(257, PIXELS, generator=torch.Generator().manual_seed(0)), [0, 1] * 128 + [0])
    chosen(model, images, choice, 20)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_knows_all_can_choose() -> None:
    values = torch.zeros(6, PIXELS)
    values[:, 0] = 1e4
    assert len(chosen(Certain(), flat(values, [0] * 6), "worst", 2)) == 2


@pytest.mark.parametrize("choice", ["random", "memorized", "easy", "worst"])
def test_another_device_chooses_the_same_images(choice: Choice) -> None:
    values = torch.randn(30, PIXELS, generator=torch.Generator().manual_seed(3))
    images, model = flat(values, [0, 1] * 15), linear()
    here = chosen(model, images, choice, 5)
    with elsewhere() as device:
        assert chosen(model.to(device), moved(images), choice, 5) == here
