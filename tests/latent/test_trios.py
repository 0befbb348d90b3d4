from pathlib import Path

import pytest
import trios

from salun.data.split import ForgetRequest
from salun.errors import SalunError
from salun.latent.extraction import Model, read_model
from salun.latent.trios import Trio, make_trios, run_of


def models(*paths: Path) -> list[Model]:
    return [read_model(path) for path in paths]


def triple_of(unlearned: Model, candidates: list[Model], base: Model | None = None) -> Trio:
    (found,), failed = make_trios([unlearned], candidates, base)
    assert not failed
    return found


@pytest.fixture
def trio() -> dict[str, Model]:
    return {name: read_model(path) for name, path in trios.put_trio().items()}


def test_each_unlearned_model_gets_its_base_and_its_retrained_model(trio: dict[str, Model]) -> None:
    found = triple_of(trio["unlearned"], list(trio.values()))
    assert (found.base, found.unlearned, found.retrained) == (trio["base"], trio["unlearned"], trio["retrained"])
    assert not found.remarks


@pytest.mark.parametrize("by_weights", [True, False])
def test_of_several_base_models_the_recorded_one_is_taken(by_weights: bool) -> None:
    recipe = trios.RECIPE.model_copy(update={"lr": 0.2})
    bases = [trios.put("a.pt", 1, recipe=recipe), trios.put("b.pt", 2), trios.put("c.pt", 3, recipe=None)]
    spec = trios.identity(bases[1], by_weights)
    after = trios.put("after.pt", 4, trios.forget_of(), unlearned=trios.run(base=spec))
    found = triple_of(read_model(after), models(*bases, after))
    assert found.base.path == Path("b.pt")
    assert all("base model" not in remark for remark in found.remarks)


def test_a_model_may_be_unlearned_from_an_unlearned_one() -> None:
    base = trios.put("base.pt")
    first = trios.put("first.pt", 1, trios.forget_of(), unlearned=trios.run(base=trios.identity(base)))
    both = tuple(sorted({*trios.forget_of(), *trios.forget_of(ForgetRequest(classes=(2,)))}))
    second = trios.put("second.pt", 2, both, unlearned=trios.run(base=trios.identity(first, by_weights=True)))
    found = triple_of(read_model(second), models(base, first, second))
    assert found.base.path == first


def test_a_copy_of_the_base_model_is_no_second_one(trio: dict[str, Model]) -> None:
    copy = read_model(trios.put("copy.pt"))
    found = triple_of(trio["unlearned"], [*trio.values(), copy])
    assert found.base == trio["base"]


def test_base_models_that_differ_are_ambiguous() -> None:
    after = trios.put("after.pt", 4, trios.forget_of(), unlearned=trios.run())
    bases = models(trios.put("a.pt", 1), trios.put("b.pt", 2))
    line = "after.pt: a.pt and b.pt may be its base model; name one with --base"
    assert make_trios(models(after), bases) == ([], [line])
    found = triple_of(read_model(after), bases, base=bases[1])
    assert found.base == bases[1]


def test_another_base_model_than_the_recorded_one_is_said() -> None:
    after = trios.put("after.pt", 4, trios.forget_of(), unlearned=trios.run(base="weights 0123456789abcdef"))
    found = triple_of(read_model(after), models(trios.put("a.pt", 1)))
    assert found.base.path == Path("a.pt")
    assert any("weights 0123456789abcdef" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    "other", [{"model": "resnet18"}, {"name": "synthetic:n=240,size=8,classes=4,seed=1"}, {"split_seed": 1}]
)
def test_a_base_model_of_another_kind_is_none(other: dict[str, object]) -> None:
    base = trios.put("base.pt", **other)
    after = trios.put("after.pt", 1, trios.forget_of(), unlearned=trios.run())
    triples, (line,) = make_trios(models(after), models(base, after))
    assert not triples
    assert line.startswith("after.pt: its base model (resnet_tiny for 4 classes")
    assert line.endswith("name it with --base")
    with pytest.raises(SalunError, match=r"--base base.pt: is .*, but after.pt is resnet_tiny"):
        make_trios(models(after), models(after), base=read_model(base))


def test_a_model_without_its_base_model_does_not_stop_the_others(trio: dict[str, Model]) -> None:
    orphan = read_model(trios.put("orphan.pt", 4, trios.forget_of(), split_seed=1, unlearned=trios.run()))
    triples, (line,) = make_trios([orphan, trio["unlearned"]], [orphan, *trio.values()])
    assert [found.unlearned for found in triples] == [trio["unlearned"]]
    assert line.startswith("orphan.pt: its base model")


def test_a_model_that_was_named_must_fit_every_unlearned_one(trio: dict[str, Model]) -> None:
    other = read_model(trios.put("other.pt", 4, trios.forget_of(), split_seed=1, unlearned=trios.run()))
    for unlearned in ([trio["unlearned"], other], [other, trio["unlearned"]]):
        with pytest.raises(SalunError, match=r"--base checkpoints/base.pt: is .*, but other.pt is resnet_tiny"):
            make_trios(unlearned, list(trio.values()), base=trio["base"])


def test_the_retrained_model_is_of_the_same_forget_set(trio: dict[str, Model]) -> None:
    other = trios.put("other.pt", 5, trios.forget_of(ForgetRequest(classes=(2,))), unlearned=trios.run("retrain"))
    found = triple_of(trio["unlearned"], [trio["base"], *models(other)])
    assert found.retrained is None
    assert "--retrained" in found.remarks[0]
    with pytest.raises(SalunError, match=r"--retrained other.pt: was trained without other images than .*rl.pt"):
        make_trios([trio["unlearned"]], list(trio.values()), retrained=read_model(other))


def test_of_several_retrained_models_that_of_the_smallest_seed_is_taken_and_named(trio: dict[str, Model]) -> None:
    more = [
        trios.put(f"{seed}.pt", 10 + seed, trios.forget_of(), unlearned=trios.run("retrain", seed)) for seed in (10, 2)
    ]
    found = triple_of(trio["unlearned"], [trio["base"], *models(*more)])
    assert found.retrained is not None
    assert found.retrained.path == Path("2.pt")
    assert "of 2 retrained models 2.pt is taken" in found.remarks[0]


def test_what_an_earlier_version_retrained_is_taken_only_where_there_is_nothing_else(trio: dict[str, Model]) -> None:
    run = trios.run("retrain") | {"id": "0" * 16}
    old = read_model(trios.put("a.pt", 8, trios.forget_of(), unlearned=run))
    found = triple_of(trio["unlearned"], [old, *trio.values()])
    assert found.retrained == trio["retrained"]
    assert len(found.remarks) == 1
    found = triple_of(trio["unlearned"], [trio["base"], old])
    assert found.retrained == old
    assert list(found.remarks) == [
        "a.pt: was retrained by an earlier version, which began seed 0 from the base model's own first weights; "
        "retrain anew"
    ]


def test_a_model_trained_without_the_forget_set_counts_as_retrained(trio: dict[str, Model]) -> None:
    plain = read_model(trios.put("plain.pt", 7, trios.forget_of()))
    found = triple_of(trio["unlearned"], [trio["base"], plain])
    assert found.retrained == plain
    assert run_of(plain) == {}
