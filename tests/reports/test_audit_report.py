import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from outputs import holds

from salun.experiments.audit import Margins, Pool, audits_of
from salun.experiments.context import ModelCache, RunContext
from salun.experiments.schema import validate
from salun.reports.audit import Verdict, judge
from salun.reports.roc import Roc

SHADOWS = 16
Floats = NDArray[np.float64]


@pytest.fixture(scope="module")
def pool() -> Pool:
    """Two hundred images of which half are forgotten."""
    entry = {"model": "resnet_tiny", "dataset": "synthetic:n=500,size=8,classes=4", "unlearning_rate": 0.3}
    (audit,) = audits_of(
        validate([entry | {"method": "ft"}], "list"), ModelCache(RunContext(torch.device("cpu"))), "list"
    )
    return audit.pool


def fabricate(pool: Pool, seed: int, shift: float | Floats = 0.0, shadows: int = SHADOWS) -> list[Margins]:
    """Margins about each image's own difficulty; `shift` is added to those of candidates, (S, N) or one for all."""
    random = np.random.default_rng(seed)
    count = len(pool.candidates)
    shifts = np.broadcast_to(shift, (shadows, count))

    def drawn(images: int) -> Floats:
        difficulty = np.random.default_rng(images).normal(3, 2, images)
        return difficulty + random.normal(0, 1, images) + random.normal(0, 0.2)

    return [
        Margins(*(part.astype(np.float32) for part in (drawn(count) + one, drawn(100), drawn(150)))) for one in shifts
    ]


def membership(pool: Pool, shadows: int = SHADOWS) -> Floats:
    """1 where a candidate was trained on, (S, N)."""
    return np.stack([pool.trained(number) for number in range(shadows)]).astype(float)


FIGURES = ("ulira", "lira", "ruli", "ruli_image", "klom_forget", "klom_retain", "klom_test")


def judged(pool: Pool, models: list[Margins], retrained: list[Margins]) -> tuple[Verdict, dict[str, float]]:
    """A verdict and its figures: areas and divergences."""
    verdict = judge(pool, "rl", models, retrained)
    found = {name: getattr(verdict, name) for name in FIGURES}
    return verdict, {name: value.auc if isinstance(value, Roc) else value for name, value in found.items()}


def changed(models: list[Margins], **change: Callable[[Floats], Floats]) -> list[Margins]:
    return [replace(model, **{name: edit(getattr(model, name)) for name, edit in change.items()}) for model in models]


def test_models_like_retrained_ones_cannot_be_told_from_them(pool: Pool) -> None:
    found = [judge(pool, "like", fabricate(pool, 2 * seed), fabricate(pool, 2 * seed + 1)) for seed in range(12)]
    for attack in ("ulira", "lira", "ruli"):
        curves = [getattr(verdict, attack) for verdict in found]
        assert holds([curve.auc for curve in curves], 0.5)
        assert sum(curve.interval[0] <= 0.5 <= curve.interval[1] for curve in curves) >= 10
        assert holds([curve.tpr_at[0.01] for curve in curves], 0.01)
    retrained = fabricate(pool, 1)
    (_, like), (_, own) = (judged(pool, models, retrained) for models in (fabricate(pool, 2), retrained))
    for name in FIGURES[3:]:
        assert like[name] == pytest.approx(own[name], rel=0.15)
        assert own[name] > 0


def test_retrained_models_show_what_nothing_looks_like(pool: Pool) -> None:
    found = [judged(pool, models, models)[1] for models in (fabricate(pool, seed) for seed in range(12))]
    assert all(figures["ulira"] == figures["lira"] for figures in found)
    assert holds([figures["ulira"] for figures in found], 0.5)


