import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from outputs import CLASS_WISE, SIZES, changed, compared, first, permuted, rewritten, several

from salun.data.images import Images
from salun.metrics import METRICS, Evaluation, Runs, evaluate, load_metrics
from salun.training.evaluate import Outputs, predict

load_metrics()
NAMES = [name for name, metric in METRICS.items() if metric.subject in (Evaluation, Runs)]
TOGETHER = {
    " ".join(names): names
    for names in ([other for other in NAMES if METRICS[other].compute is METRICS[name].compute] for name in NAMES)
}


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the forests of the loss attack have few trees, whose number is not what is tested here."""
    monkeypatch.setattr("salun.metrics.loss_forest.product", lambda _, criteria: [(5, name) for name in criteria])


def ordinary(names: str, **options: Any) -> Any:
    options = {"sizes": CLASS_WISE} | options
    if names == "others":  # of classes of which nothing is forgotten
        return changed(compared(**options), lambda held: of_one_class(held) if len(held.labels) == 60 else held)
    return several(**options) if METRICS[TOGETHER[names][0]].subject is Runs else compared(**options)


def of_one_class(held: Outputs) -> Outputs:
    return Outputs(held.logits, torch.zeros_like(held.labels), held.indices)


def values_of(names: str, subject: Any) -> Any:
    return evaluate(subject, tuple(TOGETHER[names]))


def numbers(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return numbers(list(value.values()))
    return [number for part in value for number in numbers(part)] if isinstance(value, list) else [value]


def is_defined(value: Any) -> bool:
    return all(number is None or math.isfinite(number) for number in numbers(value))


DEGENERATE = {
    "nothing to forget": lambda subject: subject(sizes=CLASS_WISE | {"forget": 0}),
    "nothing retained": lambda subject: subject(sizes=CLASS_WISE | {"retain": 0}),
    "no test images": lambda subject: subject(sizes=SIZES | {"test": 0}),
    "only forgotten classes": lambda subject: subject(sizes=CLASS_WISE | {"test": 0, "validation": 0}),
    "no images": lambda subject: subject(sizes=dict.fromkeys(SIZES, 0)),
    "no class forgotten": lambda subject: subject(sizes=SIZES),
    "one class": lambda subject: subject(classes=1),
    "two classes": lambda subject: subject(classes=2),
    "one image": lambda subject: first(subject(), 1),
    "two images": lambda subject: first(subject(), 2),
    "equal logits": lambda subject: rewritten(subject(), torch.zeros_like),
    "equal confidences": lambda subject: changed(
        subject(), lambda held: Outputs(torch.eye(held.logits.shape[1])[held.labels], held.labels, held.indices)
    ),
    "saturated": lambda subject: rewritten(subject(), lambda logits: 1e4 * logits),
    "nearly infinite": lambda subject: rewritten(subject(), lambda logits: 1e37 * logits),
    "infinite": lambda subject: rewritten(subject(), lambda logits: torch.inf * logits),
    "excluded classes": lambda subject: rewritten(
        subject(), lambda logits: torch.where(logits < 0, -torch.inf, logits)
    ),
    "no numbers": lambda subject: rewritten(subject(), lambda logits: torch.nan * logits),
    "unknown places": lambda subject: changed(subject(), lambda held: Outputs(held.logits, held.labels)),
}


@pytest.mark.parametrize("name", NAMES)
def test_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    for text in (metric.summary, metric.formula, metric.blind, metric.source, metric.ideal):
        assert text
        assert text.isascii()
    assert metric.summary.endswith(".")


@pytest.mark.parametrize("names", TOGETHER)
def test_ordinary_outputs_have_a_value(names: str) -> None:
    found = values_of(names, ordinary(names))
    assert list(found) == TOGETHER[names]
    assert None not in numbers(found)
    assert is_defined(found)


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("names", TOGETHER)
@pytest.mark.filterwarnings("error")
def test_degenerate_outputs_have_a_finite_value_or_none(names: str, case: str) -> None:
    assert is_defined(values_of(names, DEGENERATE[case](lambda **options: ordinary(names, **options))))


def sure(subject: Any, wrong: bool) -> Any:
    """The same subject, sure beyond what float32 tells apart of the true class of every image, or of the next one."""

    def said(held: Outputs) -> Outputs:
        classes = held.logits.shape[1]
        return Outputs(200.0 * torch.eye(classes)[(held.labels + wrong) % classes], held.labels, held.indices)

    return changed(subject, said)


def of_two_kinds(retrained: bool) -> Evaluation:
    """A model that knows all but the forgotten, or one that knows the forgotten alone."""
    known, unknown = (sure(compared(sizes=CLASS_WISE), wrong) for wrong in (False, True))
    forgot = replace(known, forget=unknown.forget, forgotten_test=unknown.forgotten_test)
    remembers = replace(unknown, forget=known.forget, forgotten_test=known.forgotten_test)
    return forgot if retrained else remembers


LN_2 = math.log(2)
# Of every metric that compares models: where no two could be further apart, and where they are one and the same.
EXTREMES = {
    **dict.fromkeys(("disagreement", "disagreement_test", "confidence_distance", "confidence_difference"), (1, 0)),
    **dict.fromkeys(("completeness", "ToW", "ToW_MIA", "AUS", "forgetting_quality", "neurips_score"), (0, 1)),
    "activation_distance": (math.sqrt(2), 0),
    "JS": (LN_2, 0),
    "RF_JSD": (LN_2, 0),
    # Both models are as sure as can be: all that this one looks at.
    "FQS": (1, 1),
    # Unbounded: ln 2 less half of the 200 between the logits.
    "ZRF": (1 + LN_2 - 100, 1),
    "ZRF_original": (1 + (LN_2 - 100) / 4, 1),
    "RMIA_auc": (0.5, 0.5),
    **dict.fromkeys(("KLoM", "KLoM_median", "KLoM_p95"), (math.log((1 + 1e-5) / 1e-5), 0)),
    "ULiRA_auc": (1, 0.5),
}


def test_every_comparison_of_the_package_has_its_extremes() -> None:
    own = [name for name in NAMES if METRICS[name].home.startswith("salun.metrics.")]
    assert EXTREMES.keys() == {name for name in own if METRICS[name].against or METRICS[name].subject is Runs}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.filterwarnings("error")
def test_models_that_are_far_apart_and_models_that_are_alike(name: str) -> None:
    ours, theirs = of_two_kinds(retrained=False), of_two_kinds(retrained=True)
    for one, wanted in zip((ours, theirs), EXTREMES[name], strict=True):
        if METRICS[name].subject is Runs:
            subject: Any = Runs((one,) * 4, (theirs,) * 4)
        else:
            subject = replace(one, base=theirs, retrained=theirs, random=theirs.forget)
        assert evaluate(subject, (name,))[name] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("models", [0, 1, 2])
@pytest.mark.parametrize("names", [names for names, (name, *_) in TOGETHER.items() if METRICS[name].subject is Runs])
def test_few_models_have_a_finite_value_or_none(names: str, models: int) -> None:
    for subject in (several(models, 4), several(4, models), several(models, models)):
        assert is_defined(values_of(names, subject))


@pytest.mark.parametrize("name", [name for name in NAMES if METRICS[name].against])
def test_what_is_compared_needs_the_other_model(name: str) -> None:
    alone = replace(compared(), base=None, retrained=None, random=None)
    assert evaluate(alone, (name,)) == {name: None}


@pytest.mark.parametrize("names", TOGETHER)
def test_inputs_are_left_as_they_are(names: str) -> None:
    subject, kept = ordinary(names), []
    changed(subject, lambda held: kept.append((held, held.logits.clone(), held.labels.clone())) or held)
    values_of(names, subject)
    assert kept
    for held, logits, labels in kept:
        assert torch.equal(held.logits, logits)
        assert torch.equal(held.labels, labels)


@pytest.mark.parametrize("names", TOGETHER)
def test_the_order_of_images_does_not_matter(names: str) -> None:
    subject = ordinary(names)
    assert values_of(names, permuted(subject)) == values_of(names, subject)


@pytest.mark.parametrize("sizes", [SIZES, CLASS_WISE], ids=["random", "class-wise"])
@pytest.mark.parametrize("names", [names for names, (name, *_) in TOGETHER.items() if METRICS[name].unit == "%"])
def test_shares_lie_between_0_and_1(names: str, sizes: dict[str, int]) -> None:
    for sure in (-3.0, 0.5, 6.0):
        found = values_of(names, ordinary(names, sizes=sizes, sure=sure))
        assert all(value is None or 0 <= value <= 1 for value in found.values())


@pytest.mark.parametrize("names", TOGETHER)
def test_rounded_outputs_of_many_classes_change_no_figure_that_is_told(names: str) -> None:
    exact = ordinary(names, classes=150, sure=8.0)
    found, expected = (numbers([*values_of(names, one).values()]) for one in (rounded(exact), exact))
    assert [value is None for value in found] == [value is None for value in expected]
    values = np.array([[one, other] for one, other in zip(found, expected, strict=True) if one is not None])
    assert values[:, 0] == pytest.approx(values[:, 1], rel=0.01, abs=0.002)


def rounded(subject: Any) -> Any:
    """The same subject with the logits that `predict` gives of a model that has these."""

    def again(held: Outputs) -> Outputs:
        if not len(held.labels):
            return held
        found = predict(torch.nn.Flatten(), Images.from_tensors(held.logits[:, :, None, None], held.labels))
        assert not torch.equal(found.logits, held.logits)
        return Outputs(found.logits, held.labels, held.indices)

    return changed(subject, again)
