"""The Python face, used as somebody with a model and images of their own uses it."""

import doctest
import re
import warnings
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset, WeightedRandomSampler
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as transforms

import salun
from salun.data import images as images_module
from salun.data import loading as loading_module
from salun.experiments import own_split as own_split_module
from salun.reports import scores as scores_module

SIDE, CLASSES = 10, 4


class Net(nn.Module):
    """A network unlike timm's: no get_classifier, no batch normalisation, grey images that are not square."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4 * 5, 12))
        self.last = nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.body(x).relu())
        return logits


def drawn(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise around one pattern a class: already normalised, and not in [0, 1]."""
    patterns = torch.randn(CLASSES, 1, SIDE, SIDE + 2, generator=torch.Generator().manual_seed(0))
    y = torch.arange(count) % CLASSES
    return patterns[y] + torch.randn(count, 1, SIDE, SIDE + 2, generator=torch.Generator().manual_seed(seed)), y


TRAIN, TEST = salun.Images.from_tensors(*drawn(120, 1)), salun.Images.from_tensors(*drawn(40, 2))
FAST: dict[str, Any] = {"epochs": 2, "batch_size": 32}
Wrong = Callable[[], object]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A network that a plain loop trained."""
    torch.manual_seed(0)
    network, loader = Net(), DataLoader(TensorDataset(*drawn(120, 1)), 24, shuffle=True)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    for _ in range(6):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    return network


@pytest.mark.parametrize("name", salun.methods())
def test_the_lines_of_the_readme_with_every_method(model: nn.Module, name: str) -> None:
    forget, retain = salun.split(TRAIN, classes=[3])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    method = salun.methods()[name]
    mask = salun.saliency(model, forget, keep=0.5) if method.maskable else None
    settings = {key: value for key, value in FAST.items() if key in method.settings}
    unlearned = salun.unlearn(
        model, forget, retain, name, mask=mask, validation=TEST, recipe=salun.Recipe(**FAST), **settings
    )
    retrained = salun.retrain(Net(), retain, **FAST)
    scores = salun.evaluate(unlearned, forget, retain, TEST, base=model, retrained=retrained)
    assert isinstance(unlearned, Net)
    assert not unlearned.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    moved = any(not torch.equal(before[key], value) for key, value in unlearned.state_dict().items())
    assert moved or "epochs" not in method.settings
    if mask is not None:
        held = {key: ~chosen for key, chosen in mask.items()}
        assert all(torch.equal(unlearned.state_dict()[key][still], before[key][still]) for key, still in held.items())
    assert {"UA", "RA", "TA", "MIA", "avg_gap"} <= scores.keys()
    assert 0 <= scores["RA"] <= 1


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/scenarios.md"])
def test_the_examples_of_the_pages_run_as_they_stand(model: nn.Module, page: str) -> None:
    text = (Path(__file__).parents[1] / page).read_text()
    codes = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "salun.run(" not in code]
    x_test, y_test = drawn(40, 2)
    names = {"train_loader": DataLoader(TensorDataset(*drawn(120, 1)), 24, shuffle=True), "x_test": x_test}
    names |= {"y_test": y_test, "model": model, "new_model": Net()}
    names |= {"salun": salun, "train": TRAIN, "test": TEST} if page == "docs/scenarios.md" else {}
    for code in codes:
        exec(code, names)
    if page == "docs/scenarios.md":
        assert 0 < len(names["attacked"]) < len(TEST)
    else:
        assert len(codes[0].splitlines()) <= 10 + (page != "README.md")
        assert 0 <= names["scores"]["avg_gap"] < 1


def test_accuracy_is_that_of_the_users_own_loop(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, share=0.2, seed=1)
    scores = salun.evaluate(model, forget, retain, TEST)
    x, y = drawn(40, 2)
    assert scores["TA"] == pytest.approx(float((model(x).argmax(1) == y).float().mean()), abs=1e-6)
    labels, pixels = retain.labels, retain.pixels[retain.rows]
    assert scores["RA"] == pytest.approx(float((model(pixels).argmax(1) == labels).float().mean()), abs=1e-6)


def test_the_model_given_is_left_as_it_is_and_the_seed_decides(model: nn.Module) -> None:
    model.train()
    model.body[0].weight.requires_grad_(False)
    forget, retain = salun.split(TRAIN, share=0.1)
    state = torch.random.get_rng_state()
    first, again, other = (
        salun.unlearn(model, forget, retain, "rl", seed=seed, lr=0.1, **FAST).state_dict() for seed in (0, 0, 1)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    assert model.training
    assert not model.body[0].weight.requires_grad
    assert all(weight.grad is None for weight in salun.unlearn(model, forget, retain, "ft", **FAST).parameters())
    assert vars(model).keys() == vars(Net()).keys()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)
    assert torch.equal(first["body.0.weight"], model.body[0].weight)
    model.body[0].weight.requires_grad_(True)


def test_all_metrics_that_need_no_other_runs(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, classes=[3])
    unlearned = salun.unlearn(model, forget, retain, "ft", **FAST)
    scores = salun.evaluate(
        unlearned, forget, retain, TEST, base=model, retrained=salun.retrain(Net(), retain, **FAST), validation=TEST,
        metrics="all",
    )  # fmt: skip
    joint = {"KLoM", "KLoM_median", "KLoM_p95", "forgetting_quality", "neurips_score", "ULiRA_auc"}
    expected = {name for name, found in salun.metrics().items() if not found.original} - joint
    assert set(scores) == expected | {"avg_gap"}
    # Nothing is corrupted, no part of a class is forgotten, and there is no earlier request.
    missing = {"ASR", "CA_found", "CA_undiscovered", "others", "siblings", "subclass", "subclass_test"}
    missing |= {"UA_earlier", "UA_by_request", "RTE_total", "passes_total"}
    assert {name for name in scores if scores[name] is None} == missing
    assert scores["passes"] == 2 * 2 * len(retain)
    assert scores["avg_gap"] == pytest.approx(np.mean([scores.gaps[name] for name in ("UA", "RA", "TA", "MIA")]))
    lines = str(scores).splitlines()
    assert lines[0].split() == ["base", "unlearned", "retrained", "gap"]
    assert any(line.startswith("UA %") for line in lines)
    assert f"{100 * scores['UA']:.2f}" in scores._repr_html_()


def test_a_model_chooses_what_is_forgotten(model: nn.Module) -> None:
    logits = model(next(TRAIN.batches(len(TRAIN))).x)
    surprise = nn.functional.cross_entropy(logits.double(), TRAIN.labels, reduction="none")
    for choice, order in (("memorized", -1), ("easy", 1)):
        forget, retain = salun.split(TRAIN, share=0.1, choice=choice, model=model)
        assert sorted(forget.rows.tolist()) == sorted((order * surprise).argsort()[:12].tolist())
        assert len(retain) == 108
    first, again = (salun.split(TRAIN, share=0.1, choice="worst", model=model)[0].rows.tolist() for _ in range(2))
    assert first == again
    for given in ({"share": 0.1}, {"model": model}, {"model": model, "share": 0.1, "stratified": True}):
        with pytest.raises(salun.SalunError, match="choice='easy': needs model= and share="):
            salun.split(TRAIN, choice="easy", **given)
    with pytest.raises(salun.SalunError, match="choice='hard': must be one of random, memorized, easy, worst"):
        salun.split(TRAIN, share=0.1, choice="hard", model=model)


@pytest.mark.parametrize("name", ["duck", "scar", "rum", "scrub"])
def test_methods_that_look_at_validation_images_do_without(model: nn.Module, name: str) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    settings = {key: value for key, value in FAST.items() if key in salun.methods()[name].settings}
    salun.unlearn(model, forget, retain, name, **settings)


def test_progress_and_callback(model: nn.Module, capsys: pytest.CaptureFixture[str]) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    seen: list[Any] = []
    salun.unlearn(model, forget, retain, "ft", callback=seen.append, **FAST)
    assert [point.epoch for point in seen if point.done] == [1, 2]
    salun.unlearn(model, forget, retain, "ft", progress=True, **FAST)
    capsys.readouterr()


def test_defaults_on_few_images_and_folders_without_a_test_part_warn(model: nn.Module, folder: Path) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    with pytest.warns(UserWarning, match="method 'ft': its defaults .* for tens of thousands of images; 12 forget"):
        salun.unlearn(model, forget, retain, "ft")
    with pytest.warns(UserWarning, match="test part: a stratified fifth of 12 images"):
        salun.load(f"folder:{folder}")
    with warnings.catch_warnings(action="error"):
        salun.unlearn(model, forget, retain, "ft", **FAST)


def test_a_budget_ends_the_method(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    unlearned = salun.unlearn(model, forget, retain, "ft", budget=50, **FAST)
    assert salun.evaluate(unlearned, forget, retain, TEST, metrics=["passes"])["passes"] == 50


class Bare(Net):
    """A network that no linear layer ends, and one of whose weights no layer can draw anew."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((CLASSES,), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def test_whether_it_is_gone_is_asked_of_base_and_retrained_model_too(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, classes=[3])
    torch.manual_seed(0)
    retrained = salun.retrain(Net(), retain, **FAST)
    with warnings.catch_warnings(action="error"):
        warnings.filterwarnings("ignore", "evaluate: the retrained model lost")
        scores = salun.evaluate(model, forget, retain, TEST, base=model, retrained=retrained, metrics="gone")
    names = {name for name, found in salun.metrics().items() if found.gone}
    assert set(scores) == names | {"avg_gap"}
    assert (scores["IDI"], scores.base["IDI"], scores.retrained["IDI"]) == (1, 1, None)
    for name in ("probe_forget", "kNN_test", "relearn_few", "barrier_base"):
        assert scores.base[name] == scores[name]
        assert scores.retrained[name] is not None
        assert scores.gaps[name] == pytest.approx(abs(scores[name] - scores.retrained[name]))


