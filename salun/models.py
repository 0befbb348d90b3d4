"""Any timm model, adapted to small images; its features and head; checkpoints."""

import hashlib
import urllib.error
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, cast
from urllib.request import Request, urlopen

import timm
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from timm.models.deit import VisionTransformerDistilled
from timm.models.pit import PoolingVisionTransformer
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vgg import VGG
from timm.models.volo import VOLO
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from salun.bounds import check_length, check_stored, check_values
from salun.errors import SalunError, did_you_mean
from salun.files import replacing

TINY = "resnet_tiny"
SMALL = 64
PATCHED = ("vit_", "deit", "swin_", "swinv2_", "flexivit_", "cait_", "convit_")
TWO_TOKENS = (VisionTransformerDistilled, PoolingVisionTransformer)
HUB_TIMEOUT = 10.0
BUSY = (408, 429, 500, 502, 503, 504)
UNRECORDED = 0
DRAWS = (Tensor.normal_, Tensor.uniform_)
# What may be asked of weights without memory: the rest is worked out by Python code, which sympy is imported for.
HARMLESS = {"__get__", "dim", "size", "is_contiguous", "zero_", "fill_"}
OWN_KEYS = {"model", "dataset", "nclasses", "architecture", "excluded"}
# What a model may be built for because a file says so, before its weights are known to fit.
MOST_CLASSES = 1_000_000
MOST_CHANNELS = 1024
LARGEST_IMAGE = 1536
# Weights that are shared stand in a file once and in a model twice.
SHARED = 4
LARGEST_FILE = 2**40


@dataclass(frozen=True)
class Architecture:
    """What it takes to build a model again.

    Attributes:
        model: a timm name, or "resnet_tiny".
        classes: number of classes.
        channels: colour channels of the images.
        size: side of the images in pixels, as they reach the model.
        native: whether the model keeps timm's own shape for large images.
    """

    model: str
    classes: int
    channels: int = 3
    size: int = 32
    native: bool = False


def default_model(dataset: str) -> str:
    """Choose a model where the user names none.

    Args:
        dataset: the data set's name.

    Returns:
        "resnet_tiny" for the 8x8 digits, else "resnet18".
    """
    return TINY if dataset == "digits" else "resnet18"


def check_model(name: str) -> None:
    """Check that a model name is known.

    Args:
        name: a timm name, or "resnet_tiny".

    Raises:
        SalunError: it is not, with the nearest name.
    """
    if name == TINY:
        return
    family, _, tag = name.partition(".")
    if not timm.is_model(family):
        raise SalunError(f"model '{name}': unknown{did_you_mean(name, [TINY, *timm.list_models()])}")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        hint = did_you_mean(name, [family, *timm.list_pretrained(f"{family}.*")])
        raise SalunError(f"model '{name}': unknown tag '{tag}'{hint}") from error


def build(architecture: Architecture, pretrained: bool = False) -> nn.Module:
    """Build a model with fresh weights, or with timm's pretrained ones.

    Images of at most 64 pixels: a ResNet gets a 3x3 first convolution of stride 1 and no max-pool
    (He et al., 2016, section 4.2), a VGG the 512-wide head and only as many max-pools as the image
    can take. A model of fixed input size is built for the images' size, a vision transformer with a
    patch that leaves at least 8 x 8 of them. A native model is timm's own.

    Args:
        architecture: what to build.
        pretrained: whether timm's weights are loaded; implies a native model.

    Returns:
        The model on the CPU, in training mode.

    Raises:
        SalunError: the name is unknown, the model cannot take such images, or its pretrained weights
            cannot be had.
    """
    name, size = architecture.model, architecture.size
    check_model(name)
    if pretrained:
        return load_pretrained(architecture)
    known, state = known_options(architecture), torch.get_rng_state()
    for options in known or input_options(architecture):
        torch.set_rng_state(state)  # so that the weights do not depend on what was tried before
        try:
            with warnings.catch_warnings(action="ignore"):
                model = shaped(architecture, options)
                if not known:
                    try_out(model, architecture)
        except Exception as error:  # timm's models refuse sizes and options with errors of every kind
            refusal = error
            continue
        known[:] = [options]
        return model.train()
    reason = str(refusal).splitlines()[0] if str(refusal) else type(refusal).__name__
    raise SalunError(f"model '{name}' cannot take images of {size} x {size} pixels: {reason}") from refusal


