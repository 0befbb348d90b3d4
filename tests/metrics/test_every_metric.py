import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from fabricated import CLASS_WISE, SIZES, changed, compared, first, permuted, rewritten, several

from salun.metrics import METRICS, Evaluation, Runs, evaluate, load_metrics
from salun.training import Outputs

load_metrics()
NAMES = [name for name, metric in METRICS.items() if metric.subject in (Evaluation, Runs)]
TOGETHER = {
    " ".join(names): names
    for names in ([other for other in NAMES if METRICS[other].compute is METRICS[name].compute] for name in NAMES)
}


@pytest.fixture(autouse=True)
def small_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the forests of the loss attack have few trees, whose number is not what is tested here."""
    monkeypatch.setattr("salun.metrics.loss_forest.TREES", (5,))


def ordinary(names: str, **options: Any) -> Any:
    options = {"sizes": CLASS_WISE} | options
    return several(**options) if METRICS[TOGETHER[names][0]].subject is Runs else compared(**options)


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