def test_a_model_without_a_known_head_has_no_probes_and_a_line_says_so() -> None:
    forget, retain = salun.split(TRAIN, classes=[3])
    line = "model Bare: no linear layer gives its logits, so it has no probe_forget; name its last layer with head="
    with pytest.warns(UserWarning, match=line):
        scores = salun.evaluate(
            Bare(), forget, retain, TEST, base=Bare(), metrics=["probe_forget", "relearn_few", "UA"]
        )
    assert scores["probe_forget"] is None
    assert scores["relearn_few"] is not None
    with pytest.raises(salun.SalunError, match="head='last': the layer's output is not the model's logits"):
        salun.evaluate(Bare(), forget, retain, TEST, head="last")
    found = salun.evaluate(Net(), forget, retain, TEST, base=Net(), metrics=["probe_forget"], head="last")
    assert found["probe_forget"] > 0


@pytest.mark.parametrize("name", ["boundary_expand", "scar", "duck"])
def test_methods_that_need_a_head_say_so(name: str) -> None:
    forget, retain = salun.split(TRAIN, classes=[0])
    settings = {key: value for key, value in FAST.items() if key in salun.methods()[name].settings}
    with pytest.raises(salun.SalunError, match=r"model Bare: no linear layer gives its logits.*head="):
        salun.unlearn(Bare(), forget, retain, name, **settings)
    with pytest.raises(salun.SalunError, match="head='last': the layer's output is not the model's logits"):
        salun.unlearn(Bare(), forget, retain, name, head="last", **settings)
    salun.unlearn(Net(), forget, retain, name, head="last", validation=TEST, **settings)


