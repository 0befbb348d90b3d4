"""The SVC membership attacks of the SalUn protocol, on five features of an image's prediction."""

from collections.abc import Callable, Collection
from functools import partial

import numpy as np

from salun.metrics import Evaluation, Value, metric
from salun.metrics._svc import called_members, compile_ahead
from salun.metrics.scores import Singles, correctness, entropy, modified_entropy, probabilities, true_confidence
from salun.metrics.tow import tug_of_war
from salun.training.evaluate import Outputs, accuracy

_NEEDED = ("retain", "test", "forget")
_ORIGINAL = "MIA_m_entropy_original"
_FEATURES: dict[str, Callable[[Outputs], Singles]] = {
    "MIA": true_confidence,
    "MIA_correctness": correctness,
    "MIA_entropy": entropy,
    "MIA_m_entropy": modified_entropy,
    "MIA_probability": probabilities,
    _ORIGINAL: partial(modified_entropy, variant="original"),
}


def prepare_attacks(names: Collection[str], retain: int, test: int) -> None:
    """Begin to compile what large attacks run, which takes seconds once a machine, while something else is computed.

    Args:
        names: of the metrics that are wanted.
        retain: images in the retain set.
        test: images in the test set.
    """
    if not {"ToW_MIA", *_FEATURES}.isdisjoint(names):
        compile_ahead(min(retain, test), min(retain, test))


def _called_non_member(evaluation: Evaluation, names: tuple[str, ...]) -> dict[str, Value]:
    """Train attacks on known members and non-members, and ask them of the forget set."""
    count = min(len(evaluation.retain.labels), len(evaluation.test.labels))
    attacks = {}
    for name in names:
        known = (_first(name, outputs, count) for outputs in (evaluation.retain, evaluation.test))
        found = (*known, _FEATURES[name](evaluation.forget))
        members, others, target = (part.reshape(len(part), -1) for part in found)
        if all(np.isfinite(part).all() for part in (members, others, target)):
            attacks[name] = members, others, target
    called = called_members(attacks)
    return {name: float(1 - called[name].mean()) if name in called else None for name in names}


def _first(name: str, outputs: Outputs, count: int) -> Singles:
    """Compute a feature of the first images of a set; the original looks at the labels of all for it."""
    feature = _FEATURES[name]
    return feature(outputs)[:count] if name == _ORIGINAL else feature(outputs.take(slice(count)))


@metric("MIA", cost="attack", needs=_NEEDED, default=True)
def svc_confidence(evaluation: Evaluation) -> Value:
    """MIA efficacy: share of forget images that an SVC on the true class's probability calls non-member.

    Formula:
        SVC(C = 3, RBF kernel, gamma = 1 / features) on p_y, trained on the first n_test retain images (members)
        and the test images (non-members); MIA = 1 - mean(prediction on forget).

    Cannot see:
        An image's own difficulty: one rule serves all images, so hard images look like non-members to it in any
        model. Class-wise, retain and test lack the forgotten class.

    Source:
        Fan et al., "SalUn", ICLR 2024, appendix C.3, with the settings of its code, `evaluation/SVC_MIA.py`.
    """
    return _called_non_member(evaluation, ("MIA",))["MIA"]


@metric("MIA_correctness", "MIA_entropy", "MIA_m_entropy", "MIA_probability", cost="attack", needs=_NEEDED)
def svc_attacks(evaluation: Evaluation, wanted: tuple[str, ...]) -> dict[str, Value]:
    """The same attack on whether an image is classified right, entropy, modified entropy, and all probabilities.

    Formula:
        As MIA, on 1[argmax p = y]; -sum p ln p; -(1 - p_y) ln p_y - sum over c != y of p_c ln(1 - p_c); or p.

    Cannot see:
        What MIA cannot; correctness and entropy also not how surely the true class is given.

    Source:
        Fan et al., "SalUn", ICLR 2024, `evaluation/SVC_MIA.py`; the modified entropy of Song and Mittal,
        "Systematic Evaluation of Privacy Risks of Machine Learning Models", USENIX Security 2021, equation 6.
    """
    return _called_non_member(evaluation, wanted)


@metric(_ORIGINAL, cost="attack", needs=_NEEDED, original=True)
def svc_original(evaluation: Evaluation) -> Value:
    """The attack on modified entropy as the SalUn code computes it, with p in the place of 1 - p.

    Formula:
        As MIA, on -sum over classes c among the set's labels of (1 - p_c) ln p_c - sum over the others of
        p_c ln p_c.

    Cannot see:
        An image's own label; for sets with different classes its values cannot be compared. Use MIA_m_entropy.

    Source:
        OPTML-Group/Unlearn-Saliency, `Classification/evaluation/SVC_MIA.py`.
    """
    return _called_non_member(evaluation, (_ORIGINAL,))[_ORIGINAL]


@metric(
    "ToW_MIA", unit="", direction="higher", ideal="1", cost="attack", against=("retrained",), needs=_NEEDED,
    derived=True,
)  # fmt: skip
def tug_of_war_mia(evaluation: Evaluation) -> Value:
    """Tug of war with MIA in the place of forget accuracy: how near MIA, RA and TA together are to retraining.

    Formula:
        (1 - |MIA - MIA'|) (1 - |RA - RA'|) (1 - |TA - TA'|), with ' the retrained model's.

    Cannot see:
        Which of the three is off, and in which direction.

    Source:
        Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024.
    """
    sides = []
    for side in (evaluation, evaluation.retrained):
        attack = None if side is None else _called_non_member(side, ("MIA",))["MIA"]
        if side is None or attack is None:
            return None
        sides.append((attack, accuracy(side.retain), accuracy(side.test)))
    return tug_of_war(*sides)
