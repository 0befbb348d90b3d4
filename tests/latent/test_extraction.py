from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import refuses

from salun.data.dataset import Dataset
from salun.data.sets import prepare
from salun.data.sources import load
from salun.data.split import ForgetRequest, make_split, without
from salun.errors import SalunError
from salun.experiments.base_model import checkpoint_config
from salun.latent.extraction import (
    Model,
    Sample,
    choose,
    extract,
    find_checkpoints,
    read_model,
    source_of,
)
from salun.latent.features import Features
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, save_checkpoint
from salun.models.features import head
from salun.models.layers import outputs_at

CPU = torch.device("cpu")
FAMILIES = ["resnet_tiny", "resnet18", "vgg11_bn", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]


@pytest.fixture(scope="module")
def pictures() -> Dataset:
    """A few generated 32x32 images."""
    return load("synthetic:n=60,size=32,classes=5")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, pictures: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An untrained model of each family as a checkpoint."""
    torch.manual_seed(0)
    architecture = Architecture(request.param, 5, 3, 32)
    network = build(architecture)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("family") / "model.pt"
    save_checkpoint(path, Checkpoint(network.state_dict(), architecture, pictures.name))
    return read_model(path)


def extracted(model: Model, sample: Sample, batch_size: int = 256, layer: str = "pre-head") -> Features:
    source = source_of(model, sample, layer, model.path)
    images = sample.images(model, CPU)
    return extract(
        model.restore(CPU), images, sample.forgotten(model), sample.dataset.classes, source, batch_size, lambda seen: 0
    )


def test_the_head_turns_features_into_the_models_own_logits_whatever_the_batch_size(
    family: Model, pictures: Dataset
) -> None:
    sample = choose(pictures, [family], "train", 40)
    network = family.restore(CPU).eval()
    with torch.no_grad():
        logits = network(next(sample.images(family, CPU).batches(40)).x).numpy()
    linear = head(network)
    bias = 0 if linear.bias is None else linear.bias.detach().numpy()
    for size in (1000, 32, 1):
        found = extracted(family, sample, size)
        assert found.logits == pytest.approx(logits, abs=1e-5)
        assert found.features @ found.prototypes.T + bias == pytest.approx(logits, abs=1e-4)
        assert found.indices.tolist() == sample.indices.tolist()
    assert np.ptp(found.features, axis=0).max() > 0
    assert found.prototypes.shape == (5, found.features.shape[1])


def test_any_layer_can_be_read_averaged_over_space_or_tokens(family: Model, pictures: Dataset) -> None:
    sample = choose(pictures, [family], "train", 10)
    network = family.restore(CPU).eval()
    x = next(sample.images(family, CPU).batches(10)).x
    names = [name for name, module in network.named_modules() if name and not list(module.children())]
    for layer in (names[0], names[len(names) // 2], names[-1]):
        found = extracted(family, sample, layer=layer)
        with torch.no_grad():
            output = outputs_at(network, [layer], x)[0][layer]
        assert found.source.layer == layer
        assert found.features.shape in [(10, size) for size in output.shape[1:]]
        assert found.features.mean(1) == pytest.approx(output.flatten(1).mean(1).numpy(), abs=1e-5)


def test_a_layer_is_read_before_the_next_one_changes_it_in_place(trained_file: Path, digits: Dataset) -> None:
    model = read_model(trained_file)
    sample = choose(digits, [model], "train", 20)
    network = model.restore(CPU).eval()
    assert network.act1.inplace
    with torch.no_grad():
        x = next(sample.images(model, CPU).batches(20)).x
        expected = network.bn1(network.conv1(x)).mean((2, 3)).numpy()
    assert expected.min() < 0
    assert extracted(model, sample, layer="bn1").features == pytest.approx(expected, abs=1e-5)


# Which images


@pytest.fixture
def zeros(digits: Dataset) -> tuple[int, ...]:
    """The training split's images of class 0."""
    return tuple(make_split(digits, ForgetRequest(classes=(0,))).forget.tolist())


Make = Callable[..., Model]