def test_a_model_that_cannot_be_drawn_anew_needs_a_builder() -> None:
    forget, retain = salun.split(TRAIN, classes=[0])
    with pytest.raises(salun.SalunError, match=r"model Bare: its own weights cannot be drawn anew .* give fresh="):
        salun.unlearn(Bare(), forget, retain, "bad_teacher", epochs=1)
    salun.unlearn(Bare(), forget, retain, "bad_teacher", epochs=1, fresh=Bare)


# Images


def test_a_loader_that_shuffles_is_read_in_the_order_of_its_data() -> None:
    x, y = drawn(30, 3)
    for loader in (DataLoader(TensorDataset(x, y), 7, shuffle=True), DataLoader(TensorDataset(x, y), 7)):
        found = salun.Images.from_loader(loader)
        assert torch.equal(found.pixels, x)
        assert torch.equal(found.labels, y)
    chosen = salun.Images.from_loader(DataLoader(TensorDataset(x, y), 7, sampler=SubsetRandomSampler([4, 2])))
    assert sorted(chosen.labels.tolist()) == sorted(y[[4, 2]].tolist())
    assert torch.equal(salun.Images.from_dataset(TensorDataset(x, y)).pixels, x)
    parts = salun.Images.from_loader(DataLoader(TensorDataset(x, y), batch_sampler=[[5, 1], [3]]))
    assert torch.equal(parts.pixels, x[[5, 1, 3]])
    assert torch.equal(salun.Images.from_loader(DataLoader(TensorDataset(x, y), sampler=torch.arange(4))).pixels, x[:4])


def test_a_loader_that_takes_images_twice_is_refused() -> None:
    data = TensorDataset(*drawn(30, 3))
    told = "from_loader: its WeightedRandomSampler takes 29 of 30 images a second time; give a loader without it"
    with pytest.raises(salun.SalunError, match=told):
        salun.Images.from_loader(DataLoader(data, 7, sampler=WeightedRandomSampler([1.0] + [0.0] * 29, 30)))
    assert len(salun.Images.from_loader(DataLoader(data, 7, sampler=WeightedRandomSampler([1.0] * 30, 9, False)))) == 9


