from dataclasses import replace

import pytest
import torch
from hostile import refuses
from outputs import compared, outputs, several

from salun.metrics import METRICS, Evaluation, Runs, evaluate, load_metrics
from salun.metrics.matching import check_same_images
from salun.metrics.scores import area
from salun.training.evaluate import Outputs

load_metrics()
COMPARED_BY_IMAGE = [
    "JS", "disagreement", "disagreement_test", "completeness", "activation_distance", "confidence_distance",
    "confidence_difference", "RMIA_auc",
]  # fmt: skip


@pytest.mark.parametrize(
    "other",
    [
        outputs(8),
        outputs(9, labels=1),
        replace(outputs(9), indices=torch.arange(1, 10)),
        replace(outputs(9, labels=1), indices=None),
    ],
    ids=["fewer", "other labels", "other places", "other labels at unknown places"],
)
def test_other_images_are_refused_in_one_line(other: Outputs) -> None:
    refuses(r"forget set: .*same images", lambda: check_same_images("forget", outputs(9), other))


@pytest.mark.parametrize("name", COMPARED_BY_IMAGE)
def test_metrics_refuse_models_asked_of_other_images(name: str) -> None:
    subject = compared()
    other = Evaluation(*(outputs(len(held.labels), labels=7) for held in subject.sets.values()))
    refuses("same images", lambda: evaluate(replace(subject, retrained=other), (name,)))


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.subject is Runs])
def test_metrics_of_many_models_refuse_models_asked_of_other_images(name: str) -> None:
    runs = several()
    strange = replace(runs.retrained[0], forget=outputs(60, labels=7))
    refuses("same images", lambda: evaluate(Runs(runs.unlearned, (strange, *runs.retrained[1:])), (name,)))


@pytest.mark.parametrize(
    ("members", "others", "wanted"),
    [([3, 4], [1, 2], 1), ([1], [2, 3], 0), ([1, 1], [1], 0.5), ([2, 0], [1], 0.5), ([1, 2], [1, 0], 0.875)],
)
def test_area_under_the_curve(members: list[float], others: list[float], wanted: float) -> None:
    assert area(torch.tensor(members).numpy(), torch.tensor(others).numpy()) == wanted
