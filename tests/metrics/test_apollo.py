import pytest
import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.metrics import Models
from salun.metrics.apollo import label_only_attack
from salun.training.recipe import Recipe


class Threshold(nn.Module):
    """Predicts class 1 where the first pixel is above a bound."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = nn.Parameter(torch.tensor(bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x.flatten(1)[:, 0] - self.bound], 1)


def images(*values: float, label: int = 1) -> Images:
    """Images of two pixels whose standard deviation is 2: they go up to 1 in steps of 0.2."""
    x = torch.tensor([[value, value - 2 * 2**0.5] for value in values]).view(-1, 1, 1, 2)
    return Images.from_tensors(x, [label] * len(values))


def attacked(model: float, forget: Images, test: Images, surrogate: float = 0.0) -> tuple[float | None, float | None]:
    return label_only_attack(
        Models(Threshold(model), Threshold(0.0), Threshold(surrogate), forget, forget, Recipe(), test=test)
    )


def test_labels_that_stick_give_members_away() -> None:
    # Uphill the first pixel falls by 0.2 a step: of 0.5 and 0.1, two steps and none are above the bound.
    assert attacked(0.0, images(0.5, 0.5), images(0.1, 0.1)) == (1, 0.5)
    assert attacked(0.0, images(0.5, 0.1), images(0.1, 0.5)) == (0.5, 0.5)


def test_labels_that_do_not_come_back_give_members_away() -> None:
    # Downhill it rises: -0.9 is below the bound for four steps, -0.3 for one.
    assert attacked(0.0, images(-0.9, -0.9), images(-0.3, -0.3)) == (0.5, 1)


def test_a_model_that_never_predicts_the_class_gives_nothing_away() -> None:
    assert attacked(100.0, images(0.5, 0.3), images(0.1, -0.4)) == (0.5, 0.5)


def test_takes_its_own_gradients_and_leaves_none() -> None:
    model = Threshold(0.0)
    with torch.no_grad():
        found = label_only_attack(
            Models(model, model, model, images(0.5), images(0.5), Recipe(), test=images(0.1), forgotten_test=None)
        )
    assert found == (1, 0.5)
    assert model.bound.grad is None


@pytest.mark.parametrize("test", [None, images(0.1).take(torch.arange(0))])
def test_needs_unseen_images(test: Images | None) -> None:
    model = Threshold(0.0)
    assert label_only_attack(Models(model, model, model, images(0.5), images(0.5), Recipe(), test=test)) == (None, None)
