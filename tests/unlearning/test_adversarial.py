import pytest
import reference
import torch
from problems import same_weights, sets_of
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.images import Images
from salun.data.sets import Sets
from salun.data.split import ForgetRequest
from salun.data.transforms import Preparation
from salun.models.checkpoint import Checkpoint
from salun.training.cost import PassCounter
from salun.training.evaluate import predict
from salun.unlearning.adversarial import fgsm, nearest_adversarial

CPU = torch.device("cpu")
NAME = "boundary_shrink_labels"


class Linear(nn.Module):
    """Two classes whose boundary is the plane w x = b."""

    def __init__(self, normal: Tensor, offset: float) -> None:
        super().__init__()
        self.normal, self.offset = nn.Parameter(normal), offset

    def forward(self, x: Tensor) -> Tensor:
        side = x.flatten(1) @ self.normal - self.offset
        return torch.stack([-side, side], 1)


@pytest.fixture(scope="module")
def sets(digits: Dataset) -> Sets:
    return sets_of(digits, ForgetRequest(share=0.01))


def as_pixels(images: Images) -> Tensor:
    return images.pixels[images.rows].float() / 255


def distances(before: Images, after: Images) -> Tensor:
    return (as_pixels(before) - after.pixels[after.rows]).flatten(1).norm(dim=1)


def raw(pixels: Tensor, labels: Tensor) -> Images:
    return Images(pixels, torch.arange(len(pixels)), labels, CPU, lambda pixels, generator: pixels)


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_fgsm_is_the_reference_s(batch_size: int) -> None:
    case, wanted = reference.settings(NAME), reference.arrays(NAME)
    model = reference.SmallNetwork(reference.tensors("boundary_shrink_model"))
    images = reference.raw_images(wanted["inputs"], wanted["labels"])
    found = fgsm(model, images, case["bound"], batch_size)
    assert torch.equal(found.labels, wanted["boundary_labels"])
    assert torch.equal(found.pixels[found.rows], wanted["inputs_adv"])


def test_fgsm_stays_within_the_bound_on_whole_levels(sets: Sets, trained: Checkpoint) -> None:
    found = fgsm(trained.restore(), sets.forget, 0.1)
    pixels = found.pixels[found.rows]
    assert float((pixels - as_pixels(sets.forget)).abs().max()) <= 0.1 + 0.5 / 255 + 1e-6
    assert torch.allclose(pixels * 255, (pixels * 255).round(), atol=1e-4)
    assert float(pixels.min()) >= 0
    assert float(pixels.max()) <= 1


@pytest.mark.parametrize("attack", [lambda *given: fgsm(*given, 0.05), lambda *given: nearest_adversarial(*given)])
def test_attacks_move_pixels_not_model_input(attack: object) -> None:
    # The same images behind a view that stretches the second channel: the moves must be the same in pixels.
    generator = torch.Generator().manual_seed(0)
    pixels, normal = torch.rand(6, 2, 3, 3, generator=generator), torch.randn(18, generator=generator)
    scale = torch.tensor([1.0, 5.0]).repeat_interleave(9)
    model, stretched = Linear(normal, 0.4), Linear(normal / scale, 0.4)
    labels = model(pixels).argmax(1)
    images = raw(pixels, labels)
    wide = Images(pixels, images.rows, labels, CPU, Preparation((0.0, 0.0), (1.0, 0.2)))
    plain, scaled = attack(model, images), attack(stretched, wide)
    assert torch.allclose(plain.pixels, scaled.pixels, atol=1e-5)
    assert torch.equal(plain.labels, scaled.labels)


def test_nearest_adversarial_is_another_class_of_the_model(sets: Sets, trained: Checkpoint) -> None:
    model = trained.restore()
    found = nearest_adversarial(model, sets.forget, steps=10)
    assert len(found) == len(sets.forget)
    assert bool((found.labels != sets.forget.labels).all())
    assert torch.equal(predict(model, found).logits.argmax(1), found.labels)
    assert float(found.pixels.min()) >= 0
    assert float(found.pixels.max()) <= 1


def test_nearest_adversarial_finds_the_distance_to_a_plane() -> None:
    generator = torch.Generator().manual_seed(1)
    normal = torch.randn(48, generator=generator)
    pixels = torch.rand(20, 3, 4, 4, generator=generator) * 0.2 + 0.4
    model = Linear(normal, float(normal.sum()) * 0.5)
    labels = model(pixels).argmax(1)
    found = nearest_adversarial(model, raw(pixels, labels), epsilon=0.01)
    exact = (pixels.flatten(1) @ normal - model.offset).abs() / normal.norm()
    moved = (found.pixels - pixels).flatten(1).norm(dim=1)
    assert bool((moved >= exact - 1e-5).all())
    # A step is a tenth of the ball, and the ball before it, half as large, held no such image.
    assert bool((moved <= 1.2 * exact + 0.001).all())


def test_an_image_that_is_already_mistaken_stays() -> None:
    pixels, model = torch.full((2, 1, 2, 2), 0.5), Linear(torch.ones(4), 1.0)
    found = nearest_adversarial(model, raw(pixels, torch.tensor([0, 1])))
    assert torch.equal(found.pixels[0], pixels[0])
    assert found.labels.tolist() == [1, 0]
    assert not torch.equal(found.pixels[1], pixels[1])


def test_the_search_ends_where_there_is_no_other_class() -> None:
    pixels = torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    model = Linear(torch.ones(4), 100.0)
    found = nearest_adversarial(model, raw(pixels, torch.zeros(3, dtype=torch.int64)), steps=5)
    assert found.labels.tolist() == [0, 0, 0]


def test_the_search_moves_a_model_that_is_very_sure() -> None:
    pixels = torch.full((1, 1, 2, 2), 0.5)
    sure = Linear(torch.full((4,), 15.0), 15.0)
    found = nearest_adversarial(sure, raw(pixels, torch.tensor([1])))
    assert found.labels.tolist() == [0]
    assert float((found.pixels - pixels).norm()) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("attack", [lambda *given: fgsm(*given, 0.1), nearest_adversarial])
def test_attacks_leave_the_model_as_it_is(attack: object, sets: Sets, trained: Checkpoint) -> None:
    model = trained.restore().train()
    passes = PassCounter()
    with passes.counting(model):
        attack(model, sets.forget.take(torch.arange(4)))
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert same_weights(model, trained)
    assert passes.forward >= passes.backward >= 4


def test_a_search_that_is_told_to_stop_leaves_labels_as_they_were() -> None:
    asked: list[None] = []

    def allowance() -> float:
        asked.append(None)
        return 0 if len(asked) > 5 else 4

    plane = Linear(torch.ones(4), 1.0)
    images = raw(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64))
    found = nearest_adversarial(plane, images, 0.01, 1000, 2, allowance)
    assert len(found) == 3
    assert found.labels.tolist() == [0, 0, 0]
    assert 0 < float(distances(images, found)[:2].min()) <= 0.01 + 1e-6
    assert torch.equal(found.pixels[2:], images.pixels[2:])
