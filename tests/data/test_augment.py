import numpy as np
import pytest
import torch
import torch.nn.functional as F

from salun.data import transforms as augment
from salun.data.images import unit_interval
from salun.data.transforms import Preparation, channel_statistics


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int, channels: int = 3, size: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=seeded(seed))


def drawn(images: torch.Tensor, generator: torch.Generator, padding: int = 0, flip: bool = False) -> torch.Tensor:
    """The images as they are drawn for training, neither shifted nor scaled."""
    channels = images.shape[1]
    x = Preparation((0.0,) * channels, (1.0,) * channels, padding, flip)(images, generator)
    return (x * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else x


def windows(image: torch.Tensor, padding: int) -> list[torch.Tensor]:
    """All crops of one image, padded with black, by plain slicing: place (top, left) at top * (2 p + 1) + left."""
    channels, height, width = image.shape
    padded = torch.zeros(channels, height + 2 * padding, width + 2 * padding, dtype=image.dtype)
    padded[:, padding : padding + height, padding : padding + width] = image
    places = range(2 * padding + 1)
    return [padded[:, top : top + height, left : left + width] for top in places for left in places]


def places_of(images: torch.Tensor, cropped: torch.Tensor, padding: int) -> list[int]:
    """Which crop each image got; -1 where it is none."""
    found = []
    for image, result in zip(images, cropped, strict=True):
        matching = [place for place, window in enumerate(windows(image, padding)) if torch.equal(window, result)]
        found.append(matching[0] if matching else -1)
    return found


class TestCrop:
    @pytest.mark.parametrize(("padding", "channels"), [(1, 3), (2, 1)])
    def test_every_place_is_about_as_likely(self, padding: int, channels: int) -> None:
        images = pixels(1, channels, size=6).expand(1000, -1, -1, -1)
        places = places_of(images, drawn(images, seeded(0), padding), padding)
        assert -1 not in places
        counts = np.bincount(places)
        count = (2 * padding + 1) ** 2
        assert len(counts) == count
        chi_squared = ((counts - 1000 / count) ** 2 / (1000 / count)).sum()
        assert chi_squared < 2 * count + 10

    @pytest.mark.parametrize(("padding", "flip"), [(2, True), (0, False)])
    def test_leaves_its_input_alone(self, padding: int, flip: bool) -> None:
        images = unit_interval(pixels(10))
        kept = images.clone()
        Preparation((0.0,) * 3, (1.0,) * 3, padding, flip)(images, seeded(0)).zero_()
        assert torch.equal(images, kept)


class TestMirror:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_about_half_are_mirrored_and_the_others_stay(self, seed: int) -> None:
        images = pixels(1000, size=5)
        mirrored = drawn(images, seeded(seed), flip=True)
        turned = (mirrored == images.flip(3)).flatten(1).all(1)
        kept = (mirrored == images).flatten(1).all(1)
        assert (turned ^ kept).all()
        assert abs(turned.double().mean() - 0.5) < 0.06


class TestStatistics:
    @pytest.mark.parametrize("chunk", [1, 500, 2**26])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_equal_numpy(self, channels: int, chunk: int) -> None:
        images = pixels(50, channels) // torch.arange(1, channels + 1, dtype=torch.uint8).view(1, -1, 1, 1)
        rows = torch.arange(0, 50, 3)
        mean, std = channel_statistics(images, rows, chunk)
        expected = images[rows].numpy().astype(np.float64) / 255
        assert np.allclose(mean, expected.mean((0, 2, 3)), atol=1e-12)
        assert np.allclose(std, expected.std((0, 2, 3)), atol=1e-12)

    @pytest.mark.parametrize("level", [0, 77, 255])
    def test_channel_that_never_varies(self, level: int) -> None:
        mean, std = channel_statistics(torch.full((4, 2, 8, 8), level, dtype=torch.uint8), torch.arange(4))
        assert mean == pytest.approx([level / 255] * 2)
        assert std == [1.0, 1.0]


class TestPreparation:
    def test_nothing_is_random_without_a_generator(self) -> None:
        preparation = Preparation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), padding=4, flip=True)
        images = pixels(20)
        expected = torch.stack([(images[:, c] / 255 - (c + 1) / 10) / ((c + 4) / 10) for c in range(3)], dim=1)
        assert torch.allclose(preparation(images), expected, atol=1e-6)

    @pytest.mark.parametrize(("padding", "flip"), [(0, False), (4, False), (0, True), (2, True)])
    def test_crops_and_flips_only_where_asked(self, padding: int, flip: bool) -> None:
        images = pixels(60, size=6)
        found = drawn(images, seeded(0), padding, flip)
        assert torch.equal(found, drawn(images, seeded(0), padding, flip))
        assert torch.equal(found, drawn(images, seeded(1), padding, flip)) == (not padding and not flip)
        plain, turned = places_of(images, found, padding), places_of(images, found.flip(3), padding)
        assert all(one != -1 or other != -1 for one, other in zip(plain, turned, strict=True))
        assert (-1 in plain) == flip
        assert len(set(plain + turned) - {-1}) == 1 if not padding else len(set(plain)) > 5

    @pytest.mark.parametrize("side", [4, 8, 24])
    def test_resizes(self, side: int) -> None:
        images = pixels(5)
        preparation = Preparation((0.3,) * 3, (0.2,) * 3, resize=side)
        x = preparation(images)
        assert x.shape == (5, 3, side, side)
        plain = (unit_interval(images) - 0.3) / 0.2
        expected = F.interpolate(plain, size=(side, side), mode="bilinear", antialias=True)
        assert torch.allclose(x, expected if side != 8 else plain, atol=1e-6)

    def test_computed_images_are_prepared_alike(self) -> None:
        images = pixels(10)
        preparation = Preparation((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), padding=2, flip=True)
        assert torch.allclose(preparation(images, seeded(1)), preparation(unit_interval(images), seeded(1)))
        assert torch.allclose(preparation(images), preparation(unit_interval(images)))


def test_batches_are_laid_out_with_the_channels_first_where_the_device_wants_them_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(augment, "layout", lambda _: torch.contiguous_format)
    prepare = Preparation((0.5, 0.5), (0.5, 0.5), padding=2)
    x = prepare(torch.zeros(3, 2, 8, 8, dtype=torch.uint8), torch.Generator().manual_seed(0))
    assert x.is_contiguous()
