"""Features computed from checkpoints: which models, which images, which layer."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from salun.data.dataset import Dataset
from salun.data.images import Images
from salun.data.sets import make_sets
from salun.data.split import ForgetRequest, digest, make_split, without
from salun.device import full_precision, placed
from salun.errors import SalunError, did_you_mean
from salun.experiments.base_model import BaseModelSpec, check_belongs, preparation_of, saved_spec
from salun.io.files import find_place
from salun.latent.features import PRE_HEAD, Features, Role, Source
from salun.models.checkpoint import SAFETENSORS, Checkpoint, load_checkpoint
from salun.models.features import embed, head
from salun.models.layers import outputs_at

Subset = Literal["train", "test", "forget", "retain"]
_Reader = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]
ENDINGS = (".pt", ".pth", SAFETENSORS)


@dataclass(frozen=True)
class Model:
    """A checkpoint whose weights are left on disk, and its place among base, unlearned and retrained models.

    Attributes:
        spec: the file and what it records.
        fingerprint: of the weights.
        role: "unlearned" where a method made it, "retrained" where it was trained without some images, else "base".
        title: what it is, in a figure.
        forget: what it was to forget, in words; "" of a base model.
        forget_key: identity of the images that it was to forget; "" of a base model.
    """

    spec: BaseModelSpec
    fingerprint: str
    role: Role
    title: str
    forget: str
    forget_key: str

    @property
    def path(self) -> Path:
        """The checkpoint's file."""
        return self.spec.path

    @property
    def excluded(self) -> tuple[int, ...]:
        """Training indices that the model was not to know."""
        return recorded(self.spec).excluded

    def restore(self, device: torch.device) -> nn.Module:
        """Read the weights and build the model on a device.

        Raises:
            SalunError: the file cannot be read any more.
        """
        return placed(load_checkpoint(self.path).restore(), device)


def recorded(spec: BaseModelSpec) -> Checkpoint:
    """Give what a checkpoint records; a SalunError where there is none."""
    if spec.checkpoint is None:
        raise SalunError(f"{spec.path}: no such checkpoint")
    return spec.checkpoint


def find_checkpoints(folder: Path, default: Path = Path("checkpoints")) -> list[Path]:
    """List the checkpoints below a folder.

    Args:
        folder: looked for as given, then under `default`; or one file.
        default: where checkpoints are kept.

    Raises:
        SalunError: there is no such folder, or no checkpoint in it.
    """
    found = find_place(folder, default)
    if found is None:
        raise SalunError(f"{folder}: no such folder, here or under {default}/")
    if found.is_file():
        return [found]
    files = sorted(path for path in found.rglob("*") if path.suffix in ENDINGS and not path.name.startswith("."))
    if not files:
        raise SalunError(f"{found}: holds no checkpoint ({', '.join('*' + ending for ending in ENDINGS)})")
    return files


def read_model(path: Path) -> Model:
    """Read a checkpoint and tell what it is.

    Raises:
        SalunError: the file cannot be read.
    """
    spec = saved_spec(path)
    checkpoint = recorded(spec)
    unlearned = checkpoint.config.get("unlearned")
    role: Role = "base"
    title = forget = ""
    if isinstance(unlearned, dict):
        role = "retrained" if unlearned.get("method") == "retrain" else "unlearned"
        title = _described(unlearned)
        forget = str((unlearned.get("forget") or {}).get("request", ""))
    elif checkpoint.excluded:
        role, title = "retrained", "retrained"
    if checkpoint.excluded and not forget:
        forget = f"{len(checkpoint.excluded)} images"
    key = digest(torch.tensor(checkpoint.excluded)) if checkpoint.excluded else ""
    light = replace(spec, checkpoint=replace(checkpoint, weights={}, optimizer=None))
    return Model(light, checkpoint.fingerprint, role, title or "base", forget, key)


def read_models(paths: list[Path]) -> tuple[list[Model], list[str]]:
    """Read what checkpoints record."""
    models, failed = [], []
    for path in paths:
        try:
            models.append(read_model(path))
        except SalunError as error:
            failed.append(str(error))
    return models, failed