def test_what_the_model_sees() -> None:
    x, y = drawn(8, 3)
    plain = salun.Images.from_tensors(x.double().numpy(), y.numpy())
    for generator in (None, torch.Generator().manual_seed(0)):
        batch = next(plain.batches(8, generator))
        assert torch.equal(batch.x, x[batch.at])
    pixels = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    batch = next(salun.Images.from_tensors(pixels, y, mean=[0.5] * 3, std=[0.25] * 3).batches(8))
    assert torch.allclose(batch.x, (pixels / 255 - 0.5) / 0.25)
    noisy = salun.Images.from_tensors(x, y, augment=lambda batch: batch + 1)
    assert torch.equal(next(noisy.batches(8)).x, x)
    batch = next(noisy.batches(8, torch.Generator().manual_seed(0)))
    assert torch.equal(batch.x, x[batch.at] + 1)
    cropped = next(salun.Images.from_tensors(x, y, augment="crop_flip").batches(8, torch.Generator().manual_seed(0)))
    assert cropped.x.shape == x.shape
    assert not torch.equal(cropped.x, x[cropped.at])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(12):
        path = tmp_path / "own" / ("cat", "dog", "emu")[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(path)
    return tmp_path / "own"


def test_images_of_a_folder_have_names_and_classes(folder: Path) -> None:
    train = salun.Images.from_folder(folder)
    assert train.classes == ("cat", "dog", "emu")
    forget, retain = salun.split(train, names=["dog/4.png", "cat/0.png"])
    assert forget.names == ["cat/0.png", "dog/4.png"]
    assert set(retain.names) == set(train.names) - set(forget.names)
    assert salun.split(retain, names="emu/2.png")[0].names == ["emu/2.png"]
    assert int(train.pixels[forget.rows[1], 0, 0, 0]) == 80
    assert len(retain) == 10
    assert salun.split(train, classes="dog")[0].labels.tolist() == [1] * 4
    data = ImageFolder(str(folder), transforms.pil_to_tensor)
    read = salun.Images.from_loader(DataLoader(data, 5, shuffle=True))
    assert salun.split(read, names=["dog/4.png"])[0].rows.tolist() == [
        data.samples.index((str(folder / "dog/4.png"), 1))
    ]


def test_a_folder_of_parts_is_for_load(folder: Path) -> None:
    (folder / "train").mkdir()
    for name in ("cat", "dog", "emu"):
        (folder / name).rename(folder / "train" / name)
    with pytest.raises(
        salun.SalunError, match=r"own: holds parts \(train\), not classes; salun.load\('folder:.*own'\)"
    ):
        salun.Images.from_folder(folder)
    assert len(salun.Images.from_folder(folder / "train")) == 12


def test_a_data_set_by_name() -> None:
    data = salun.load("digits")
    assert data.train.classes == tuple("0123456789")
    batch = next(data.test.batches(len(data.test)))
    assert abs(float(batch.x.mean())) < 0.1
    assert len(data.train) + len(data.test) == 1797


def broken(network: Net) -> Net:
    """Weights as a training leaves them that diverged."""
    nn.init.constant_(network.last.weight, torch.nan)
    return network


PIXELS = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
MASK = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in Net().named_parameters()}


def halves(**given: Any) -> Wrong:
    return lambda: salun.split(TRAIN, **given)


def unlearning(name: Any = "ft", images: Any = TRAIN, network: Any = None, **given: Any) -> Wrong:
    def do() -> object:
        forget, retain = salun.split(TRAIN, share=0.1) if images is TRAIN else (images, images)
        return salun.unlearn(network or Net(), forget, retain, name, **given)

    return do


def images_of(x: Any = None, y: Any = None, **given: Any) -> Wrong:
    pixels, labels = drawn(4, 0)
    return lambda: salun.Images.from_tensors(pixels if x is None else x, labels if y is None else y, **given)


