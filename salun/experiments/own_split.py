"""Images to forget and to retain, of a user's own."""

from collections.abc import Sequence
from numbers import Real
from typing import get_args

from torch import Tensor, nn

from salun.data.images import Images
from salun.data.split import Choice, divide
from salun.device import seeded, seeded_globally
from salun.errors import SalunError
from salun.experiments.own_model import copied, device_of, moved, tried
from salun.unlearning.forget_choice import choose


def split(
    train: Images,
    *,
    classes: int | str | Sequence[int | str] = (),
    share: float | None = None,
    indices: Sequence[int] | Tensor | None = None,
    names: Sequence[str] | None = None,
    seed: int = 0,
    stratified: bool = False,
    choice: Choice = "random",
    model: nn.Module | None = None,
) -> tuple[Images, Images]:
    """Divide training images into those to forget and those to retain, by one of four ways to name them.

    Args:
        train: N images.
        classes: numbers or names of the classes to forget, all of their images.
        share: part of the images, in (0, 1), drawn with `seed` or chosen by a model.
        indices: positions from 0 to N - 1, or (N,) booleans.
        names: of the images, as `Images.from_folder` gives them; or one of them.
        seed: of the share.
        stratified: whether the share is taken of each class.
        choice: of the share: "random"; "memorized" or "easy", what the model has memorised most or least; or "worst",
            what is hardest to forget.
        model: the base model, trained on the images, where it chooses.

    Returns:
        The forget set and the retain set.

    Raises:
        SalunError: not exactly one way is given, an image or class is not there, nothing would be left of a set, or a
            choice lacks its model or share.

    Examples:
        >>> forget, retain = split(Images.from_tensors(torch.rand(6, 1, 8, 8), [0, 1, 2] * 2), classes=[2])
        >>> len(forget), len(retain)
        (2, 4)
    """
    if choice != "random":
        if choice not in get_args(Choice):
            raise SalunError(f"split: choice='{choice}': must be one of {', '.join(get_args(Choice))}")
        if model is None or share is None or stratified:
            raise SalunError(f"split: choice='{choice}': needs model= and share=, without stratified=")
        if not isinstance(share, Real) or not 0 < share < 1:
            raise SalunError(f"split: share={share!r}: must be between 0 and 1")
        indices, share = _chosen(train, model, choice, round(share * len(train)), seed), None
    return divide(train, classes=classes, share=share, indices=indices, names=names, seed=seed, stratified=stratified)


def _chosen(train: Images, model: nn.Module, choice: Choice, count: int, seed: int) -> Tensor:
    """Let a user's model choose images: positions."""
    device = device_of(model, None)
    (images,) = moved(device, {"train": train})
    tried(model, device, "model", [images])
    with seeded_globally(seed, device):
        return choose(copied(model, device), images, choice, count, seeded(seed, device))
