"""The control: training, unlearning and attacks written plainly, as public code does it.

PIL images that are transformed one at a time in loader workers, float32 in NCHW, `torch.optim.SGD` as it comes, two
sorts of all weights for the mask, the mask on the gradients, losses and accuracies read at every batch, an evaluation
of test, forget and retain set after every epoch, and scikit-learn's SVC, one attack after another.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import transforms

from salun.data.images import Images
from salun.data.transforms import Preparation
from salun.device import own_threads

EVALUATED_AT_ONCE = 256

Loader = DataLoader[Any]
Mask = dict[str, Tensor]
Attack = tuple[np.ndarray, np.ndarray, np.ndarray]


class Pictures(Dataset[tuple[Any, int]]):
    """Images one at a time, transformed as they are asked for.

    Attributes:
        pictures: PIL images.
        labels: as many.
        transform: of a PIL image.
    """

    def __init__(self, pictures: Sequence[Image.Image], labels: Sequence[int], transform: Any) -> None:
        self.pictures = pictures
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, place: int) -> tuple[Any, int]:
        return self.transform(self.pictures[place]), self.labels[place]


@dataclass(frozen=True)
class Loaders:
    """How pictures are loaded.

    Attributes:
        batch: images a step.
        workers: processes that transform them.
        device: where they are used.
    """

    batch: int
    workers: int
    device: torch.device

    def over(self, data: Dataset[Any], shuffle: bool = False, batch: int | None = None) -> Loader:
        """Load a set.

        Args:
            data: the set.
            shuffle: whether in an order of its own each time.
            batch: images at once, where not those of a step.

        Returns:
            The loader.
        """
        pinned = self.device.type == "cuda"
        return DataLoader(data, batch or self.batch, shuffle=shuffle, num_workers=self.workers, pin_memory=pinned)


@contextmanager
def as_torch_comes(device: torch.device) -> Iterator[None]:
    """Compute with torch's own settings, as public code does that sets none.

    Args:
        device: that is computed on.

    Yields:
        Nothing.
    """
    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32, torch.get_float32_matmul_precision())
    torch.set_num_threads(own_threads())
    if device.type == "cuda":
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = False, False, True
        torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if device.type == "cuda":
            cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before[:3]
            torch.set_float32_matmul_precision(before[3])


def pictures_of(images: Images, preparation: Preparation, training: bool) -> Pictures:
    """Make PIL images of ours.

    Args:
        images: a set of ours.
        preparation: how its pixels become model input.
        training: whether they are cropped and mirrored at random.

    Returns:
        The same images.
    """
    steps: list[Any] = []
    if training and preparation.padding:
        steps.append(transforms.RandomCrop(images.pixels.shape[-1], padding=preparation.padding))
    if training and preparation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    steps += [transforms.ToTensor(), transforms.Normalize(preparation.mean, preparation.std)]
    stored = images.pixels[images.rows].permute(0, 2, 3, 1).cpu().numpy()
    pictures = [Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels) for pixels in stored]
    return Pictures(pictures, images.labels.tolist(), transforms.Compose(steps))


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    """Make the optimiser.

    Args:
        model: whose weights.
        lr: learning rate.

    Returns:
        The optimiser, as torch makes it unasked.
    """
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=5e-4)


def train_epoch(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    device: torch.device,
    mask: Mask | None = None,
) -> tuple[float, float]:
    """Train for one epoch.

    Args:
        model: is trained in place.
        batches: images and labels.
        optimizer: of its weights.
        device: where it is.
        mask: 1 where a weight may move; None for everywhere.

    Returns:
        Mean loss and accuracy.
    """
    criterion = nn.CrossEntropyLoss()
    model.train()
    loss_sum, right, count = 0.0, 0.0, 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        outputs = model(images)
        loss = criterion(outputs, labels)
        optimizer.zero_grad()
        loss.backward()
        if mask is not None:
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    weight.grad *= mask[name]
        optimizer.step()
        loss_sum += loss.item() * len(labels)
        right += (outputs.argmax(1) == labels).float().sum().item()
        count += len(labels)
    return loss_sum / count, right / count


@torch.no_grad()
def evaluate(model: nn.Module, batches: Loader, device: torch.device) -> float:
    """Measure the accuracy, reading it at every batch.

    Args:
        model: is left in evaluation mode.
        batches: images and labels.
        device: where the model is.

    Returns:
        The accuracy.
    """
    criterion = nn.CrossEntropyLoss()
    model.eval()
    right, loss_sum, count = 0.0, 0.0, 0
    for images, labels in batches:
        images, labels = images.to(device), labels.to(device)
        outputs = model(images)
        loss_sum += criterion(outputs, labels).item() * len(labels)
        right += (outputs.argmax(1) == labels).float().sum().item()
        count += len(labels)
    return right / count


def gradients(model: nn.Module, batches: Loader, device: torch.device) -> dict[str, Tensor]:
    """Sum the gradients of the forget set's batches.

    Args:
        model: in evaluation mode from here on.
        batches: of the forget set.
        device: where the model is.

    Returns:
        Absolute values of the sums, by weight.
    """
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    summed = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    model.eval()
    for images, labels in batches:
        loss = criterion(model(images.to(device)), labels.to(device))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.grad is not None:
                    summed[name] += weight.grad
    return {name: torch.abs_(values) for name, values in summed.items()}


def mask_of(scores: dict[str, Tensor], keep: float) -> Mask:
    """Mark the largest scores by sorting all of them, and then sorting the order.

    Args:
        scores: by weight.
        keep: share that is marked.

    Returns:
        1 where a weight may move, else 0.
    """
    everything = -torch.cat([values.flatten() for values in scores.values()])
    count = int(len(everything) * keep)
    ranks = torch.argsort(torch.argsort(everything))
    mask, start = {}, 0
    for name, values in scores.items():
        own = ranks[start : start + values.numel()].reshape(values.shape)
        mask[name] = torch.zeros_like(values)
        mask[name][own < count] = 1
        start += values.numel()
    return mask


@torch.no_grad()
def probabilities(model: nn.Module, batches: Loader, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Collect what a model says of a set.

    Args:
        model: in evaluation mode from here on.
        batches: of the set.
        device: where the model is.

    Returns:
        Probabilities (N, C) and labels (N,).
    """
    model.eval()
    pairs = [(torch.softmax(model(images.to(device)), 1).cpu(), labels) for images, labels in batches]
    return torch.cat([pair[0] for pair in pairs]).numpy(), torch.cat([pair[1] for pair in pairs]).numpy()


