from pathlib import Path

import pytest
import trios

from salun.data.split import ForgetRequest
from salun.errors import SalunError
from salun.latent.trios import Trio, find_trios, run_of

RL, BASE, RETRAINED = (f"checkpoints/{name}.pt" for name in ("study/rl", "base", "study/retrain"))
FORGET_2 = ForgetRequest(classes=(2,))


def trio_of(path: str, base: str | None = None) -> Trio:
    """What an unlearned model is compared with, among all the models beside it and under `checkpoints/`."""
    (found,), failed = find_trios([path], base)
    assert not failed
    return found


def test_each_unlearned_model_gets_its_base_and_its_retrained_model() -> None:
    trios.put_trio()
    trios.put("checkpoints/copy.pt")  # a copy of the base model is no second one
    found = trio_of(RL)
    assert found.retrained is not None
    assert [str(model.path) for model in (found.base, found.unlearned, found.retrained)] == [BASE, RL, RETRAINED]
    assert not found.remarks


@pytest.mark.parametrize("by_weights", [True, False])
def test_of_several_base_models_the_recorded_one_is_taken(by_weights: bool) -> None:
    recipe = trios.RECIPE.model_copy(update={"lr": 0.2})
    bases = [trios.put("a.pt", 1, recipe=recipe), trios.put("b.pt", 2), trios.put("c.pt", 3, recipe=None)]
    spec = trios.identity(bases[1], by_weights)
    trios.put("after.pt", 4, trios.forget_of(), unlearned=trios.run(base=spec))
    found = trio_of("after.pt")
    assert found.base.path == Path("b.pt")
    assert all("base model" not in remark for remark in found.remarks)


def test_a_model_may_be_unlearned_from_an_unlearned_one() -> None:
    base = trios.put("base.pt")
    first = trios.put("first.pt", 1, trios.forget_of(), unlearned=trios.run(base=trios.identity(base)))
    both = tuple(sorted({*trios.forget_of(), *trios.forget_of(FORGET_2)}))
    trios.put("second.pt", 2, both, unlearned=trios.run(base=trios.identity(first, by_weights=True)))
    assert trio_of("second.pt").base.path == first


def test_base_models_that_differ_are_ambiguous() -> None:
    trios.put("after.pt", 4, trios.forget_of(), unlearned=trios.run())
    for seed, name in enumerate(("a.pt", "b.pt")):
        trios.put(name, seed)
    with pytest.raises(SalunError, match=r"^after.pt: a.pt and b.pt may be its base model; name one with --base$"):
        trio_of("after.pt")
    assert trio_of("after.pt", base="b.pt").base.path == Path("b.pt")


def test_another_base_model_than_the_recorded_one_is_said() -> None:
    trios.put("after.pt", 4, trios.forget_of(), unlearned=trios.run(base="weights 0123456789abcdef"))
    trios.put("a.pt", 1)
    found = trio_of("after.pt")
    assert found.base.path == Path("a.pt")
    assert any("weights 0123456789abcdef" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    "other", [{"model": "resnet18"}, {"name": "synthetic:n=240,size=8,classes=4,seed=1"}, {"split_seed": 1}]
)
def test_a_base_model_of_another_kind_is_none(other: dict[str, object]) -> None:
    trios.put("base.pt", **other)
    trios.put("after.pt", 1, trios.forget_of(), unlearned=trios.run())
    missing = r"^after.pt: its base model \(resnet_tiny for 4 classes.* is not here; name it with --base$"
    for base, said in ((None, missing), ("base.pt", r"--base base.pt: is .*, but after.pt is resnet_tiny")):
        with pytest.raises(SalunError, match=said):
            trio_of("after.pt", base)


def test_a_model_of_another_kind_stops_the_others_only_where_a_base_model_is_named() -> None:
    trios.put_trio()
    trios.put("checkpoints/study/orphan.pt", 4, trios.forget_of(), split_seed=1, unlearned=trios.run())
    (found,), (line,) = find_trios([])
    assert str(found.unlearned.path) == RL
    assert line.startswith("checkpoints/study/orphan.pt: its base model")
    with pytest.raises(SalunError, match=rf"--base {BASE}: is .*, but checkpoints/study/orphan.pt is resnet_tiny"):
        find_trios([], BASE)


def test_the_retrained_model_is_of_the_same_forget_set() -> None:
    Path(trios.put_trio()["retrained"]).unlink()
    trios.put("other.pt", 5, trios.forget_of(FORGET_2), unlearned=trios.run("retrain"))
    found = trio_of(RL)
    assert found.retrained is None
    assert "--retrained" in found.remarks[0]
    with pytest.raises(SalunError, match=r"--retrained other.pt: was trained without other images than .*rl.pt"):
        find_trios([RL], retrained="other.pt")


def test_of_several_retrained_models_that_of_the_smallest_seed_is_taken_and_named() -> None:
    Path(trios.put_trio()["retrained"]).unlink()
    for seed in (10, 2):
        trios.put(f"checkpoints/{seed}.pt", 10 + seed, trios.forget_of(), unlearned=trios.run("retrain", seed))
    found = trio_of(RL)
    assert found.retrained is not None
    assert found.retrained.path.name == "2.pt"
    assert "of 2 retrained models checkpoints/2.pt is taken" in found.remarks[0]


def test_what_an_earlier_version_retrained_is_taken_only_where_there_is_nothing_else() -> None:
    newer = trios.put_trio()["retrained"]
    run = trios.run("retrain") | {"id": "0" * 16}
    old = trios.put("checkpoints/a.pt", 8, trios.forget_of(), unlearned=run)
    found = trio_of(RL)
    assert found.retrained is not None
    assert (found.retrained.path, len(found.remarks)) == (newer, 1)
    newer.unlink()
    found = trio_of(RL)
    assert found.retrained is not None
    assert found.retrained.path == old
    assert list(found.remarks) == [
        "checkpoints/a.pt: was retrained by an earlier version, which began seed 0 from the base model's own first "
        "weights; retrain anew"
    ]


def test_a_model_trained_without_the_forget_set_counts_as_retrained() -> None:
    Path(trios.put_trio()["retrained"]).unlink()
    plain = trios.put("checkpoints/plain.pt", 7, trios.forget_of())
    found = trio_of(RL)
    assert found.retrained is not None
    assert (found.retrained.path, run_of(found.retrained)) == (plain, {})
