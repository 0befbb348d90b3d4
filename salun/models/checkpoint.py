"""Checkpoints: weights, architecture and how they were made, in one file."""

import logging
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from salun.errors import SalunError
from salun.io.tensors import read_tensors, tensors_digest, write_safetensors, write_tensors
from salun.models.architecture import Architecture
from salun.models.build import build_undrawn
from salun.models.foreign import misfit, prefix_of
from salun.models.own import check_model, code_of
from salun.models.pretrained import pretrained_size

SAFETENSORS = ".safetensors"
CODE = "code"  # key of the digest of the file that the model's code stood in
_UNRECORDED = 0
_log = logging.getLogger("salun")
_OWN_KEYS = {"model", "dataset", "nclasses", "architecture", "excluded"}
# What a model may be built for because a file says so, before its weights are known to fit.
_MOST_CLASSES = 1_000_000
_MOST_CHANNELS = 1024
_LARGEST_IMAGE = 1536


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: weights, optimiser, and what it takes to go on from them.

    Attributes:
        weights: the model's state.
        dataset: name of the data set it was trained on.
        config: everything else that was recorded, plain values only.
        excluded: training indices that the model was never trained on.
        mask: the mask that it was unlearned under; it goes to a file of its own.
    """

    weights: dict[str, Tensor]
    architecture: Architecture
    dataset: str
    optimizer: dict[str, Any] | None = None
    config: dict[str, Any] = field(default_factory=dict)
    excluded: tuple[int, ...] = ()
    mask: dict[str, Tensor] | None = None

    @property
    def fingerprint(self) -> str:
        """Identity of the weights: 16 hexadecimal digits."""
        return tensors_digest(self.weights)

    @property
    def is_finite(self) -> bool:
        """Whether all weights are numbers; those of a training that diverged are not."""
        return all(bool(tensor.isfinite().all()) for tensor in self.weights.values())

    def restore(self) -> nn.Module:
        """Build the model and give it these weights.

        Returns:
            The model on the CPU.

        Raises:
            SalunError: the weights do not fit.
        """
        model = build_undrawn(self.architecture)
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise SalunError(f"weights do not fit the model '{self.architecture.model}'") from error
        return model


def weights_file(folder: Path, name: str) -> Path:
    """Name the file of a model that is kept without its optimiser.

    Args:
        folder: of the file.
        name: of the model.

    Returns:
        `folder/name.safetensors`; in `.pt` where an earlier version wrote it so.
    """
    earlier = folder / f"{name}.pt"
    return earlier if earlier.is_file() else folder / f"{name}{SAFETENSORS}"


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in one piece.

    Args:
        path: the file; one that ends in `.safetensors` is safetensors with the config as JSON in its header.
        checkpoint: what to write; keys as in the seed system, `{"model", "optimizer", "config"}`.

    Raises:
        SalunError: the file cannot be written, or is of safetensors, which have no place for an optimiser.
    """
    architecture = asdict(checkpoint.architecture)
    name, classes = architecture.pop("model"), architecture.pop("classes")
    config = {"model": name, "dataset": checkpoint.dataset, "nclasses": classes}
    config |= {"architecture": architecture, "excluded": list(checkpoint.excluded)} | checkpoint.config
    if path.suffix == SAFETENSORS:
        if checkpoint.optimizer is not None:
            raise SalunError(f"{path}: safetensors hold no optimiser; a name that ends in .pt does")
        write_safetensors(path, checkpoint.weights, config)
        return
    weights = {key: tensor.detach().cpu() for key, tensor in checkpoint.weights.items()}
    write_tensors(path, {"model": weights, "optimizer": checkpoint.optimizer, "config": config})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours or of the seed system, running no code from it.

    A file of the seed system says only `{"model", "dataset", "nclasses"}`; the shape of its weights tells whether the
    model was adapted to small images or is timm's own.

    Args:
        path: the file.

    Returns:
        The checkpoint.

    Raises:
        SalunError: the file is missing, damaged, holds more than tensors and plain values, or its weights do not fit.
    """
    content = read_tensors(path, "checkpoint")
    if not isinstance(content, dict) or not {"model", "config"} <= content.keys():
        raise SalunError(f"{path}: not a checkpoint: {_foreign(content)}")
    weights, config = content["model"], content["config"]
    if not isinstance(config, dict) or not isinstance(weights, dict):
        raise SalunError(f"{path}: not a checkpoint: 'model' and 'config' must be dictionaries")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()):
        raise SalunError(f"{path}: not a checkpoint: 'model' must hold named tensors")
    recorded = _read_config(path, config)
    shape = recorded.architecture.model_dump() if recorded.architecture else {"size": _UNRECORDED}
    architecture = Architecture(recorded.model, recorded.nclasses, **shape)
    others = {key: value for key, value in config.items() if key not in _OWN_KEYS}
    excluded = tuple(recorded.excluded)
    checkpoint = Checkpoint(weights, architecture, recorded.dataset, content.get("optimizer"), others, excluded)
    return _fitted(path, checkpoint)


def _foreign(content: Any) -> str:
    """Say what a file is that another program wrote."""
    told = "must hold the keys 'model', 'optimizer' and 'config'"
    held = content.get("state_dict", content) if isinstance(content, dict) else None
    prefix = prefix_of(held) if isinstance(held, dict) else None
    named = f" whose names begin with '{prefix}'" if prefix else ""
    return f"{told}; salun-import makes one of the weights of other programs{named}"


class _Shape(BaseModel):
    """The images that a model was built for, as a checkpoint records them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    channels: int = Field(3, ge=1, le=_MOST_CHANNELS)
    size: int = Field(ge=1, le=_LARGEST_IMAGE)
    native: bool = False