@lru_cache
def known_options(architecture: Architecture) -> list[dict[str, int]]:
    """Remember how timm is told the images' size, so that a model is tried out only once.

    Args:
        architecture: of the model.

    Returns:
        A list to be kept up to date: the options that were found to work, or none yet.
    """
    return []


def shaped(architecture: Architecture, options: dict[str, int]) -> nn.Module:
    """Build a model and, unless it is native, fit it to small images.

    Args:
        architecture: what to build.
        options: further ones for timm.

    Returns:
        The model.
    """
    model = bare(architecture, options)
    if not architecture.native:
        adapt(model, architecture)
    return model


def try_out(model: nn.Module, architecture: Architecture) -> None:
    """See that a model, unless it is native, takes an image.

    Args:
        model: is put in evaluation mode.
        architecture: of the images.

    Raises:
        Exception: of any kind, the model's own: it does not.
    """
    if architecture.native:
        return
    with torch.no_grad():
        logits = model.eval()(torch.zeros(1, architecture.channels, architecture.size, architecture.size))
    if not logits.isfinite().all():
        raise ValueError("its output is not finite")


def bare(architecture: Architecture, options: dict[str, int]) -> nn.Module:
    """Build a model as timm does; "resnet_tiny" is timm's class, four stages of widths 16, 32, 64 and 128.

    Args:
        architecture: what to build.
        options: further ones for timm.

    Returns:
        The model; "resnet_tiny" has about 0.7 million weights.
    """
    given: dict[str, Any] = {"num_classes": architecture.classes, "in_chans": architecture.channels}
    if architecture.model == TINY:
        return cast(nn.Module, ResNet(BasicBlock, (2, 2, 2, 2), channels=(16, 32, 64, 128), **given))
    return cast(nn.Module, timm.create_model(architecture.model, **given, **options))


def input_options(architecture: Architecture) -> list[dict[str, int]]:
    """List the ways to tell a model the images' size, the best first.

    Args:
        architecture: a known model.

    Returns:
        Options for timm. Not every model of fixed input size takes them: the last are none.
    """
    name, size = architecture.model, architecture.size
    if name == TINY or architecture.native:
        return [{}]
    config = timm.get_pretrained_cfg(name)
    patched = "patch" in name or name.startswith(PATCHED)
    if not patched and (config is None or not config.fixed_input_size):
        return [{}]
    patch = patch_option(name, size) if patched else {}
    return [{"img_size": size, **patch}, *([{"img_size": size}] if patch else []), {}]