WRONG: list[tuple[Wrong, str]] = [
    (halves(), "split: give one of classes=, share=, indices=, names="),
    (halves(classes=[1], share=0.5), "split: give one of"),
    (halves(share=1.5), "split: share=1.5: must be between 0 and 1"),
    (halves(indices=[3, 120]), r"split: index 120 is not one of 120 images \(0 to 119\)"),
    (halves(indices=[0.5]), "split: indices of torch.float32: must be whole numbers"),
    (halves(indices=[]), "split: indices=: empty; must be positions of images"),
    (halves(indices="a"), "split: indices='a': must be whole numbers, positions of images"),
    (halves(indices=[True, False]), "split: indices: 2 booleans for 120 images: must be one an image"),
    (halves(classes=[2.5]), "class 2.5: the classes are 0 to 3"),
    (halves(share="a"), "split: share='a': must be between 0 and 1"),
    (halves(share=0.5, seed="a"), "split: seed='a': must be a whole number from 0"),
    (lambda: salun.split(drawn(4, 0), share=0.5), "split: a tuple; must be salun.Images"),
    (halves(classes=[7]), "class 7: the classes are 0 to 3"),
    (halves(classes=["cat"]), "class 'cat': unknown; the images have no class names: give a number"),
    (halves(names=["a.png"]), "split: names=: the images have no names"),
    (halves(classes=[0, 1, 2, 3]), "split: 120 of 120 images to forget; neither set may be empty"),
    (images_of(torch.zeros(4, 8, 8)), r"images: shape \(4, 8, 8\): must be \(N, C, H, W\)"),
    (images_of(torch.full((4, 1, 8, 8), torch.nan)), "images: some values are no finite numbers"),
    (images_of(torch.zeros(4, 1, 8, 8, dtype=torch.int64)), "images: values of torch.int64: must be floating-point"),
    (images_of(y=[0, 1, 2]), "images: 4 images, 3 labels: must be as many"),
    (images_of(y=[0, 1, 2, -1]), "images: label -1: labels count from 0"),
    (images_of(y=[0.0] * 4), r"images: labels of shape \(4,\) and torch.float32: must be \(N,\) whole numbers"),
    (images_of(names=["a"]), "images: 4 images, 4 labels, 1 names: must be as many"),
    (images_of(classes=["a"]), "images: label 3, but 1 class names"),
    (images_of(mean=[0.5] * 3), "images: mean of 3 channels for images of 1"),
    (images_of(mean=[0.5]), "images: one of mean= and std= alone; give both or neither"),
    (images_of(mean=0.5), "images: mean of 1 channels for images of 1"),
    (images_of(mean=[0.5], std=[0.0]), "images: std=0: must be above 0, in the values that reach the model"),
    (images_of(PIXELS, mean=[127.0], std=[0.5]), "images: mean=127: must be from 0 to 1, in the values that reach"),
    (images_of(PIXELS, mean=[0.5], std=[60.0]), "images: std=60: must be above 0, at most 1, in the values that"),
    (images_of("abc"), "images: a str; must be a tensor or an array of numbers"),
    (images_of(augment="flip"), "augment='flip': must be 'crop_flip' or a function"),
    (
        images_of(augment=lambda x: x[..., :5]),
        r"augment: gives shape \(2, 1, 10, 5\), torch.float32 for a batch of shape",
    ),
    (images_of(augment=lambda x: x @ x), r"augment: cannot take a batch of \(2, 1, 10, 12\): "),
    (lambda: salun.Images.from_loader([1]), "from_loader: a list; must be a DataLoader; from_tensors takes arrays"),
    (lambda: salun.Images.from_dataset(3), "from_dataset: a int; must be a torch data set"),
    (
        lambda: salun.Images.from_loader(DataLoader([{"x": 1}])),
        "pairs .*: they are dictionaries of 'x'; give a collate",
    ),
    (lambda: salun.Images.from_folder("nowhere"), "nowhere is not a folder"),
    (unlearning("nothing"), "method 'nothing': unknown; "),
    (unlearning(3), "method 3: must be the name of a method, such as 'rl'"),
    (unlearning("SalUn"), "method 'SalUn': unknown; SalUn is the method 'rl_split' under a saliency mask: mask= in"),
    (unlearning("FT_"), "method 'FT_': unknown; did you mean 'ft'?"),
    (
        unlearning("retrain", epochs=1),
        r"method 'retrain': .*'epochs': unknown; .* give recipe=salun.Recipe\(epochs=...\)",
    ),
    (
        unlearning(augment="crop_flip"),
        "unlearn: augment=: is not taken here; Images.from_tensors, from_loader, .* take it",
    ),
    (unlearning(budget=-5), "budget=-5: must be a whole number from 1"),
    (unlearning(budget="a"), "budget='a': must be a whole number from 1"),
    (unlearning(seed="a"), "seed='a': must be a whole number from 0"),
    (unlearning(seed=2**31), "seed=2147483648: must be a whole number from 0, below 2147483648"),
    (unlearning(callback=3), "callback: a int; must be a function of a Progress"),
    (unlearning(head=3), "head=3: must be the name of a layer"),
    (unlearning(recipe={"epochs": 1}), r"recipe: a dict; must be salun.Recipe\(epochs=..., lr=...\)"),
    (unlearning(fresh=3), "fresh: a int; must be a class or function that makes a model: fresh=Net"),
    (unlearning(fresh=Net()), "fresh: a Net; must be a class or function that makes a model: fresh=Net"),
    (unlearning(fresh=list), "fresh: cannot make a model: 'list' object has no attribute 'to'"),
    (
        unlearning(fresh=lambda: nn.Linear(3, 4)),
        "fresh: makes a model unlike the one given: lacks the weight 'body.0.we",
    ),
    (unlearning(mask=0.5), "mask: a float; must be a boolean tensor a weight by name"),
    (unlearning(mask="m.pt"), "mask: a str; must be a boolean tensor a weight by name"),
    (
        unlearning(mask=dict(list(MASK.items())[:4])),
        "mask: lacks 2 of the model's 6 weights, 'last.weight' first; is the",
    ),
    (
        unlearning(mask=MASK | {"last.bias": torch.ones(CLASSES)}),
        "mask: 'last.bias' is torch.float32; must be a boolean",
    ),
    (unlearning(lr=-1.0), "method 'ft': setting 'lr': -1.0: input should be greater than 0"),
    (unlearning(learning_rate=0.1), "method 'ft': setting 'learning_rate': unknown"),
    (unlearning("unsir"), "method 'unsir': forgets whole classes only"),
    (unlearning("scrub", rewind=True), "method 'scrub': rewind: there are no validation images; give them, or"),
    (unlearning(head="nowhere"), "head='nowhere': the model has no such layer"),
    (unlearning(images=[1, 2]), "forget: a list; must be salun.Images"),
    (unlearning(images=TEST), "forget and retain: 40 images are in both; salun.split divides images in two"),
    (unlearning(images=TRAIN.take(torch.empty(0, dtype=torch.int64))), "forget: holds no images"),
    (
        unlearning(validation=images_of(torch.zeros(4, 1, 8, 8))()),
        "validation: images of 1 x 8 x 8, those of forget of 1 x",
    ),
    (unlearning(network=Net().requires_grad_(False)), "model Net: all weights are frozen; requires_grad must be True"),
    (
        unlearning(network=Net().to("meta")),
        "model Net: weight 'body.0.weight' has no values yet: it is on the device meta",
    ),
    (
        unlearning(network=nn.LazyLinear(4)),
        "model LazyLinear: weight 'weight' has no values yet: it is of a lazy layer",
    ),
    (
        lambda: salun.saliency(torch.jit.script(Net()), TRAIN),
        "model: a RecursiveScriptModule; must be the torch.nn.Mod",
    ),
    (unlearning(network=broken(Net())), "model Net: its outputs are no numbers; did its training diverge?"),
    (unlearning(network=[1]), "model: a list; must be a torch.nn.Module"),
    (unlearning(network=nn.Flatten()), "model Flatten: has no weights"),
    (unlearning(network=nn.Linear(3, 3)), r"model Linear: cannot take images of shape \(2, 1, 10, 12\)"),
    (
        unlearning(network=nn.Conv2d(1, 4, 3)),
        r"model Conv2d: gives shape \(2, 4, 8, 10\) for 2 images; must give logits",
    ),
    (unlearning(network=nn.Sequential(nn.Flatten(), nn.Linear(120, 2))), "gives 2 logits, but the images have label 3"),
    (unlearning(network=nn.Sequential(nn.Flatten(), nn.LSTM(120, 4))), "model Sequential: gives a tuple for 2 images"),
    (unlearning(lr=1e30), "method 'ft': diverged in epoch 2; a lower lr may hold"),
    (unlearning(device="cuda:9"), "device 'cuda:9': this machine has no such device"),
    (lambda: salun.retrain(Net(), TRAIN, epoch=3), "retrain: epoch: unknown; did you mean 'epochs'?"),
    (lambda: salun.retrain(Net(), TRAIN, lr="a"), "retrain: lr='a': input should be a valid number"),
    (lambda: salun.retrain(Net(), TRAIN, augment=3), "retrain: augment=: is not taken here; Images.from_tensors,"),
    (lambda: salun.retrain(Net(), TRAIN, lr=1e30, epochs=2), r"retrain: diverged at lr 1e\+30"),
    (lambda: salun.saliency(Net(), TRAIN, keep=2.0), r"mask: keep=2\.0: must be a fraction from 0 to 1"),
    (lambda: salun.saliency(Net(), TRAIN, max_batches=0), "max_batches=0: must be a whole number from 1"),
    (lambda: salun.saliency(broken(Net()), TRAIN), "model Net: its outputs are no numbers"),
    (lambda: salun.evaluate(Net(), TRAIN, TRAIN, TEST, metrics=["UB"]), "metric 'UB': unknown"),
    (lambda: salun.evaluate(Net(), TRAIN, TRAIN, TEST, metrics=[3]), "metric 3: must be a name"),
    (lambda: salun.evaluate(Net(), *salun.split(TRAIN, share=0.5), TEST, base=broken(Net())), "base Net: its outputs"),
    (lambda: salun.run([]), "experiments: an empty list; must be entries as JSON has them, or the path of a list"),
    (lambda: salun.run({}, nexp=0), "nexp=0: must be a whole number from 1"),
    (lambda: salun.run({}, keep="some"), "keep='some': accepted: all, last, none"),
    (lambda: salun.run({}, utility_floor="a"), "utility_floor='a': must be points from 0"),
    (
        lambda: salun.run([{"class_to_forget": 0, "model": "resnet_tiny", "dataset": "digits", "epoch": 1}]),
        "experiments: entry 1: epoch: unknown key",
    ),
]