@pytest.fixture
def make(tmp_path: Path, trained: Checkpoint, digits: Dataset) -> Make:
    """Make a model that differs from the base model in what it was to forget."""

    def call(name: str, excluded: tuple[int, ...] = (), **config: Any) -> Model:
        split = make_split(digits, ForgetRequest())
        described = checkpoint_config("resnet_tiny", digits, None, prepare(digits, split), split) | config
        path = tmp_path / f"{name}.pt"
        save_checkpoint(path, replace(trained, config=described, excluded=excluded))
        return read_model(path)

    return call


def run_config(method: str, seed: int = 0, *mask: Any) -> dict[str, Any]:
    given = dict(zip(("keep", "score", "file"), mask, strict=True)) if mask else None
    return {"unlearned": {"method": method, "seed": seed, "mask": given, "forget": {"request": "class 0"}}}


@pytest.mark.parametrize(
    ("config", "excluded", "role", "title", "forget"),
    [
        ({}, (), "base", "base", ""),
        ({}, (1, 2), "retrained", "retrained", "2 images"),
        (run_config("retrain"), (1, 2), "retrained", "retrained", "class 0"),
        (run_config("retrain", 2), (1, 2), "retrained", "retrained, seed 2", "class 0"),
        (run_config("ga"), (1, 2), "unlearned", "ga", "class 0"),
        (run_config("rl", 3, 0.2, "sum", None), (1, 2), "unlearned", "rl + mask 0.2, seed 3", "class 0"),
        (run_config("rl", 0, 0.2, "random", None), (1, 2), "unlearned", "rl + random mask 0.2", "class 0"),
        (run_config("rl", 0, 0.5, "sum", "m.mask"), (1, 2), "unlearned", "rl + mask of a file", "class 0"),
    ],
)
def test_a_checkpoint_tells_what_it_is(
    make: Make, config: dict[str, Any], excluded: tuple[int, ...], role: str, title: str, forget: str
) -> None:
    model = make("m", excluded, **config)
    assert (model.role, model.title, model.forget) == (role, title, forget)
    assert bool(model.forget_key) == bool(excluded)


@pytest.mark.parametrize("name", ["train", "test", "forget", "retain"])
def test_the_first_images_of_a_set_are_taken_in_order(
    make: Make, digits: Dataset, zeros: tuple[int, ...], name: str
) -> None:
    split = make_split(digits, ForgetRequest())
    gone = torch.tensor(zeros)
    whole = {"train": split.train, "test": split.test, "forget": gone, "retain": without(split.train, gone)}[name]
    models = [make("base"), make("after", zeros, **run_config("ga"))]
    sample = choose(digits, models, name, 37)
    assert sample.indices.tolist() == whole[:37].tolist()
    labels = (digits.test if name == "test" else digits.train).labels
    for model in models:
        images = sample.images(model, CPU)
        assert images.rows.tolist() == sample.indices.tolist()
        assert images.labels.tolist() == labels[sample.indices].tolist()
    assert len(choose(digits, models, name, 10**6).indices) == len(whole)


def test_what_was_to_be_forgotten_is_marked(make: Make, digits: Dataset, zeros: tuple[int, ...]) -> None:
    base, after = make("base"), make("after", zeros, **run_config("ga"))
    sample = choose(digits, [base, after], "train", 300)
    for model in (base, after):
        assert sample.forgotten(model).tolist() == [index in zeros for index in sample.indices.tolist()]
    tested = choose(digits, [base, after], "test", 300)
    assert tested.forgotten(after).tolist() == (digits.test.labels[tested.indices] == 0).tolist()
    listed = tuple(make_split(digits, ForgetRequest(share=0.1)).forget.tolist())
    at_random = make("random", listed)
    assert not choose(digits, [at_random], "test", 100).forgotten(at_random).any()
    assert int(choose(digits, [at_random], "train", 10**6).forgotten(at_random).sum()) == len(listed)