def adapt(model: nn.Module, architecture: Architecture) -> None:
    """Fit a convolutional model to small images, in place.

    Args:
        model: as timm builds it.
        architecture: the images' side and channels.
    """
    if architecture.size > SMALL:
        return
    if isinstance(model, ResNet):
        stem = model.conv1
        if isinstance(stem, nn.Conv2d):
            model.conv1 = nn.Conv2d(architecture.channels, stem.out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        else:
            stem[0].stride = (1, 1)
        model.maxpool = nn.Identity()
    if isinstance(model, VGG):
        pools = [place for place, layer in enumerate(model.features) if isinstance(layer, nn.MaxPool2d)]
        for place in pools[architecture.size.bit_length() - 1 :]:
            model.features[place] = nn.Identity()
        model.pre_logits = nn.Identity()
        model.head_hidden_size = model.num_features
        model.head.num_features = model.head.in_features = model.num_features
        model.head.fc = nn.Linear(model.num_features, architecture.classes)
        nn.init.normal_(model.head.fc.weight, 0, 0.01)
        nn.init.zeros_(model.head.fc.bias)


def patch_option(name: str, size: int) -> dict[str, int]:
    """Choose a transformer's patch for small images.

    Args:
        name: timm's name.
        size: side of the images in pixels.

    Returns:
        The option for timm: the largest divisor of `size` that leaves at least 8 x 8 patches, where
        the model's own patch is larger than that.
    """
    native = 16
    if name.startswith(("swin_", "swinv2_")):
        native = 4
    elif "patch" in name:
        native = int(name.partition("patch")[2].partition("_")[0])
    limit = max(1, size // 8)
    if native <= limit and size % native == 0:
        return {}
    return {"patch_size": max(side for side in range(1, min(native, limit) + 1) if size % side == 0)}


def load_pretrained(architecture: Architecture) -> nn.Module:
    """Build a model with timm's pretrained weights and a new head.

    Args:
        architecture: a native one.

    Returns:
        The model.

    Raises:
        SalunError: there are no such weights, or they cannot be fetched.
    """
    name = architecture.model
    if name == TINY:
        raise SalunError(f"model '{TINY}': has no pretrained weights; leave --pretrained out")
    try:
        reach_weights(name)
        model = timm.create_model(
            name, pretrained=True, num_classes=architecture.classes, in_chans=architecture.channels
        )
        return cast(nn.Module, model)
    except Exception as error:  # the hub's client and the decoders of files raise errors of every kind
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        remedy = "without --pretrained the model starts from fresh weights"
        raise SalunError(f"model '{name}': pretrained weights cannot be had ({reason}); {remedy}") from error


def reach_weights(name: str) -> None:
    """Make sure that pretrained weights are here, or that the host that holds them answers.

    Without a network, or where the host is out of order, the client would repeat itself for most of a
    minute.

    Args:
        name: a timm name.

    Raises:
        OSError: they are not here, and the host does not answer.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id or constants.HF_HUB_OFFLINE:
        return
    file = config.hf_hub_filename or "model.safetensors"
    if isinstance(try_to_load_from_cache(config.hf_hub_id, file), str):
        return
    request = Request(constants.ENDPOINT, method="HEAD")  # noqa: S310 - the client's own setting
    try:
        urlopen(request, timeout=HUB_TIMEOUT).close()  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code in BUSY:
            raise


def pretrained_size(name: str) -> int:
    """Tell the input size of a model's pretrained weights.

    Args:
        name: a timm name.

    Returns:
        Side in pixels.
    """
    config = timm.get_pretrained_cfg(name)
    return int(config.input_size[-1]) if config is not None else 224


def embed(model: nn.Module, x: Tensor) -> Tensor:
    """Compute the features that the classification head sees.

    Args:
        model: any timm model.
        x: (B, C, H, W) model input.

    Returns:
        (B, D) features; `head(model)` maps them to logits. Of a distilled transformer, whose two heads
        read a token each, D counts both tokens.
    """
    features = cast(Any, model).forward_features(x)
    if has_two_tokens(model):
        return cast(Tensor, features[:, :2].flatten(1))
    return cast(Tensor, cast(Any, model).forward_head(features, pre_logits=True))


@contextmanager
def features_seen(model: nn.Module) -> Iterator[Callable[[], Tensor]]:
    """Watch what the classification head of a model sees, for losses on the features of a forward pass.

    Args:
        model: any timm model.

    Yields:
        A function that gives the (B, D) float32 features of the model's last forward pass, with their gradient.
    """
    found = cast(Any, model).get_classifier()
    layers = found if isinstance(found, tuple) else (found,)
    parts: dict[int, Tensor] = {}

    def see(layer: nn.Module, inputs: tuple[Tensor, ...], place: int) -> None:
        parts[place] = inputs[0].flatten(1).float()

    hooks = [layer.register_forward_pre_hook(partial(see, place=place)) for place, layer in enumerate(layers)]
    try:
        yield lambda: torch.cat([parts[place] for place in range(len(layers))], 1)
    finally:
        for hook in hooks:
            hook.remove()


def head(model: nn.Module) -> nn.Linear:
    """Find the classification head; its weight (classes, D) holds the class prototypes.

    Args:
        model: any timm model with a linear head.

    Returns:
        The linear layer; where the head is a 1x1 convolution, a linear layer of the same weights. Where
        there are two heads, whose logits the model averages (distillation), one that gives that average.

    Raises:
        SalunError: the model's head is not linear.
    """
    layer = cast(Any, model).get_classifier()
    if isinstance(model, VOLO):
        raise SalunError("model VOLO: its logits add the largest of every patch, not linear: no prototypes")
    if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
        return linear_of(layer.weight.flatten(1), layer.bias)
    if isinstance(layer, tuple) and all(isinstance(part, nn.Linear) for part in layer):
        halves = [part.weight / len(layer) for part in layer]
        weight = torch.cat(halves, 1) if has_two_tokens(model) else torch.stack(halves).sum(0)
        return linear_of(weight, torch.stack([part.bias for part in layer]).mean(0))
    if not isinstance(layer, nn.Linear):
        raise SalunError(f"model {type(model).__name__}: its head is {type(layer).__name__}, not linear: no prototypes")
    return layer


def has_two_tokens(model: nn.Module) -> bool:
    """Tell whether a model is a distilled transformer, whose two heads read a token each.

    Args:
        model: any timm model.

    Returns:
        Whether it is.
    """
    return isinstance(model, TWO_TOKENS) and isinstance(cast(Any, model).get_classifier(), tuple)


def linear_of(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a linear layer of given weights.

    Args:
        weight: (classes, D).
        bias: (classes,), or None.

    Returns:
        The layer; it shares their memory.
    """
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = nn.Parameter(weight)
    if bias is not None:
        linear.bias = nn.Parameter(bias)
    return linear


def tensors_digest(tensors: dict[str, Tensor]) -> str:
    """Identify named tensors by their content.

    Args:
        tensors: of any type and shape.

    Returns:
        16 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(name.encode() + flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Checkpoint:
    """A model on disk: weights, optimiser, and what it takes to go on from them.

    Attributes:
        weights: the model's state.
        architecture: how to build the model.
        dataset: name of the data set it was trained on.
        optimizer: the optimiser's state, or None.
        config: everything else that was recorded: preparation, recipe, split seed and fingerprint,
            class names, how the model came about. Plain values only.
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
        model = unfilled(self.architecture, shapes_of(self.weights))
        try:
            fill(model, self.weights)
        except RuntimeError as error:
            raise SalunError(f"weights do not fit the model '{self.architecture.model}'") from error
        return model


def unfilled(architecture: Architecture, shapes: dict[str, torch.Size]) -> nn.Module:
    """Build a model that is about to be given its weights, drawing none where that can be saved.

    Args:
        architecture: what to build.
        shapes: of the weights' state.

    Returns:
        The model in training mode, with weights of any values, or without memory for them ("meta").

    Raises:
        SalunError: as `build` does.
    """
    empty = skeleton(architecture)
    if empty is not None and shapes_of(empty.state_dict()) == shapes:
        return copy_of(empty)
    with torch.random.fork_rng(devices=[]):
        return build(architecture)


def fill(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give a model weights, and memory for them where it has none.

    Args:
        model: is changed in place.
        weights: its whole state; it is copied.

    Raises:
        RuntimeError: they do not fit.
    """
    state = model.state_dict()
    assign = any(tensor.is_meta for tensor in state.values())
    if assign:
        weights = {name: torch.empty(x.shape, dtype=x.dtype).copy_(weights[name]) for name, x in state.items()}
    model.load_state_dict(weights, assign=assign)


def copy_of(empty: nn.Module) -> nn.Module:
    """Copy a model without memory for its state.

    Args:
        empty: the model.

    Returns:
        A copy, to be filled.
    """
    return deepcopy(empty, {id(tensor): tensor for tensor in empty.state_dict(keep_vars=True).values()})


@lru_cache
def skeleton(architecture: Architecture) -> nn.Module | None:
    """Build a model without memory for its state, once, to be copied and filled.

    Args:
        architecture: what to build.

    Returns:
        The model in training mode; what it holds beside its state is in memory. None where that cannot be had: timm
        refuses it, or weights are shared.
    """
    model = skeleton_by_shapes(architecture)
    if model is not None:
        return model
    with suppress(Exception), torch.random.fork_rng(devices=[]):  # whatever it is, `build` will say so again
        model = build(architecture)
        state = model.state_dict(keep_vars=True)
        if not tied(state):
            model.load_state_dict({name: tensor.to("meta") for name, tensor in state.items()}, assign=True)
            return copy_of(model)
    return None


def skeleton_by_shapes(architecture: Architecture) -> nn.Module | None:
    """Build a model without memory and without chance, and see that it takes an image.

    Args:
        architecture: what to build.

    Returns:
        The model in training mode; None where it computes as it is built, holds more than its state, or is refused.
    """
    try:
        options, *_ = known_options(architecture) or input_options(architecture)
        with torch.device("meta"), Shapes(), warnings.catch_warnings(action="ignore"):
            model = shaped(architecture, options)
        state = model.state_dict(keep_vars=True)
        reached: dict[int, Any] = {id(tensor): tensor for tensor in state.values()}
        filled = deepcopy(model, reached)
        if len(state) < sum(isinstance(found, Tensor) for found in reached.values()) or tied(state):
            return None
        filled.load_state_dict({name: torch.zeros(x.shape, dtype=x.dtype) for name, x in state.items()}, assign=True)
        try_out(filled, architecture)
    except Exception:  # of any kind, the model's own; `build` will find the same or better options
        return None
    known_options(architecture)[:] = [options]
    return model.train()


def tied(state: dict[str, Tensor]) -> bool:
    """Tell whether a model has some of its weights under several names.

    Args:
        state: of the model, its own tensors.

    Returns:
        Whether it has.
    """
    return len(set(map(id, state.values()))) < len(state)


class Shapes(TorchFunctionMode):
    """While a model is built without memory: draws no weights, and refuses what would compute with them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do what a function asks for, as torch asks it of its modes."""
        given = kwargs or {}
        if func in DRAWS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else given["tensor"]
        if func.__name__ not in HARMLESS and any(isinstance(x, Tensor) and x.is_meta for x in args):
            raise ValueError(f"computes with its weights: {func.__name__}")
        return func(*args, **given)


def shapes_of(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    """List the shapes of a state.

    Args:
        state: named tensors.

    Returns:
        Shapes by name.
    """
    return {name: tensor.shape for name, tensor in state.items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint in one piece.

    Args:
        path: the file.
        checkpoint: what to write; keys as in the seed system, `{"model", "optimizer", "config"}`.

    Raises:
        SalunError: the file cannot be written.
    """
    architecture = asdict(checkpoint.architecture)
    name, classes = architecture.pop("model"), architecture.pop("classes")
    config = {"model": name, "dataset": checkpoint.dataset, "nclasses": classes}
    config |= {"architecture": architecture, "excluded": list(checkpoint.excluded)} | checkpoint.config
    weights = {key: tensor.detach().cpu() for key, tensor in checkpoint.weights.items()}
    write_tensors(path, {"model": weights, "optimizer": checkpoint.optimizer, "config": config})


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of ours or of the seed system, running no code from it.

    A file of the seed system says only `{"model", "dataset", "nclasses"}`; the shape of its weights
    tells whether the model was adapted to small images or is timm's own.

    Args:
        path: the file.

    Returns:
        The checkpoint.

    Raises:
        SalunError: the file is missing, damaged, holds more than tensors and plain values, or its
            weights do not fit the model that it names.
    """
    content = read_tensors(path, "checkpoint")
    if not isinstance(content, dict) or not {"model", "config"} <= content.keys():
        raise SalunError(f"{path}: not a checkpoint: must hold the keys 'model', 'optimizer' and 'config'")
    weights, config = content["model"], content["config"]
    if not isinstance(config, dict) or not isinstance(weights, dict):
        raise SalunError(f"{path}: not a checkpoint: 'model' and 'config' must be dictionaries")
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()):
        raise SalunError(f"{path}: not a checkpoint: 'model' must hold named tensors")
    recorded = read_config(path, config)
    shape = recorded.architecture.model_dump() if recorded.architecture else {"size": UNRECORDED}
    architecture = Architecture(recorded.model, recorded.nclasses, **shape)
    others = {key: value for key, value in config.items() if key not in OWN_KEYS}
    excluded = tuple(recorded.excluded)
    checkpoint = Checkpoint(weights, architecture, recorded.dataset, content.get("optimizer"), others, excluded)
    return fitted(path, checkpoint)


class Shape(BaseModel):
    """The images that a model was built for, as a checkpoint records them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    channels: int = Field(3, ge=1, le=MOST_CHANNELS)
    size: int = Field(ge=1, le=LARGEST_IMAGE)
    native: bool = False


class Unlearned(BaseModel):
    """What a checkpoint may record of the run that made it, of which the rest of the package reads this."""

    model_config = ConfigDict(strict=True)

    id: str | None = None
    seed: int | None = None
    method: str | None = None
    base: dict[str, Any] | None = None
    forget: dict[str, Any] | None = None
    mask: dict[str, Any] | None = None
    settings: dict[str, Any] | None = None


class Recorded(BaseModel):
    """What a checkpoint's config must hold, and what it may."""

    model_config = ConfigDict(strict=True)

    model: str
    dataset: str
    nclasses: int = Field(ge=1, le=MOST_CLASSES)
    architecture: Shape | None = None
    excluded: list[Annotated[int, Field(ge=0, lt=2**63)]] = []
    split_seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


def read_config(path: Path, config: dict[str, Any]) -> Recorded:
    """Check the types in a checkpoint's config.

    Args:
        path: for the text of the error.
        config: as read.

    Returns:
        What this module needs of it.

    Raises:
        SalunError: an entry is missing or of another type.
    """
    try:
        if isinstance(run := config.get("unlearned"), dict):
            Unlearned.model_validate(run)
        return Recorded.model_validate(config)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, fault["loc"]))
        if fault["type"] == "missing":
            raise SalunError(f"{path}: its config lacks '{where}'") from error
        raise SalunError(f"{path}: its config: {where}: {fault['msg'][0].lower()}{fault['msg'][1:]}") from error


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values, whole or not at all.

    Args:
        path: the file.
        content: what `read_tensors` gives back.

    Raises:
        SalunError: the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)  # given the path, it would not tell why a disk takes no more


