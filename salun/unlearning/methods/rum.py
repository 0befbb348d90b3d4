from collections.abc import Sequence
from copy import deepcopy
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo
from pydantic_core import PydanticCustomError
from torch import Tensor, nn

from salun.data.images import Images
from salun.errors import SalunError
from salun.training.evaluate import predict
from salun.unlearning import PositiveFloat, PositiveInt, Task, TrainingConfig, find_method, method, settled
from salun.unlearning.forget_choice import memorization
from salun.unlearning.registry import WHOLE_CLASSES

_NOTHING = "nothing"

_LEAST = 1e-10


def _checked(methods: list[str | dict[str, Any]], info: ValidationInfo) -> list[dict[str, Any]]:
    """Check the methods of the parts where an experiment is read, before anything is computed."""
    known = info.data or {}
    try:
        return _plan(methods, "class_to_forget" not in known or known["class_to_forget"] is not None)
    except SalunError as error:
        raise PydanticCustomError("methods", "{reason}", {"reason": str(error)}) from error


_Methods = Annotated[list[str | dict[str, Any]], Field(min_length=1, validate_default=True), AfterValidator(_checked)]

_SGD = {"batch_size": 256, "momentum": 0.9, "weight_decay": 5e-4, "grad_clip": None, "schedule": "constant"}

_CIFAR10: list[str | dict[str, Any]] = [
    {"method": _NOTHING},
    {"method": "ft", "lr": 0.1, "epochs": 10, **_SGD},
    {"method": "rl", "lr": 0.1, "epochs": 5, **_SGD, "labels": "any"},
]


@method()
def rum(
    task: Task,
    *,
    methods: _Methods = _CIFAR10,
    proxy: Literal["confidence", "holdout"] = "confidence",
    proxy_epochs: PositiveInt = 30,
    proxy_lr: PositiveFloat = 0.1,
    proxy_batch_size: PositiveInt = 256,
) -> None:
    """Split the forget set by how far its images are memorised and unlearn part after part, each by its own method.

    Parts are of equal size and come in the order of growing memorisation. Images whose turn has not come yet count
    among those to retain: they are to be forgotten from a model that still knows them.
    A method for whole classes may take a part where classes are forgotten; of these it then gets some images only.

    Args:
        task: what to unlearn.
        methods: one a part, from the least memorised part on: names, or objects of "method" and its settings;
            "nothing" leaves a part alone.
        proxy: how memorisation is measured: "confidence", the lower the model's probability of the true class the
            higher; "holdout", the further the model moves on an image when a copy is fine-tuned on the validation
            images the higher.
        proxy_epochs: passes of "holdout" over the validation images.
        proxy_lr: learning rate of "holdout".
        proxy_batch_size: images a step of "holdout".

    Equation:
        forget = S_1 + ... + S_K by memorisation; theta_i = U_i(theta_i-1, S_i, train - S_1 - ... - S_i). "confidence":
        -ln p(y); "holdout": (KL(p, q) + KL(q, p)) / 2, p of the model and q of the fine-tuned copy.

    Deviations:
        Memorisation scores proper take many models, trained with and without each image; both proxies are from the
        second paper, where confidence is the mean over the training, here the trained model's. "holdout" uses SGD at a
        constant rate as the code, which takes the test images for it and stops early. The code cuts the parts out of
        the whole training set, the ends and the middle of the order; here a given forget set is split. The mask, if
        one is used, holds for all parts; the paper uses SalUn's in the last part alone.

    Source:
        Zhao, Kurmanji, Barbulescu, Triantafillou and Triantafillou, "What makes unlearning hard and what to do about
        it", NeurIPS 2024, https://arxiv.org/abs/2406.01257; Zhao and Triantafillou, "Scalability of memorization-based
        machine unlearning", 2024, https://arxiv.org/abs/2410.16516; methods of the CIFAR-10 pipeline of their code.
    """
    chosen = _plan(methods, bool(task.forgotten))
    if proxy == "confidence":
        scores = memorization(task.model, task.forget)
    else:
        scores = _holdout(task, proxy_epochs, proxy_lr, proxy_batch_size)
    parts = [task.forget.take(places) for places in scores.argsort(stable=True).tensor_split(len(chosen))]
    for number, (part, settings) in enumerate(zip(parts, chosen, strict=True), 1):
        name, rest = settings["method"], {key: value for key, value in settings.items() if key != "method"}
        if name == _NOTHING or not len(part) or task.passes.exhausted:
            continue
        with task.part(forget=part, retain=_joined(task.retain, parts[number:])) as smaller:
            smaller.apply(name, rest)


def _joined(images: Images, others: Sequence[Images]) -> Images:
    """Put sets of images one after the other."""
    for other in others:
        images = images.join(other)
    return images


def _plan(methods: Sequence[str | dict[str, Any]], whole_classes: bool) -> list[dict[str, Any]]:
    """Check the methods of the parts."""
    found = []
    for number, given in enumerate(methods, 1):
        entry = {"method": given} if isinstance(given, str) else given
        try:
            found.append(_step(entry, whole_classes))
        except SalunError as error:
            raise SalunError(f"part {number}: {error}") from error
    return found


def _step(entry: dict[str, Any], whole_classes: bool) -> dict[str, Any]:
    """Check the method of one part."""
    name, given = entry.get("method"), {key: value for key, value in entry.items() if key != "method"}
    if not isinstance(name, str):
        raise SalunError("must be a method's name, or an object of 'method' and its settings")
    if name == _NOTHING:
        if given:
            raise SalunError(f"method '{_NOTHING}': has no settings, but '{next(iter(given))}' is given")
        return {"method": _NOTHING}
    chosen = find_method(name)
    if chosen.name == "rum" or not chosen.maskable:
        raise SalunError(f"method '{name}': cannot unlearn a part; it takes the whole forget set")
    if chosen.classwise and not whole_classes:
        raise SalunError(f"method '{name}': {WHOLE_CLASSES}")
    return {"method": chosen.name, **settled(name, given)}


def _holdout(task: Task, epochs: int, lr: float, batch_size: int) -> Tensor:
    """Score forget images by how far the model moves on them when a copy learns the validation images."""
    if not len(task.validation):
        raise SalunError("method 'rum': proxy 'holdout': there are no validation images; use 'confidence'")
    with task.passes.reserving(2 * len(task.forget)), task.part(model=deepcopy(task.model)) as aside:
        aside.training = TrainingConfig(lr, epochs, batch_size)
        aside.fit(lambda epoch: aside.batches(task.validation))
    return _symmetric_kl(task.model, aside.model, task.forget)


def _symmetric_kl(model: nn.Module, other: nn.Module, images: Images) -> Tensor:
    """Score images by how far two models differ on them: (N,) float64, in nats."""
    p, q = (predict(each, images).logits.double().softmax(1).clamp_min(_LEAST) for each in (model, other))
    return ((p - q) * (p.log() - q.log())).sum(1) / 2