@pytest.mark.parametrize(("act", "line"), WRONG, ids=[line[:40] for _, line in WRONG])
def test_wrong_input_is_one_line(act: Wrong, line: str) -> None:
    with pytest.raises(salun.SalunError, match=line) as caught:
        act()
    assert len(str(caught.value).splitlines()) == 1


def test_a_list_is_run_as_the_command_does(tmp_path: Path) -> None:
    data = {"model": "resnet_tiny", "dataset": "synthetic:n=60,size=8,classes=3", "recipe": FAST, "class_to_forget": 0}
    entries = [data | {"method": "retrain"}, data | {"method": "ft"} | FAST]
    results = salun.run(entries, nexp=2, metrics=["UA", "RA", "TA", "MIA"])
    assert [row.title for row in results] == ["base", "retrain", "ft"]
    assert results.failures == ()
    assert len((tmp_path / "runs/python/records.jsonl").read_text().splitlines()) >= 4
    assert "resnet_tiny on synthetic" in str(results)
    assert "<td" in results._repr_html_()
    frame = results.to_pandas()
    assert len(frame) == len(results)
    again: list[Any] = []
    assert str(salun.run(entries, nexp=2, callback=again.append, metrics=["UA", "RA", "TA", "MIA"])) == str(results)
    assert again == []