def test_what_was_trained_on_and_still_shows_is_found_by_both_attacks(pool: Pool) -> None:
    verdict, found = judged(pool, fabricate(pool, 1, 100 * membership(pool)), fabricate(pool, 2))
    assert verdict.ulira is not None
    assert (verdict.ulira.interval, verdict.ulira.tpr_at) == ((1, 1), {0.001: 1, 0.01: 1})
    assert found["lira"] == 1
    assert found["klom_forget"] > 10 > found["klom_retain"]
    weak, strong = (
        judged(pool, fabricate(pool, 1, size * membership(pool)), fabricate(pool, 2))[1] for size in (0.5, 2)
    )
    assert 0.55 < weak["ulira"] < 0.75 < strong["ulira"] < 1
    assert weak["klom_forget"] < strong["klom_forget"]


def test_a_change_of_seen_and_unseen_images_alike_is_found_only_beside_retrained_models(pool: Pool) -> None:
    shifted = [judged(pool, fabricate(pool, 2 * seed, 100.0), fabricate(pool, 2 * seed + 1))[1] for seed in range(12)]
    assert all(found["ulira"] == 1 for found in shifted)
    assert holds([found["lira"] for found in shifted], 0.5)


def test_retain_and_test_images_are_judged_apart(pool: Pool) -> None:
    models, retrained = fabricate(pool, 2), fabricate(pool, 1)
    _, one = judged(pool, models, retrained)
    _, other = judged(pool, changed(models, witnesses=lambda x: x + 50, test=lambda x: x + 50), retrained)
    assert {name for name in FIGURES if other[name] != one[name]} == {"klom_retain", "klom_test"}
    assert min(other["klom_retain"], other["klom_test"]) > 5
    _, without = judged(pool, *(changed(side, test=lambda x: x[:0]) for side in (models, retrained)))
    assert (without["klom_test"], without["klom_retain"]) == (None, one["klom_retain"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("part", ["candidates", "witnesses", "test"])
def test_margins_that_are_no_numbers_give_no_figures(pool: Pool, part: str, value: float) -> None:
    def broken(seed: int) -> list[Margins]:
        models = fabricate(pool, seed)
        for number in (3, 5):
            getattr(models[number], part)[7] = value
        return models

    whole, damaged = fabricate(pool, 1), broken(2)
    wanted = dict.fromkeys(FIGURES) | {"title": "ga", "shadows": SHADOWS, "diverged": 2}
    for models, retrained in ((damaged, whole), (whole, damaged), (damaged, damaged)):
        assert judge(pool, "ga", models, retrained).plain() == wanted


def test_extreme_margins_have_figures(pool: Pool) -> None:
    parts = ("candidates", "witnesses", "test")
    models = changed(fabricate(pool, 1), **dict.fromkeys(parts, lambda x: x * np.float32(1e37)))
    constant = changed(models, **dict.fromkeys(parts, np.zeros_like))
    for one, other in ((models, constant), (constant, models), (constant, constant), (models, models)):
        verdict, found = judged(pool, one, other)
        assert 0 <= found["ulira"] <= 1
        json.dumps(verdict.plain(), allow_nan=False)
    assert judged(pool, constant, [*constant])[1]["ulira"] == 0.5


def test_kernel_densities_take_any_shape_and_tell_how_bad_the_worst_images_are(pool: Pool) -> None:
    # Forgotten images lie 6 above or below those that were never seen, whose mean they share.
    signs = np.where(np.arange(SHADOWS)[:, None] // 2 % 2, 6.0, -6.0)
    hidden = np.zeros((SHADOWS, len(pool.candidates)))
    hidden[:, ::4] = 1
    _, all_of_them = judged(pool, fabricate(pool, 1, signs * membership(pool)), fabricate(pool, 2))
    assert all_of_them["ruli"] > 0.9
    _, some = judged(pool, fabricate(pool, 1, 8 * hidden * membership(pool)), fabricate(pool, 2))
    _, none = judged(pool, fabricate(pool, 1), fabricate(pool, 2))
    assert some["ruli_image"] == 1 > none["ruli_image"]
    assert none["ruli"] < some["ruli"] < 0.9
