"""What an audit finds: attacks on the unlearned shadow models of a method, and their distance to retrained ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from salun.experiments.audit import Flags, Pool
from salun.experiments.margins import Margins, Singles
from salun.metrics.klom import klom
from salun.metrics.scores import area
from salun.metrics.ulira import kernel_scores, left_out_scores
from salun.reports.roc import Roc, roc_of

_Places = NDArray[np.int64]
_Floats = NDArray[np.float64]
_MOST_IMAGES = 95


@dataclass(frozen=True)
class Verdict:
    """What an audit finds of one method.

    Attributes:
        title: of the method.
        shadows: how many models it was run on.
        diverged: how many of these and of the retrained ones gave margins that are not finite; with one, no figures.
        ulira: the attack that tells unlearned images from the same images in retrained models.
        lira: the attack that tells, in the unlearned model alone, unlearned images from images never trained on.
        ruli: `lira` with kernel densities in the place of Gaussians.
        ruli_image: 95th percentile over the images of the area under the curve of that attack on one image alone.
        klom_forget: KL divergence of margins between unlearned and retrained models, nats, mean over unlearned images.
        klom_retain: the same of retained images.
        klom_test: of test images; None where there are none.
    """

    title: str
    shadows: int
    diverged: int
    ulira: Roc | None = None
    lira: Roc | None = None
    ruli: Roc | None = None
    ruli_image: float | None = None
    klom_forget: float | None = None
    klom_retain: float | None = None
    klom_test: float | None = None

    def plain(self) -> dict[str, Any]:
        """Describe it for a JSON file, curves with no more points than can be told apart."""
        curves = {"ulira": self.ulira, "lira": self.lira, "ruli": self.ruli}
        return {**vars(self), **{name: curve.plain() if curve else None for name, curve in curves.items()}}


def judge(pool: Pool, title: str, models: Sequence[Margins], retrained: Sequence[Margins]) -> Verdict:
    """Attack the models of one method, half of them against half of the retrained ones in every figure.

    Args:
        pool: the images.
        title: of the method.
        models: one a shadow model, an even number of them.
        retrained: the retrained models of the same shadow models; `models` themselves where there is nothing to find.

    Source:
        Hayes et al., "Inexact Unlearning Needs More Careful Evaluations to Avoid a False Sense of Privacy", arXiv
        2403.01218, algorithm 1; Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, for
        the attack on the unlearned models alone; Georgiev et al., "Attribute-to-Delete", arXiv 2410.23232, for
        KLoM; Naderloui et al., arXiv 2506.13009, for RULI. Here a shadow model unlearns all the candidates
        that it was trained on at once.
    """
    diverged = sum(model.diverged for model in {id(model): model for model in (*models, *retrained)}.values())
    if diverged:
        return Verdict(title, len(models), diverged)
    trained = np.stack([pool.trained(number) for number in range(len(models))])
    forgotten, unseen = _by_image(trained), _by_image(~trained)
    after, never = (np.stack([model.candidates for model in kind]) for kind in (models, retrained))
    inside, outside = _at(after, forgotten), _at(after, unseen)
    against, asked = (outside, unseen) if models is retrained else (_at(never, forgotten), forgotten)
    retain, test = (
        _mean_klom(*(np.stack([getattr(model, part) for model in half]) for half in (models[::2], retrained[1::2])))
        for part in ("witnesses", "test")
    )
    scores = left_out_scores(inside.astype(np.float64), outside.astype(np.float64), kernel_scores)
    return Verdict(
        title=title,
        shadows=len(models),
        diverged=0,
        ulira=_attacked(inside, forgotten, against, asked),
        lira=_attacked(inside, forgotten, outside, unseen),
        ruli=roc_of(scores[0], forgotten, scores[1], unseen),
        ruli_image=_worst_image(*scores),
        klom_forget=_mean_klom(inside, against),
        klom_retain=retain,
        klom_test=test,
    )


def _by_image(chosen: Flags) -> _Places:
    """List for each image the models that are chosen, the same number for every image."""
    return np.argsort(~chosen, axis=0, kind="stable")[: len(chosen) // 2]


def _at(values: Singles, models: _Places) -> Singles:
    """Take each image's values in its own models."""
    return np.take_along_axis(values, models, axis=0)


def _attacked(members: Singles, member_models: _Places, others: Singles, other_models: _Places) -> Roc:
    """Run the likelihood-ratio attack, each model left out in turn."""
    scores = left_out_scores(members.astype(np.float64), others.astype(np.float64))
    return roc_of(scores[0], member_models, scores[1], other_models)


def _worst_image(members: _Floats, others: _Floats) -> float:
    """Find the area under the ROC curve that an attack on one image alone exceeds on a twentieth of the images."""
    areas = [area(ours, theirs) for ours, theirs in zip(members.T, others.T, strict=True)]
    return float(np.percentile(areas, _MOST_IMAGES))


def _mean_klom(unlearned: Singles, retrained: Singles) -> float | None:
    """Average KLoM over images."""
    values = klom(unlearned, retrained)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None