def test_another_list_needs_another_name_and_one_that_grows_does_not(tmp_path: Path) -> None:
    data = {"model": "resnet_tiny", "dataset": "synthetic:n=60,size=8,classes=3", "recipe": FAST, "class_to_forget": 0}
    first, second, given = (
        data | {"method": "ft"} | FAST,
        data | {"method": "ga"} | FAST,
        {"nexp": 1, "metrics": ["UA"]},
    )
    row = salun.run(first, **given)[1]
    assert re.fullmatch(r"Row\(ft: UA \d+\.\d\d %; 1 runs\)", repr(row))
    with pytest.raises(
        salun.SalunError, match="python: holds the results of other entries; name= gives those of these"
    ):
        salun.run([second], **given)
    assert [row.title for row in salun.run([second, first], **given)] == ["base", "ga", "ft"]
    assert [row.title for row in salun.run([second], name="other", **given)] == ["base", "ga"]


def doubts(act: Wrong) -> list[str]:
    """The warnings of a call."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act()
    assert {warning.filename for warning in caught} <= {__file__}
    return [str(warning.message) for warning in caught]


def test_evaluate_doubts_a_retrained_model_that_is_no_gold_standard(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    assert doubts(lambda: salun.evaluate(model, forget, retain, TEST, base=model)) == []
    told = "evaluate: retrained has the same weights as base; retrain a new model without the forget set"
    assert doubts(lambda: salun.evaluate(Net(), forget, retain, TEST, base=model, retrained=deepcopy(model))) == [told]
    lost = doubts(lambda: salun.evaluate(model, forget, retain, TEST, base=model, retrained=Net(), metrics=["UA"]))
    assert [re.sub(r"[\d.]+ points", "N points", line) for line in lost] == [
        "evaluate: the retrained model lost N points of RA against the base model: no gold standard; train it longer"
    ]
    (few,) = doubts(lambda: salun.retrain(Net(), retain, epochs=2, batch_size=32))
    made = "retrain: 2 epochs of 108 images in batches of 32 make 8 steps, too few to train a new model"
    assert few == f"{made}; give more epochs or a smaller batch_size"
    by_method = doubts(lambda: salun.unlearn(Net(), forget, retain, "retrain", recipe=salun.Recipe(**FAST)))
    assert by_method == [few.replace("retrain:", "method 'retrain':")]


def test_evaluate_tells_which_metrics_lack_what(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    found = doubts(lambda: salun.evaluate(model, forget, retain, TEST, metrics=["JS", "VA", "relearn_time", "KLoM"]))
    assert found == [
        "evaluate: no value of JS without retrained=",
        "evaluate: no value of VA without validation=",
        "evaluate: no value of relearn_time without base=",
        "evaluate: no value of KLoM of one model; salun.run compares several runs",
    ]
    assert not any(
        "several runs" in line for line in doubts(lambda: salun.evaluate(model, forget, retain, TEST, metrics="all"))
    )


def test_sets_that_share_images(model: nn.Module) -> None:
    x, y = drawn(120, 1)
    forget, retain = salun.split(TRAIN, indices=np.arange(120) < 30)
    assert (len(forget), len(retain)) == (30, 90)
    assert doubts(lambda: salun.evaluate(model, forget, retain, TRAIN.take(torch.arange(28, 35)))) == [
        "evaluate: 2 images of test are in forget too, but count as unseen",
        "evaluate: 5 images of test are in retain too, but count as unseen",
    ]
    halves = [salun.Images.from_tensors(x[part], y[part]) for part in (slice(50), slice(40, None))]
    with pytest.raises(salun.SalunError, match="forget and retain: 10 images are in both"):
        salun.unlearn(model, halves[0], halves[1], "ft", **FAST)


def test_sets_must_mean_the_same() -> None:
    named = [salun.Images.from_tensors(*drawn(8, 0), classes=list(names)) for names in ("abcd", "dcba")]
    with pytest.raises(salun.SalunError, match=r"retain: has the classes d, c, b.*, but forget a, b, c.*; labels must"):
        salun.unlearn(Net(), named[0], named[1], "ft")
    scaled = salun.Images.from_tensors(*drawn(8, 0), mean=[0.5], std=[2.0])
    with pytest.raises(salun.SalunError, match="forget and retain: differ in mean, std or augment; give both the same"):
        salun.unlearn(Net(), TRAIN, scaled, "ft")


def test_outputs_that_stop_being_numbers_on_few_images() -> None:
    x, y = drawn(40, 2)
    x[39], network = 1e38, nn.Sequential(nn.Flatten(), nn.Linear(SIDE * (SIDE + 2), CLASSES))
    nn.init.ones_(network[1].weight)
    forget, retain = salun.split(TRAIN, share=0.1)
    with pytest.raises(salun.SalunError, match="model Sequential: its outputs on test images are no numbers"):
        salun.evaluate(network, forget, retain, salun.Images.from_tensors(x, y))


def test_gradients_switched_off_by_the_caller(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    plain = salun.unlearn(model, forget, retain, "ft", **FAST).state_dict()
    for off in (torch.no_grad(), torch.inference_mode()):
        with off:
            mask = salun.saliency(model, forget)
            unlearned = salun.unlearn(model, forget, retain, "ft", mask=mask, **FAST)
            assert all(
                torch.equal(plain[key], value)
                for key, value in salun.unlearn(model, forget, retain, "ft", **FAST).state_dict().items()
            )
            salun.evaluate(unlearned, forget, retain, TEST, base=model, metrics=["relearn_time"])


def test_numbers_of_numpy(model: nn.Module) -> None:
    forget, retain = salun.split(TRAIN, classes=np.int64(3))
    assert set(forget.labels.tolist()) == {3}
    given = {"epochs": np.int64(2), "batch_size": np.int32(32), "lr": np.float32(0.5)}
    first = salun.unlearn(model, forget, retain, "ft", seed=np.int64(1), **given).state_dict()
    again = salun.unlearn(model, forget, retain, "ft", seed=1, epochs=2, batch_size=32, lr=0.5).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert salun.Recipe(**given) == salun.Recipe(epochs=2, batch_size=32, lr=0.5)


def test_what_prints_is_short(model: nn.Module, tmp_path: Path) -> None:
    forget, retain = salun.split(TRAIN, share=0.1)
    lines = repr(salun.methods()).splitlines()
    assert len(lines) == len(salun.methods())
    assert any(line.startswith("ft(lr=0.01, epochs=10,") for line in lines)
    assert repr(salun.metrics()).startswith("UA %: Unlearning accuracy: 1 - accuracy on the forget set.")
    mask = salun.saliency(model, forget, 0.25)
    weights = sum(weight.numel() for weight in model.parameters())
    assert repr(mask) == f"Mask({weights // 4:,} of {weights:,} weights may move, in 6 tensors)"
    torch.save(mask, tmp_path / "mask.pt")
    loaded = torch.load(tmp_path / "mask.pt", weights_only=True)
    assert all(torch.equal(loaded[name], mask[name]) for name in mask)
    scores = salun.evaluate(model, forget, retain, TEST)
    with pytest.raises(KeyError, match=r"metric 'ua': was not measured; did you mean 'UA'\?"):
        _ = scores["ua"]
    assert "ua" not in scores


@pytest.mark.parametrize("module", [images_module, own_split_module, scores_module, loading_module])
def test_examples_of_docstrings(module: Any) -> None:
    found = doctest.testmod(module, extraglobs={"torch": torch})
    assert found.attempted
    assert not found.failed


def test_names_are_imported_on_first_use() -> None:
    assert set(salun.__all__) <= set(dir(salun))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = salun.nothing