def read_tensors(path: Path, what: str) -> Any:
    """Read a file that `torch.save` wrote, running no code from it.

    Args:
        path: the file.
        what: "checkpoint" or "mask", for the text of errors.

    Returns:
        What it holds: tensors and plain values.

    Raises:
        SalunError: the file is missing, damaged, holds anything else, or claims more than its length.
    """
    check_length(path, LARGEST_FILE)
    try:
        length = path.stat().st_size
        with zipfile.ZipFile(path) as archive:
            check_stored(archive.infolist(), length)
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        check_tensors(check_values(content), length)
    except FileNotFoundError as error:
        raise SalunError(f"{path}: no such {what}") from error
    except Exception as error:  # decoders raise errors of every kind on a broken file
        raise SalunError(f"{path}: not a readable {what}: damaged, or holds more than tensors and values") from error
    return content


def check_tensors(found: Iterable[Any], length: int) -> None:
    """Check that tensors are plain ones in memory, and are no more than their file can hold.

    A view may claim any number of values of a storage of one, and becomes as large as that when it is copied.

    Args:
        found: tensors, and values of other types.
        length: of the file in bytes.

    Raises:
        ValueError: one is not, or they are more.
    """
    claimed = 0
    for tensor in found:
        if not isinstance(tensor, Tensor):
            continue
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise ValueError("holds tensors that are not in memory, sparse or quantised")
        claimed += tensor.numel() * tensor.element_size()
    if claimed > SHARED * length:
        raise ValueError("holds tensors that claim more than the file")


