import numpy as np
import pytest
import reference
import torch
from outputs import of_losses

from salun.metrics import Evaluation, evaluate
from salun.metrics.loss_forest import loss_forest, loss_forest_original
from salun.metrics.scores import losses
from salun.training.evaluate import Outputs


@pytest.mark.parametrize("case", ["overlap", "forgotten", "memorised"])
def test_the_seed_attack_equals_the_original(case: str) -> None:
    data = reference.arrays("rf_mia_seed")
    wanted = reference.settings("rf_mia_seed")["cases"][case]
    sets = [of_losses(data[f"{case}/{name}"].numpy()) for name in ("forget", "retain", "val", "test")]
    acc, auc = loss_forest_original(Evaluation(*sets, drawn(0, 1, 0)))
    assert 100 * acc == pytest.approx(wanted["acc"], abs=1e-4)
    assert 100 * auc == pytest.approx(wanted["auc"], abs=1e-4)


def drawn(count: int, scale: float, seed: int) -> Outputs:
    """Outputs whose cross-entropies are exponential with the given mean."""
    return of_losses(np.random.default_rng(seed).exponential(scale, count).clip(1e-4, 20))


def evaluation(forget: Outputs, retain: int = 400) -> Evaluation:
    return Evaluation(forget, drawn(retain, 0.01, 1), drawn(60, 1.0, 2), drawn(80, 1.0, 3), drawn(0, 1, 4))


def test_losses_are_per_image() -> None:
    wanted = np.random.default_rng(5).exponential(0.7, 50).clip(1e-4, 20)
    assert losses(drawn(50, 0.7, 5)) == pytest.approx(wanted, rel=1e-4)


def test_remembered_images_are_called_members_and_forgotten_ones_not() -> None:
    remembered, _ = loss_forest(evaluation(drawn(100, 0.01, 6)))
    forgotten, auc = loss_forest(evaluation(drawn(100, 1.0, 7)))
    assert remembered < 0.25
    assert forgotten > 0.75
    assert auc == pytest.approx(0.5, abs=0.12)


def test_known_sets_are_balanced() -> None:
    alike = Evaluation(drawn(400, 1, 6), drawn(400, 1, 1), drawn(40, 1, 2), drawn(80, 1, 3), drawn(0, 1, 4))
    assert loss_forest(alike)[0] == pytest.approx(0.5, abs=0.15)
    assert loss_forest_original(alike)[0] < 0.3


def test_choice_of_the_forest_does_not_depend_on_the_forget_set() -> None:
    alone = loss_forest(evaluation(drawn(40, 1.0, 8)))[0]
    first = drawn(40, 1.0, 8)
    second = drawn(40, 0.01, 9)
    both = Outputs(torch.cat([first.logits, second.logits]), torch.cat([first.labels, second.labels]))
    apart = loss_forest(evaluation(second))[0]
    assert loss_forest(evaluation(both))[0] == pytest.approx((alone + apart) / 2)


def test_the_seed_form_flatters_and_is_computed_only_where_it_is_named() -> None:
    full = evaluation(drawn(60, 0.05, 11))
    named = evaluate(full, ("forest_acc", "forest_acc_original", "forest_auc_original"))
    assert (named["forest_acc_original"], named["forest_auc_original"]) == loss_forest_original(full)
    assert "forest_acc_original" not in evaluate(full)


@pytest.mark.parametrize("empty", ["forget", "validation", "test", "retain"])
def test_no_images_no_value(empty: str) -> None:
    full = evaluation(drawn(20, 1.0, 10))
    missing = Evaluation(**{**vars(full), empty: drawn(0, 1, 0)})
    assert loss_forest(missing) == (None, None)