def _described(unlearned: dict[str, object]) -> str:
    """Name an unlearned model as a figure does."""
    method, mask, seed = unlearned.get("method"), unlearned.get("mask"), unlearned.get("seed", 0)
    name = "retrained" if method == "retrain" else str(method)
    if isinstance(mask, dict):
        control = "" if mask.get("score") in ("sum", "mean_abs", None) else f"{mask['score']} "
        keep = "of a file" if mask.get("file") else f"{mask.get('keep', '')}"
        name += f" + {control}mask {keep}"
    return f"{name}, seed {seed}" if seed else name


@dataclass(frozen=True)
class Sample:
    """The images that features are extracted of: the same ones for every model of a data set.

    Attributes:
        dataset: the data, on the device.
        indices: (N,) int64, sorted, into the training or test part.
        split: which of "train", "test", "forget" and "retain" they are.
        forget: (K,) int64, training indices of the forget set that all models share; None where several differ.
    """

    dataset: Dataset
    indices: Tensor
    split: Subset
    forget: Tensor | None

    def images(self, model: Model, device: torch.device) -> Images:
        """Prepare the images as a model wants them, for batches on a device.

        Raises:
            SalunError: the model belongs to other data or to another split.
        """
        split = make_split(self.dataset, ForgetRequest(), model.spec.split_seed)
        check_belongs(model.spec, self.dataset, split)
        preparation = preparation_of(recorded(model.spec), self.dataset, split)
        if self.split == "test":
            return make_sets(self.dataset, replace(split, test=self.indices), preparation, device).test
        return make_sets(self.dataset, replace(split, train=self.indices), preparation, device).train

    def forgotten(self, model: Model) -> Tensor:
        """Mark the images that a model was to forget; a base model as the others, where they share one forget set.

        Returns:
            (N,) bool; of test images those of classes that were to be forgotten whole.
        """
        excluded = torch.tensor(model.excluded, dtype=torch.int64)
        listed = excluded if len(excluded) else self.forget
        if listed is None:
            return torch.zeros(len(self.indices), dtype=torch.bool)
        if self.split != "test":
            return torch.isin(self.indices, listed)
        gone = forgotten_classes(self.dataset, listed, model.spec.split_seed)
        return torch.isin(self.dataset.test.labels.cpu()[self.indices], gone)


def forgotten_classes(dataset: Dataset, listed: Tensor, split_seed: int) -> Tensor:
    """Find the classes of which every training image is among the (K,) listed ones."""
    train = make_split(dataset, ForgetRequest(), split_seed).train
    labels = dataset.train.labels.cpu()
    return torch.tensor(sorted(set(labels[listed].tolist()) - set(labels[without(train, listed)].tolist())))


def choose(dataset: Dataset, models: list[Model], name: Subset, samples: int, listed: Tensor | None = None) -> Sample:
    """Choose the images: the first of a set, in index order.

    Args:
        dataset: the data of all these models.
        models: whose forget sets, together, are "forget" and the rest of the training split "retain".
        name: which set.
        samples: how many at most.
        listed: training indices of a forget set that stands in for the models' own.

    Raises:
        SalunError: the set is empty, or the models were trained on different splits.
    """
    first = models[0]
    for model in models:
        if model.spec.split_seed != first.spec.split_seed and name != "test":
            names = " and ".join(f"{each.path} (split_seed {each.spec.split_seed})" for each in (first, model))
            raise SalunError(f"{names} share no training split; extract them apart, or with --split test")
    split = make_split(dataset, ForgetRequest(), first.spec.split_seed)
    own = {model.excluded for model in models if model.excluded}
    together = torch.tensor(sorted({index for excluded in own for index in excluded}), dtype=torch.int64)
    shared = listed if listed is not None else together if len(own) == 1 else None
    gone = listed if listed is not None else together
    choices = {
        "train": split.train,
        "test": split.test,
        "forget": split.train[torch.isin(split.train, gone)],
        "retain": without(split.train, gone),
    }
    if not len(choices[name]):
        reason = "no checkpoint here records a forget set; name one with --itf" if not len(gone) else "it is empty"
        raise SalunError(f"--split {name}: {reason}")
    return Sample(dataset, choices[name][:samples], name, shared)