def fitted(path: Path, checkpoint: Checkpoint) -> Checkpoint:
    """Make sure that a checkpoint's weights fit its model, working out an unrecorded shape.

    Args:
        path: for the text of the error.
        checkpoint: as read; a size of `UNRECORDED` means that the file says nothing of it.

    Returns:
        The checkpoint with a complete architecture.

    Raises:
        SalunError: the weights fit no form of the model.
    """
    recorded = checkpoint.architecture
    unfit = f"{path}: its weights do not fit the model '{recorded.model}' that it names"
    try:
        check_model(recorded.model)
    except SalunError as error:
        raise SalunError(f"{path}: {error}") from error
    shapes = shapes_of(checkpoint.weights)
    # So that no model of a million classes is built because a file says so.
    if not any(shape[:1] == (recorded.classes,) for shape in shapes.values()):
        raise SalunError(unfit)
    candidates = [recorded]
    if recorded.size == UNRECORDED:
        native = pretrained_size(recorded.model)
        candidates = [replace(recorded, size=32), replace(recorded, size=native, native=True)]
    faults = []
    for candidate in candidates:
        try:
            # What a file says nothing of is tried with real images.
            model = build(candidate) if recorded.size == UNRECORDED else unfilled(candidate, shapes)
        except SalunError as error:
            faults.append(str(error))
            continue
        if shapes == shapes_of(model.state_dict()):
            return replace(checkpoint, architecture=candidate)
    raise SalunError(f"{path}: {faults[0]}" if len(faults) == len(candidates) else unfit)
