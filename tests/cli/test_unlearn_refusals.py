import io
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from salun.cli.unlearn import main
from salun.models.architecture import Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, save_checkpoint

Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]

BASE = "checkpoints/resnet_tiny_digits_base.pt"
RUN = ["-NL", "--nexp", "1"]
TINY = {"model": "resnet_tiny", "dataset": "digits"}


class Malice:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch malice-was-here",)


def saved(content: Any) -> bytes:
    """Give the bytes that `torch.save` writes."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def full_mask(model: str) -> dict[str, torch.Tensor]:
    """A mask that lets every weight of a model for digits move."""
    weights = build(Architecture(model, 10, 1, 8)).named_parameters()
    return {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", ["not valid JSON", "line 1, column 3"]),
        ("", ["not valid JSON"]),
        (bytes(range(256)), ["not a text file"]),
        ("3", ["entry 1: 3", "object"]),
        ("[]", ["holds no experiment"]),
        ("[3]", ["entry 1: 3", "object"]),
        ('[{"lr": 1, "lr": 2, "class_to_forget": 0}]', ["key 'lr'", "twice"]),
        ('[{"recipe": {"lr": 1, "lr": 2}, "class_to_forget": 0}]', ["key 'lr'", "twice"]),
        ("[" * 100_000, ["nested too deeply"]),
        ('[{"class_to_forget": ' + "9" * 5000 + "}]", ["4300 digits"]),
        ('[{"class_to_forget": 0, "lr": NaN}]', ["entry 1: lr: NaN", "finite"]),
        ('[{"class_to_forget": 0, "lr": 1e999}]', ["entry 1: lr: Infinity", "finite"]),
        ('[{"class_to_forget": 0, "no\\nsuch": 1}]', ["entry 1: no such: unknown key"]),
        ('[{"class_to_forget": 0, "dataset": "no\\nsuch"}]', ["entry 1: dataset: data set 'no such': unknown"]),
    ],
)
def test_a_file_that_is_no_list_of_experiments(content: Any, words: list[str], refuse: Refuse, write: Write) -> None:
    write("list.json", content)
    (line,) = refuse(main, ["-L", "list.json", *RUN])
    assert line.startswith("salun-unlearn: list.json: ")
    assert all(word in line for word in words), line


GONE = object()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"checkpoint": 3}, ["checkpoint: 3", "string"]),
        ({"checkpoint": "no.pt"}, ["checkpoint: no.pt: no such file"]),
        ({"checkpoint": "checkpoints"}, ["checkpoint: checkpoints: no such file"]),
        ({"checkpoint": "x" * 5000}, ["checkpoint: x", "no such file"]),
        ({"class_to_forget": 10}, ["class 10", "'digits' has the classes 0 to 9"]),
        ({"class_to_forget": -1}, ["class_to_forget: -1"]),
        ({"class_to_forget": "0"}, ['class_to_forget: "0"']),
        ({"class_to_forget": True}, ["class_to_forget: true"]),
        ({"class_to_forget": []}, ["class_to_forget: []"]),
        ({"class_to_forget": [1, "a"]}, ['class_to_forget: [1, "a"]']),
        ({"class_to_forget": list(range(10))}, ["all classes of 'digits'", "nothing would be retained"]),
        ({"class_to_forget": GONE}, ["nothing to forget", "class_to_forget, unlearning_rate, idxs_to_forget"]),
        ({"class_to_forget": GONE, "class_to_forgett": 0}, ["class_to_forgett: unknown", "'class_to_forget'"]),
        ({"unlearning_rate": 0.1}, ["class_to_forget and unlearning_rate: exclude each other"]),
        ({"idxs_to_forget": BASE}, ["class_to_forget and idxs_to_forget: exclude each other"]),
        ({"class_to_forget": GONE, "unlearning_rate": 0}, ["unlearning_rate: 0:", "greater than 0"]),
        ({"class_to_forget": GONE, "unlearning_rate": 1}, ["unlearning_rate: 1:", "less than 1"]),
        ({"class_to_forget": GONE, "unlearning_rate": "0.1"}, ['unlearning_rate: "0.1"', "number"]),
        ({"class_to_forget": GONE, "unlearning_rate": 1e-9}, ["1e-09 of the training split", "none of these"]),
        ({"class_to_forget": GONE, "unlearning_rate": 0.9999}, ["the whole training split"]),
        ({"class_to_forget": GONE, "idxs_to_forget": "no.json"}, ["idxs_to_forget: no.json: no such file"]),
        ({"class_to_forget": GONE, "idxs_to_forget": 3}, ["idxs_to_forget: 3", "string"]),
        ({"lr": 0}, ["lr: 0:", "greater than 0"]),
        ({"lr": -0.1}, ["lr: -0.1", "greater than 0"]),
        ({"lr": "0.1"}, ['lr: "0.1"', "number"]),
        ({"epochs": 0}, ["epochs: 0:", "greater than 0"]),
        ({"epochs": 1.5}, ["epochs: 1.5", "integer"]),
        ({"epochs": True}, ["epochs: true", "integer"]),
        ({"ephocs": 3}, ["ephocs: unknown key", "did you mean 'epochs'"]),
        ({"zzz": 3}, ["zzz: unknown key", "accepted: ", "class_to_forget"]),
        ({"batch_size": 0}, ["batch_size: 0"]),
        ({"momentum": 1}, ["momentum: 1:", "less than 1"]),
        ({"weight_decay": -1}, ["weight_decay: -1"]),
        ({"grad_clip": 0}, ["grad_clip: 0"]),
        ({"schedule": "linear"}, ['schedule: "linear"', "'cosine'"]),
        ({"labels": "none"}, ['labels: "none"', "'remaining'"]),
        ({"method": "ft", "labels": "any"}, ["labels: unknown key of method 'ft'; its settings: lr, epochs, batch_"]),
        ({"method": "rl_spilt"}, ['method: "rl_spilt": unknown', "did you mean 'rl_split'"]),
        ({"method": "zzz"}, ['method: "zzz": unknown', "ga_small", "retrain"]),
        ({"method": 3}, ["method: 3: unknown"]),
        ({"method": "retrain", "lr": 0.1}, ["lr: unknown key of method 'retrain'; its settings: none"]),
        ({"method": "retrain", "use_mask": True}, ["use_mask: true: method 'retrain' takes no mask"]),
        ({"use_mask": "yes"}, ['use_mask: "yes"', "boolean"]),
        ({"use_mask": True, "mask_thr": 0}, ["mask_thr: 0:", "greater than 0"]),
        ({"use_mask": True, "mask_thr": 1.01}, ["mask_thr: 1.01", "less than or equal to 1"]),
        ({"use_mask": True, "mask_score": "sums"}, ['mask_score: "sums"', "'mean_abs'"]),
        ({"use_mask": True, "mask_batches": 0}, ["mask_batches: 0"]),
        ({"use_mask": False, "load_mask": BASE}, ["use_mask: false: contradicts load_mask"]),
        ({"load_mask": "no.pt"}, ["load_mask: no.pt: no such file"]),
        ({"load_mask": BASE}, ["not a mask"]),
        ({"metrics": "UA"}, ['metrics: "UA"', "list"]),
        ({"metrics": ["UAA"]}, ["metrics:", "'UAA': unknown", "did you mean 'UA'"]),
        ({"metrics": ["UA", 3]}, ["metrics.1: 3", "string"]),
        ({"seed": -1}, ["seed: -1"]),
        ({"seed": 2**31}, [f"seed: {2**31}"]),
        ({"forget_seed": -1}, ["forget_seed: -1"]),
        ({"tag": 3}, ["tag: 3", "string"]),
        (TINY, ["model and dataset: excluded by checkpoint"]),
        ({"split_seed": 0}, ["split_seed: excluded by checkpoint"]),
        ({"recipe": {"epochs": 3}}, ["recipe", "records another recipe"]),
        ({"recipe": 3}, ["recipe: 3", "object"]),
        ({"checkpoint": GONE, **TINY, "model": "resnet_tini"}, ["model:", "'resnet_tini': unknown", "'resnet_tiny'"]),
        ({"checkpoint": GONE, **TINY, "dataset": "digit"}, ["dataset:", "'digit': unknown", "'digits'"]),
        ({"checkpoint": GONE, **TINY, "dataset": "folder:no"}, ["'folder:no'", "not a folder"]),
        ({"checkpoint": GONE, **TINY, "dataset": "synthetic:nn=3"}, ["'nn' unknown", "'n'"]),
        ({"checkpoint": GONE, **TINY, "dataset": "cifar10"}, ["'cifar10' is not in data", "cifar-10", "digits"]),
        ({"checkpoint": GONE, **TINY, "class_to_forget": 10}, ["class_to_forget: class 10", "0 to 9"]),
        ({"checkpoint": GONE, **TINY, "recipe": {"epoch": 3}}, ["recipe.epoch: unknown key", "'epochs'"]),
        ({"checkpoint": GONE, **TINY, "recipe": {"optimizer": "sdg"}}, ['recipe.optimizer: "sdg"', "'adamw'"]),
        ({"checkpoint": GONE, **TINY, "split_seed": -1}, ["split_seed: -1"]),
    ],
)
def test_a_wrong_entry(
    changes: dict[str, Any], words: list[str], base_file: Path, refuse: Refuse, write: Write
) -> None:
    entry = {"checkpoint": BASE, "class_to_forget": 0, **changes}
    write("list.json", [{key: value for key, value in entry.items() if value is not GONE}])
    (line,) = refuse(main, ["-L", "list.json", *RUN])
    assert line.startswith("salun-unlearn: list.json: entry 1: ")
    assert all(word in line for word in words), line


def test_every_wrong_entry_has_its_line(base_file: Path, refuse: Refuse, write: Write) -> None:
    right = {"checkpoint": BASE, "class_to_forget": 0}
    wrong = [{**right, "lr": -1, "epochs": 0}, right, {**right, "method": "rll"}, 3, {"checkpoint": BASE}]
    write("list.json", [*wrong, {**right, "checkpoint": "no.pt"}])
    lines = refuse(main, ["-L", "list.json", *RUN])
    assert [line.split(": ")[2:4] for line in lines] == [
        ["entry 1", "lr"],
        ["entry 1", "epochs"],
        ["entry 3", "method"],
        ["entry 4", "3"],
        ["entry 5", "nothing to forget; give exactly one of class_to_forget, unlearning_rate, idxs_to_forget"],
        ["entry 6", "checkpoint"],
    ]


def test_every_entry_that_does_not_fit_its_data_has_its_line(base_file: Path, refuse: Refuse, write: Write) -> None:
    wrong = [{"checkpoint": BASE, "class_to_forget": label} for label in (10, 3, 11)]
    write("broken.pt", base_file.read_bytes()[:1000])
    write("list.json", [*wrong, {"checkpoint": "broken.pt", "class_to_forget": 0}])
    lines = refuse(main, ["-L", "list.json", *RUN])
    assert [line.split(": ")[2:4] for line in lines] == [
        ["entry 1", "class 10"],
        ["entry 3", "class 11"],
        ["entry 4", "broken.pt"],
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["damaged"]),
        (b"hello", ["damaged"]),
        (saved(Malice()), ["damaged, or holds more"]),
        (saved({"model": {"fc.weight": Malice()}, "config": {}}), ["damaged, or holds more"]),
        (pickle.dumps({"model": Malice(), "config": {}}, protocol=2), ["damaged, or holds more"]),
        (saved([1, 2]), ["not a checkpoint", "'config'"]),
        (saved({"model": [], "config": {}}), ["not a checkpoint", "dictionaries"]),
        (saved({"model": {}, "config": {"model": "resnet18", "dataset": "digits"}}), ["lacks 'nclasses'"]),
        (saved({"model": {}, "config": {"model": "resnet18", "dataset": "digits", "nclasses": 10}}), ["do not fit"]),
        (saved({"model": {}, "config": {"model": "resnet81", "dataset": "digits", "nclasses": 10}}), ["'resnet81'"]),
    ],
)
def test_a_file_that_is_no_checkpoint(content: Any, words: list[str], refuse: Refuse, write: Write) -> None:
    write("base.pt", content)
    (line,) = refuse(main, ["-c", "base.pt", "-CF", "0", *RUN])
    assert line.startswith("salun-unlearn: command line: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("method", ["rl", "retrain"])
@pytest.mark.parametrize("flags", [RUN, ["--dry-run"]])
def test_a_checkpoint_whose_weights_are_no_numbers(
    value: float, method: str, flags: list[str], trained: Checkpoint, base_file: Path, refuse: Refuse
) -> None:
    weights = {name: tensor.clone() for name, tensor in trained.weights.items()}
    weights["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    save_checkpoint(base_file, replace(trained, weights=weights))
    lines = refuse(main, ["-c", BASE, "-CF", "0", "-M", method, *flags])
    assert lines == [f"salun-unlearn: command line: {BASE}: weights that are no numbers: the model diverged"]
    lines = refuse(main, ["--model", TINY["model"], "--dataset", "digits", "-CF", "0", "-M", method, *flags])
    assert lines == [f"salun-unlearn: command line: {BASE}: weights that are no numbers: the model diverged"]


@pytest.mark.parametrize("size", [1, 10_000])
def test_a_truncated_checkpoint(size: int, base_file: Path, refuse: Refuse) -> None:
    base_file.write_bytes(base_file.read_bytes()[:size])
    (line,) = refuse(main, ["-c", BASE, "-CF", "0", *RUN])
    assert f"{BASE}: not a readable checkpoint" in line


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dataset": "mnits"}, ["'mnits': unknown", "'mnist'"]),
        ({"dataset": "synthetic:n=100"}, ["colour channels"]),
        ({"nclasses": 7}, ["do not fit"]),
        ({"model": "resnet18"}, ["do not fit the model 'resnet18'"]),
        ({"split": "another"}, ["another split of 'digits'"]),
        ({"split_seed": 1}, ["another split of 'digits'"]),
        ({"recipe": {"epoch": 3}}, ["no usable recipe"]),
        ({"recipe": 3}, ["no usable recipe"]),
        ({"excluded": list(range(1438))}, ["none of these images is in the training split"]),
    ],
)
def test_a_checkpoint_that_does_not_fit(
    config: dict[str, Any], words: list[str], base_file: Path, refuse: Refuse
) -> None:
    content = torch.load(base_file, weights_only=True)
    content["config"] |= config
    torch.save(content, base_file)
    (line,) = refuse(main, ["-c", BASE, "-CF", "0", *RUN])
    assert all(word in line for word in words), line


def test_retraining_a_checkpoint_without_a_recipe(base_file: Path, refuse: Refuse) -> None:
    content = torch.load(base_file, weights_only=True)
    content["config"]["recipe"] = None
    torch.save(content, base_file)
    (line,) = refuse(main, ["-c", BASE, "-CF", "0", "-M", "retrain", *RUN])
    assert "records no recipe to retrain by" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["not valid JSON"]),
        (bytes(range(128, 256)), ["not a text file"]),
        ({"0": 1}, ["JSON list of training indices"]),
        (["1"], ['entry 1: "1" is not an index']),
        ([0, 1, 1438], ["entry 3: index 1438", "0 to 1437"]),
        (list(range(1438)), ["the whole training split"]),
    ],
)
def test_a_forget_file_with_wrong_content(
    content: Any, words: list[str], base_file: Path, refuse: Refuse, write: Write
) -> None:
    write("forget.json", content)
    (line,) = refuse(main, ["-c", BASE, "-IF", "forget.json", *RUN])
    assert "forget.json" in line
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["not a readable mask"]),
        (b"hello", ["not a readable mask"]),
        (saved({"conv1.weight": Malice()}), ["not a readable mask"]),
        (saved(torch.ones(3)), ["not a mask"]),
        (saved({}), ["not a mask"]),
        (saved({"conv1.weight": torch.full((16, 1, 3, 3), 0.5)}), ["'conv1.weight'", "other than 0 and 1"]),
        (saved({"conv1.weight": torch.full((16, 1, 3, 3), torch.nan)}), ["'conv1.weight'", "other than 0 and 1"]),
        (saved({"stem.weight": torch.ones(3)}), ["'stem.weight' is no weight of the model"]),
        (saved({"fc.bias": torch.ones(7)}), ["'fc.bias' has shape (7,), the weight (10,)"]),
        (saved(full_mask("resnet18")), ["has shape", "another model's"]),
    ],
)
def test_a_file_that_is_no_mask_of_the_model(
    content: Any, words: list[str], base_file: Path, refuse: Refuse, write: Write
) -> None:
    write("mask.pt", content)
    (line,) = refuse(main, ["-c", BASE, "-CF", "0", "-LM", "mask.pt", *RUN])
    assert all(word in line for word in words), line
    if "not a" in line:  # of itself, whatever the model
        assert refuse(main, ["-c", BASE, "-CF", "0", "-LM", "mask.pt", "--dry-run"]) == [line]


ALONE = (
    "-UL 0.1", "-IF f.json", "-M ga", "-UM", "-MT 0.1", "-LM m.pt", "-E 3", "-LR 0.1",
    "--seed 0", "--base-seed 0", "--tag a",
)  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["nothing to forget"]),
        (["-L", "no.json"], ["no.json: cannot be read: No such file"]),
        (["-L", "checkpoints"], ["checkpoints: cannot be read: Is a directory"]),
        (["-L"], ["-L/--load", "expected one argument"]),
        (["--nope"], ["--nope", "--help"]),
        (["-L", "list.json", "extra"], ["extra"]),
        (["-L", "list.json", "-c", BASE], ["-c goes without -L", "'checkpoint'", "list.json"]),
        (["-L", "list.json", "-CF", "0"], ["-CF goes without -L", "'class_to_forget'"]),
        *((["-L", "list.json", *given.split()], [f"{given.split()[0]} goes without -L"]) for given in ALONE),
        (["-L", "list.json", "--metrics", "UAA"], ["--metrics", "'UAA': unknown", "'UA'"]),
        (["-L", "list.json", "--nbase", "0"], ["--nbase 0: must be from 1"]),
        (["-L", "list.json", "--nforget", "-2"], ["--nforget -2: must be from 1"]),
        (["-L", "list.json", "--nbase", "2"], ["entry 1: --nbase 2: a checkpoint is one base model"]),
        (["-L", "list.json", "--nforget", "2"], ["entry 1: --nforget 2: class 0 is one forget set"]),
        (["-CF", "0", "-UL", "0.1"], ["-UL", "not allowed with", "-CF"]),
        (["-CF", "-c", BASE], ["-CF", "expected at least one"]),
        (["-c", BASE, "-CF", "zero"], ["-CF", "'zero'"]),
        (["-c", BASE, "-CF", "3", "12"], ["class 12", "0 to 9"]),
        (["-c", BASE, "-UL", "some"], ["-UL", "'some'"]),
        (["-c", "no.pt", "-CF", "0"], ["checkpoint: no.pt: no such file"]),
        (["-c", BASE, "--dataset", "digits", "-CF", "0"], ["dataset: excluded by checkpoint"]),
        (["--model", "resnet_tiny", "--dataset", "digit", "-CF", "0"], ["'digit'", "'digits'"]),
        (["-c", BASE, "-CF", "0", "-E", "1.5"], ["-E", "'1.5'"]),
        (["-c", BASE, "-CF", "0", "-LR", "nan"], ["lr: NaN"]),
        (["-c", BASE, "-CF", "0", "-LR", "fast"], ["-LR", "'fast'"]),
        (["-c", BASE, "-CF", "0", "-M", "rll"], ["method:", "'rl'"]),
        (["-c", BASE, "-UL", "0.1", "-M", "unsir"], ["unlearning_rate: 0.1: method 'unsir' forgets whole classes"]),
        (["-c", BASE, "-CF", "0", "--stratified"], ["stratified: without effect unless unlearning_rate"]),
        (["-c", BASE, "-CF", "0", "--budget", "0"], ["--budget 0: ", "from 1"]),
        (["-c", BASE, "-CF", "0", "--metrics"], ["--metrics", "expected at least one"]),
        (["-c", BASE, "-CF", "0", "--nexp", "0"], ["--nexp 0", "from 1 to"]),
        (["-c", BASE, "-CF", "0", "--nexp", "9" * 20], [f"--nexp {'9' * 20}", "to 10000"]),
        (["-c", BASE, "-CF", "0", "--out", "x" * 5000], ["--out", "File name too long"]),
        (["-c", BASE, "-CF", "0", "--keep", "some"], ["--keep", "'some'", "last"]),
        (["-c", BASE, "-CF", "0", "--device", "gpu"], ["--device gpu", "cpu, cuda"]),
        (["-c", BASE, "-CF", "0", "--device", "cuda:99"], ["--device cuda:99"]),
        (["-c", BASE, "-CF", "0", "--out", "list.json"], ["--out", "list.json is not a folder"]),
        (["-c", BASE, "-CF", "0", "--checkpoints", "list.json"], ["--checkpoints", "list.json is not a folder"]),
        (["-c", "no.pt", "-CF", "0", "--dry-run", "--nexp", "0"], ["--nexp 0"]),
        (["-L", "no.json", "--dry-run"], ["no.json: cannot be read"]),
    ],
)
def test_wrong_flags(argv: list[str], words: list[str], base_file: Path, refuse: Refuse, write: Write) -> None:
    write("list.json", [{"checkpoint": BASE, "class_to_forget": 0}])
    (line,) = refuse(main, [*argv, "-NL"])
    assert line.startswith("salun-unlearn: ")
    assert all(word in line for word in words), line


def test_a_folder_in_place_of_the_records(base_file: Path, tmp_path: Path, refuse: Refuse) -> None:
    (tmp_path / "runs" / "command-line" / "records.jsonl").mkdir(parents=True)
    (line,) = refuse(main, ["-c", BASE, "-CF", "0", *RUN])
    assert "records.jsonl: cannot be read: Is a directory" in line