def test_with_several_forget_sets_each_model_is_marked_by_its_own(
    make: Make, digits: Dataset, zeros: tuple[int, ...]
) -> None:
    ones = tuple(make_split(digits, ForgetRequest(classes=(1,))).forget.tolist())
    base, first, second = make("base"), make("a", zeros), make("b", ones)
    sample = choose(digits, [base, first, second], "train", 400)
    labels = digits.train.labels[sample.indices]
    assert not sample.forgotten(base).any()
    assert torch.equal(sample.forgotten(first), labels == 0)
    assert torch.equal(sample.forgotten(second), labels == 1)
    together = choose(digits, [base, first, second], "forget", 10**6)
    assert together.indices.tolist() == sorted(zeros + ones)


def test_a_named_forget_set_stands_in_where_there_is_none(make: Make, digits: Dataset) -> None:
    base = make("base")
    listed = make_split(digits, ForgetRequest(classes=(3,))).forget
    sample = choose(digits, [base], "forget", 10**6, listed)
    assert sample.indices.tolist() == listed.tolist()
    assert sample.forgotten(base).all()


def test_models_of_different_splits_or_data_are_refused(make: Make, digits: Dataset) -> None:
    models = [make("a"), make("b", split_seed=1, split=make_split(digits, ForgetRequest(), 1).fingerprint)]
    both = r"a\.pt \(split_seed 0\) and .*b\.pt \(split_seed 1\) share no training split"
    with pytest.raises(SalunError, match=both):
        choose(digits, models, "train", 10)
    assert len(choose(digits, models, "test", 10).indices) == 10
    model = make("a", split="0123456789abcdef")
    with pytest.raises(SalunError, match="was trained on another split"):
        choose(digits, [model], "train", 10).images(model, CPU)


def test_the_key_changes_with_everything_that_decides(make: Make, digits: Dataset, zeros: tuple[int, ...]) -> None:
    base, after = make("base"), make("after", zeros)
    sample = choose(digits, [base], "train", 10)
    assert make("rl", zeros, **run_config("rl")).forget_key == after.forget_key != make("c", (4,)).forget_key
    keys = [
        source_of(model, of, layer, Path("a.pt")).key
        for model, of, layer in (
            (base, sample, "pre-head"),
            (base, sample, "layer1"),
            (base, choose(digits, [base], "train", 11), "pre-head"),
            (base, choose(digits, [base], "test", 10), "pre-head"),
            (base, choose(digits, [base, after], "train", 10), "pre-head"),
            (replace(base, fingerprint="other"), sample, "pre-head"),
        )
    ]
    assert len(set(keys)) == len(keys)
    assert source_of(base, sample, "pre-head", Path("b.pt")).key == keys[0]


def test_a_model_whose_outputs_are_no_numbers_is_refused(tmp_path: Path, trained: Checkpoint, digits: Dataset) -> None:
    weights = {name: tensor * (np.nan if tensor.is_floating_point() else 1) for name, tensor in trained.weights.items()}
    save_checkpoint(tmp_path / "nan.pt", replace(trained, weights=weights))
    model = read_model(tmp_path / "nan.pt")
    with pytest.raises(SalunError, match=r"nan\.pt: features that are no numbers"):
        extracted(model, choose(digits, [model], "train", 10))


# Which checkpoints


def test_checkpoints_are_found_below_a_folder_as_given_then_under_checkpoints(tmp_path: Path) -> None:
    there = [
        f"there/{name}"
        for name in ("b/2.pt", "b/1.pth", "a.pt", "c.safetensors", "b/x.json", "b/.a.pt.3.part", ".h.pt", "m.mask")
    ]
    for name in [*there, "checkpoints/both/inner.pt", "both/outer.pt", "checkpoints/one/inner.pt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for place, found in (
        ("there", ["there/a.pt", "there/b/1.pth", "there/b/2.pt", "there/c.safetensors"]),
        ("there/b/2.pt", ["there/b/2.pt"]),
        ("both", ["both/outer.pt"]),
        ("one", ["checkpoints/one/inner.pt"]),
    ):
        assert [str(path) for path in find_checkpoints(Path(place))] == found
    (tmp_path / "empty").mkdir()
    refuses(r"nowhere: no such folder, here or under checkpoints/", lambda: find_checkpoints(Path("nowhere")))
    refuses(r"empty: holds no checkpoint \(\*\.pt, \*\.pth, \*\.safetensors\)", lambda: find_checkpoints(Path("empty")))