class _Unlearned(BaseModel):
    """What a checkpoint may record of the run that made it, of which the rest of the package reads this."""

    model_config = ConfigDict(strict=True)

    id: str | None = None
    seed: int | None = None
    method: str | None = None
    base: dict[str, Any] | None = None
    forget: dict[str, Any] | None = None
    mask: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None


class _Recorded(BaseModel):
    """What a checkpoint's config must hold, and what it may."""

    model_config = ConfigDict(strict=True)

    model: str
    dataset: str
    nclasses: int = Field(ge=1, le=_MOST_CLASSES)
    architecture: _Shape | None = None
    excluded: list[Annotated[int, Field(ge=0, lt=2**63)]] = []
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


def _read_config(path: Path, config: dict[str, Any]) -> _Recorded:
    """Check the types in a checkpoint's config."""
    try:
        if isinstance(run := config.get("unlearned"), dict):
            _Unlearned.model_validate(run)
        return _Recorded.model_validate(config)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            raise SalunError(f"{path}: its config lacks '{where}'") from error
        raise SalunError(f"{path}: its config: {where}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from error


def _fitted(path: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Make sure that a checkpoint's weights fit its model, working out an unrecorded shape."""
    recorded = checkpoint.architecture
    unfit = f"{path}: its weights do not fit the model '{recorded.model}' that it names"
    try:
        check_model(recorded.model)
    except SalunError as error:
        raise SalunError(f"{path}: {error}") from error
    # So that no model of a million classes is built because a file says so.
    if not any(tensor.shape[:1] == (recorded.classes,) for tensor in checkpoint.weights.values()):
        given = [f"'{name}' is of {len(weight)} classes" for name, weight in checkpoint.weights.items() if weight.ndim]
        raise SalunError(f"{unfit}: {(given or ['they are of none'])[-1]}, its config of {recorded.classes}")
    candidates = [recorded]
    if recorded.size == _UNRECORDED:
        native = pretrained_size(recorded.model)
        candidates = [replace(recorded, size=32), replace(recorded, size=native, native=True)]
    faults = []
    for candidate in candidates:
        try:
            model = build_undrawn(candidate)
        except SalunError as error:
            faults.append(f"{path}: {error}")
            continue
        fault = misfit(checkpoint.weights, model.state_dict())
        if fault is None:
            if code_of(recorded.model) != checkpoint.config.get(CODE, code_of(recorded.model)):
                _log.warning("%s: the code of '%s' has changed since its weights were trained", path, recorded.model)
            return replace(checkpoint, architecture=candidate)
        faults.append(f"{unfit}: {fault}")
    prefix = prefix_of(checkpoint.weights)
    if prefix:
        raise SalunError(f"{unfit}: their names begin with '{prefix}', which salun-import takes off")
    raise SalunError(faults[0])