def source_of(model: Model, sample: Sample, layer: str, shown: Path) -> Source:
    """Describe features before they are computed, by a key of weights, images, marks, layer and data set.

    Args:
        model: whose features.
        sample: of which images.
        layer: "pre-head", or a module's name.
        shown: the checkpoint's path, as the user reads it.
    """
    marks = digest(sample.indices, sample.forgotten(model))
    deciding = [model.fingerprint, model.title, sample.dataset.name, sample.split, layer, marks]
    return Source(
        checkpoint=str(shown),
        title=model.title,
        role=model.role,
        model=model.spec.model,
        dataset=sample.dataset.name,
        split=sample.split,
        layer=layer,
        forget=model.forget,
        forget_key=model.forget_key,
        key=hashlib.sha256(json.dumps(deciding).encode()).hexdigest()[:16],
    )


@torch.no_grad()
def extract(
    network: nn.Module,
    images: Images,
    forgotten: Tensor,
    classes: tuple[str, ...],
    source: Source,
    batch_size: int = 256,
    callback: Callable[[int], object] = lambda seen: None,
) -> Features:
    """Compute the features of images: evaluation mode, float32, no augmentation, in order.

    Args:
        network: on its device; is left in evaluation mode.
        images: N images.
        forgotten: (N,) bool, which of them were to be forgotten.
        classes: class names.
        source: names the layer: the input of the head, or a module's output, averaged over space or tokens.
        batch_size: images at once.
        callback: is called with how many images are done.

    Raises:
        SalunError: the model has no such layer, or no linear head, or its features are no numbers.
    """
    network.eval()
    linear = head(network)
    read = pre_head if source.layer == PRE_HEAD else _layer_reader(network, source.layer)
    features, logits, seen = [], [], 0
    for batch in images.batches(batch_size):
        found, scores = read(network, batch.x)
        features.append(found.float().cpu())
        logits.append(scores.float().cpu())
        seen += len(batch.x)
        callback(seen)
    try:
        return Features(
            features=torch.cat(features).numpy(),
            labels=images.labels.cpu().numpy(),
            indices=images.rows.cpu().numpy(),
            logits=torch.cat(logits).numpy(),
            forgotten=forgotten.numpy(),
            classes=classes,
            prototypes=linear.weight.detach().float().cpu().numpy(),
            source=source,
        )
    except ValueError as error:
        raise SalunError(f"{source.checkpoint}: {error}") from error


def pre_head(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Read the (B, D) input of the head and the (B, classes) logits of any timm model."""
    with full_precision(x.device):
        features = embed(network, x)
        return features, head(network)(features)


def _layer_reader(network: nn.Module, layer: str) -> _Reader:
    """Read a module's output."""
    names = [name for name, _ in network.named_modules() if name]
    if layer not in names:
        raise SalunError(f"--layer {layer}: the model has none of that name{did_you_mean(layer, [PRE_HEAD, *names])}")

    def read(network: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        outputs, logits = outputs_at(network, [layer], x)
        output = outputs[layer]
        if not 2 <= output.ndim <= 4:
            raise SalunError(f"--layer {layer}: its output of shape {tuple(output.shape)} is no set of features")
        return _pooled(output), logits

    return read


def _pooled(output: Tensor) -> Tensor:
    """Average (B, D), (B, tokens, D), (B, D, H, W), or Swin's (B, H, W, D) to (B, D)."""
    if output.ndim == 4:
        channels_last = output.shape[1] == output.shape[2] != output.shape[3]
        return output.mean((1, 2) if channels_last else (2, 3))
    return output.mean(1) if output.ndim == 3 else output


def by_dataset(models: list[Model]) -> list[list[Model]]:
    """Group models by their data set."""
    names = dict.fromkeys(model.spec.dataset for model in models)
    return [[model for model in models if model.spec.dataset == name] for name in names]
