from functools import partial

import numpy as np
import pytest
import reference
import torch

from salun.metrics import Evaluation, evaluate
from salun.metrics.scores import correctness, entropy, modified_entropy, probabilities, true_confidence
from salun.metrics.svc_mia import called_members, svc_confidence
from salun.training.evaluate import Outputs

NOTHING = Outputs(torch.empty(0, 10), torch.empty(0, dtype=torch.int64))
ORIGINAL_NAMES = {
    "MIA_correctness": "correctness",
    "MIA": "confidence",
    "MIA_entropy": "entropy",
    "MIA_m_entropy_original": "m_entropy",
    "MIA_m_entropy": "m_entropy_song",
    "MIA_probability": "prob",
}
FEATURES = {
    "MIA": true_confidence,
    "MIA_correctness": correctness,
    "MIA_entropy": entropy,
    "MIA_probability": probabilities,
    "MIA_m_entropy_original": partial(modified_entropy, variant="original"),
}
CASES = ("random", "oneclass")


def evaluation(retain: Outputs, test: Outputs, forget: Outputs) -> Evaluation:
    return Evaluation(forget=forget, retain=retain, validation=NOTHING, test=test, forgotten_test=NOTHING)


def reference_sets(case: str) -> dict[str, Outputs]:
    data = reference.arrays(f"svc_mia_{case}")
    return {name: Outputs(data[f"{name}_logits"], data[f"{name}_labels"]) for name in ("retain", "test", "forget")}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", ORIGINAL_NAMES)
def test_equals_the_official_attacks(case: str, name: str) -> None:
    wanted = reference.settings("svc_mia")[case]["forget_efficacy"][ORIGINAL_NAMES[name]]
    assert evaluate(evaluation(**reference_sets(case)), (name,))[name] == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FEATURES)
def test_equals_the_official_attacks_on_all_retain_images(case: str, name: str) -> None:
    wanted = reference.settings("svc_mia")[case]["without_retain_truncation"][ORIGINAL_NAMES[name]]
    sets = reference_sets(case)
    given = tuple(
        FEATURES[name](sets[part]).reshape(len(sets[part].labels), -1) for part in ("retain", "test", "forget")
    )
    assert 1 - called_members({name: given})[name].mean() == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_features_equal_the_official_ones(case: str) -> None:
    data, sets = reference.arrays(f"svc_mia_{case}"), reference_sets(case)
    count = len(data["shadow_train_entropy"])
    shadows = Outputs(sets["retain"].logits[:count], sets["retain"].labels[:count])
    for outputs, name in ((shadows, "shadow_train"), (sets["test"], "shadow_test"), (sets["forget"], "forget")):
        found = {
            "entropy": entropy(outputs),
            "m_entropy": modified_entropy(outputs, variant="original"),
            "m_entropy_song": modified_entropy(outputs),
        }
        # Processors round float32 exponentials differently, and ln(1 - p) enlarges that where p is near 1.
        rest = 1 - outputs.logits.double().softmax(1).amax(1).numpy()
        unsure = 1e-6 + 2.0**-22 / np.maximum(rest, 2.0**-24)
        for feature, values in found.items():
            wanted = data[f"{name}_{feature}"].numpy()
            allowed = 2e-5 * np.abs(wanted) + (1e-6 if feature == "entropy" else unsure)
            assert (np.abs(values - wanted) <= allowed).all(), feature
        assert np.median(unsure) < 1e-4


def test_the_original_modified_entropy_does_not_see_the_label_and_the_corrected_one_does() -> None:
    sure = torch.tensor([[9.0, 0, 0], [9.0, 0, 0], [0, 9.0, 0]])
    outputs = Outputs(sure, torch.tensor([0, 1, 1]))
    original, corrected = (modified_entropy(outputs, variant=variant) for variant in ("original", "corrected"))
    assert original[0] == original[1]
    assert corrected[0] < 0.01 < 5 < corrected[1]


def drawn(count: int, confidence: float, seed: int) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 10, (count,), generator=generator)
    logits = torch.randn(count, 10, generator=generator)
    logits[torch.arange(count), labels] += confidence
    return Outputs(logits, labels)


def test_tells_members_from_others() -> None:
    member, other = drawn(300, 9, 0), drawn(200, 1, 1)
    assert svc_confidence(evaluation(member, other, drawn(100, 9, 2))) < 0.1
    assert svc_confidence(evaluation(member, other, drawn(100, 1, 3))) > 0.8
    assert svc_confidence(evaluation(drawn(50, 9, 0), other, drawn(100, 1, 2))) > 0.8  # fewer retain than test images


@pytest.mark.parametrize("empty", ["forget", "test", "retain"])
def test_no_images_no_value(empty: str) -> None:
    full = evaluation(drawn(50, 9, 0), drawn(50, 1, 1), drawn(50, 1, 2))
    assert svc_confidence(Evaluation(**{**vars(full), empty: NOTHING})) is None