def called_members(members: np.ndarray, non_members: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Run an attack by scikit-learn.

    Args:
        members: (N, F) features of images that were trained on.
        non_members: (M, F) of images that were not.
        targets: (K, F) of images in question.

    Returns:
        (K,) booleans, whether each is taken for a member.
    """
    machine = SVC(C=3, kernel="rbf", gamma="auto")
    machine.fit(np.concatenate([members, non_members]), np.repeat([1, 0], [len(members), len(non_members)]))
    return np.asarray(machine.predict(targets) == 1)


def attack_confidence(model: nn.Module, sets: dict[str, Loader], device: torch.device) -> float:
    """Attack the forget set by the probabilities of true classes.

    Args:
        model: the unlearned model.
        sets: loaders of "forget", "retain" and "test".
        device: where the model is.

    Returns:
        The share of the forget set that is called non-members.
    """
    confidence = {}
    for name, batches in sets.items():
        found, labels = probabilities(model, batches, device)
        confidence[name] = found[np.arange(len(labels)), labels][:, None]
    known = len(confidence["test"])
    called = called_members(confidence["retain"][:known], confidence["test"], confidence["forget"])
    return 1 - float(called.mean())


@dataclass(frozen=True)
class Forgetting:
    """What is forgotten, and how.

    Attributes:
        forget: pictures to forget, as they are trained on.
        retain: pictures to keep, likewise.
        plain: "forget", "retain" and "test" pictures, as they are evaluated.
        classes: number of classes.
        keep: share of the weights that may move.
        lr: learning rate.
        epochs: over forget and retain set.
        curve: whether test, forget and retain set are evaluated after every epoch.
    """

    forget: Pictures
    retain: Pictures
    plain: dict[str, Pictures]
    classes: int
    keep: float
    lr: float
    epochs: int
    curve: bool = True


def forget(model: nn.Module, problem: Forgetting, loaders: Loaders) -> dict[str, float]:
    """Run SalUn: the mask, random labels on one mix of forget and retain set, evaluation and attack.

    Args:
        model: the base model on its device, edited in place.
        problem: what is forgotten, and how.
        loaders: how pictures are loaded.

    Returns:
        Accuracies on "forget", "retain" and "test", and "MIA".
    """
    device = loaders.device
    mask = mask_of(gradients(model, loaders.over(problem.plain["forget"]), device), problem.keep)
    sets = {name: loaders.over(data, batch=EVALUATED_AT_ONCE) for name, data in problem.plain.items()}
    optimizer = sgd(model, problem.lr)
    for _ in range(problem.epochs):
        drawn = np.random.randint(0, problem.classes, len(problem.forget)).tolist()
        relabelled = Pictures(problem.forget.pictures, drawn, problem.forget.transform)
        mix: Dataset[Any] = ConcatDataset([relabelled, problem.retain])
        train_epoch(model, loaders.over(mix, shuffle=True), optimizer, device, mask)
        if problem.curve:
            for batches in sets.values():
                evaluate(model, batches, device)
    found = {name: evaluate(model, batches, device) for name, batches in sets.items()}
    return found | {"MIA": attack_confidence(model, sets, device)}
