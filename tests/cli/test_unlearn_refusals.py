from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from salun.cli.unlearn import main
from salun.models.checkpoint import Checkpoint, save_checkpoint

Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]

BASE = "checkpoints/resnet_tiny_digits_base.pt"
RUN = ["-NL", "--nexp", "1"]
TINY = {"model": "resnet_tiny", "dataset": "digits"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[{", ["not valid JSON", "line 1, column 3"]),
        ("", ["not valid JSON"]),
        (bytes(range(256)), ["not a text file"]),
        ("[]", ["holds no experiment"]),
        ("[3]", ["entry 1: 3", "object"]),
        ('[{"lr": 1, "lr": 2, "class_to_forget": 0}]', ["key 'lr'", "twice"]),
        ("[" * 100_000, ["nested too deeply"]),
        ('[{"class_to_forget": ' + "9" * 5000 + "}]", ["4300 digits"]),
        ('[{"class_to_forget": 0, "lr": NaN}]', ["entry 1: lr: NaN", "finite"]),
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
        ({"class_to_forget": 10}, ["class 10", "'digits' has the classes 0 to 9"]),
        ({"class_to_forget": [1, "a"]}, ["class 'a': unknown; accepted: 0, 1, 2"]),
        ({"class_to_forget": [1, 0.5]}, ["class_to_forget: [1, 0.5]", "a number from 0 or a name"]),
        ({"class_to_forget": GONE}, ["nothing to forget", "class_to_forget, unlearning_rate, idxs_to_forget"]),
        ({"unlearning_rate": 0.1}, ["class_to_forget and unlearning_rate: exclude each other"]),
        ({"class_to_forget": GONE, "unlearning_rate": "0.1"}, ['unlearning_rate: "0.1"', "number"]),
        ({"class_to_forget": GONE, "unlearning_rate": 1e-9}, ["1e-09 of the training split", "none of these"]),
        ({"class_to_forget": GONE, "unlearning_rate": 0.9999}, ["the whole training split"]),
        ({"class_to_forget": GONE, "idxs_to_forget": "no.json"}, ["idxs_to_forget: no.json: no such file"]),
        ({"lr": "0.1"}, ['lr: "0.1"', "number"]),
        ({"epochs": 1.5}, ["epochs: 1.5", "integer"]),
        ({"ephocs": 3}, ["ephocs: unknown key", "did you mean 'epochs'"]),
        ({"zzz": 3}, ["zzz: unknown key", "accepted: ", "class_to_forget"]),
        ({"schedule": "linear"}, ['schedule: "linear"', "'cosine'"]),
        ({"labels": "none"}, ['labels: "none"', "'remaining'"]),
        ({"method": "ft", "labels": "any"}, ["labels: unknown key of method 'ft'; its settings: lr, epochs, batch_"]),
        ({"method": "zzz"}, ['method: "zzz": unknown', "ga_small", "retrain"]),
        ({"method": "retrain", "lr": 0.1}, ["lr: unknown key of method 'retrain'; its settings: none"]),
        ({"use_mask": True, "mask_thr": 1.01}, ["mask_thr: 1.01", "less than or equal to 1"]),
        ({"use_mask": True, "mask_score": "sums"}, ['mask_score: "sums"', "'mean_abs'"]),
        ({"load_mask": BASE}, ["not a mask"]),
        ({"metrics": "UA"}, ['metrics: "UA"', "list"]),
        ({"metrics": ["UA", 3]}, ["metrics.1: 3", "string"]),
        ({"seed": 2**31}, [f"seed: {2**31}"]),
        (TINY, ["model and dataset: excluded by checkpoint"]),
        ({"split_seed": 0}, ["split_seed: excluded by checkpoint"]),
        ({"recipe": {"epochs": 3}}, ["recipe", "records another recipe"]),
        ({"checkpoint": GONE, **TINY, "model": "resnet_tini"}, ["model:", "'resnet_tini': unknown", "'resnet_tiny'"]),
        ({"checkpoint": GONE, **TINY, "dataset": "cifar10"}, ["'cifar10' is not in data", "cifar-10", "digits"]),
        ({"checkpoint": GONE, **TINY, "recipe": {"optimizer": "sdg"}}, ['recipe.optimizer: "sdg"', "'adamw'"]),
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
    if changes.get("dataset") != "cifar10":  # which the run would download
        assert refuse(main, ["-L", "list.json", "--dry-run"]) == [line]


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


@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_a_mistake_that_entries_share_is_told_once(flags: list[str], refuse: Refuse, write: Write) -> None:
    gone = [{**TINY, "dataset": "folder:gone", "class_to_forget": 0, "lr": 0.1 + at / 100} for at in range(12)]
    write("list.json", [*gone, {**TINY, "dataset": "folder:lost", "class_to_forget": 0}])
    several, single = refuse(main, ["-L", "list.json", *RUN, *flags])
    assert several.startswith("salun-unlearn: list.json: entry 1, entry 2, entry 3, ")
    assert ", entry 10 and 2 more: data set 'folder:gone': gone is not a folder" in several
    assert single.startswith("salun-unlearn: list.json: entry 13: data set 'folder:lost': ")


@pytest.mark.parametrize(("method", "value", "flags"), [("rl", torch.nan, RUN), ("retrain", torch.inf, ["--dry-run"])])
def test_a_checkpoint_whose_weights_are_no_numbers(
    method: str, value: float, flags: list[str], trained: Checkpoint, base_file: Path, refuse: Refuse
) -> None:
    weights = {name: tensor.clone() for name, tensor in trained.weights.items()}
    weights["layer1.0.conv1.weight"][0, 0, 0, 0] = value
    save_checkpoint(base_file, replace(trained, weights=weights))
    for given in (["-c", BASE], ["--model", TINY["model"], "--dataset", "digits"]):
        lines = refuse(main, [*given, "-CF", "0", "-M", method, *flags])
        assert lines == [f"salun-unlearn: command line: {BASE}: weights that are no numbers: the model diverged"]


ALONE = (
    "-UL 0.1", "-IF f.json", "-M ga", "-UM", "-MT 0.1", "-LM m.pt", "-E 3", "-LR 0.1",
    "--seed 0", "--base-seed 0", "--tag a",
)  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["nothing to forget"]),
        (["-L", "no.json"], ["no.json: cannot be read: No such file"]),
        (["-L", "quickstrat"], ["list 'quickstrat': no such file; by name there are, with salun: all_methods_class, "]),
        (["-CF", "0", "--utility-floor", "five"], ["'five' is neither a number of points nor none"]),
        (["-CF", "0", "--utility-floor", "101"], ["101: must be from 0 to 100 points, or none"]),
        (["--dataset", "folder:gone", "-CF", "0"], ["data set 'folder:gone': gone is not a folder"]),
        (["--no\nsuch"], [": unrecognized arguments: --no such; salun-unlearn --help lists the flags"]),
        (["-L", "list.json", "-c", BASE], ["-c goes without -L", "'checkpoint'", "list.json"]),
        (["-L", "list.json", "-CF", "0"], ["-CF goes without -L", "'class_to_forget'"]),
        *((["-L", "list.json", *given.split()], [f"{given.split()[0]} goes without -L"]) for given in ALONE),
        (["-L", "list.json", "--metrics", "UAA"], ["--metrics", "'UAA': unknown", "'UA'"]),
        (["-L", "list.json", "--nbase", "0"], ["--nbase 0: must be from 1"]),
        (["-L", "list.json", "--nbase", "2"], ["entry 1: --nbase 2: a checkpoint is one base model"]),
        (["-L", "list.json", "--nforget", "2"], ["entry 1: --nforget 2: class 0 is one forget set"]),
        (["-CF", "0", "-UL", "0.1"], ["-UL", "not allowed with", "-CF"]),
        (["-c", BASE, "-CF", "zero"], ["command line: class 'zero': unknown; accepted: 0, 1, 2"]),
        (["-c", BASE, "-CF", "3", "12"], ["class 12", "0 to 9"]),
        (["-c", "no.pt", "-CF", "0"], ["checkpoint: no.pt: no such file"]),
        (["--model", "resnet_tiny", "--dataset", "digit", "-CF", "0"], ["'digit'", "'digits'"]),
        (["-c", BASE, "-CF", "0", "-E", "1.5"], ["-E", "'1.5'"]),
        (["-c", BASE, "-CF", "0", "-LR", "nan"], ["lr: NaN"]),
        (["-c", BASE, "-CF", "0", "-M", "rll"], ["method:", "'rl'"]),
        (["-c", BASE, "-UL", "0.1", "-M", "unsir"], ["unlearning_rate: 0.1: method 'unsir' forgets whole classes"]),
        (["-c", BASE, "-CF", "0", "--stratified"], ["stratified: without effect unless unlearning_rate"]),
        (["-c", BASE, "-CF", "0", "--budget", "0"], ["--budget 0: ", "from 1"]),
        (["-c", BASE, "-CF", "0", "--nexp", "9" * 20], [f"--nexp {'9' * 20}", "to 10000"]),
        (["-c", BASE, "-CF", "0", "--out", "x" * 5000], ["--out", "File name too long"]),
        (["-c", BASE, "-CF", "0", "--keep", "some"], ["--keep", "'some'", "last"]),
        (["-c", BASE, "-CF", "0", "--device", "cuda:99"], ["device 'cuda:99'"]),
        (["-c", BASE, "-CF", "0", "--out", "list.json"], ["--out", "list.json is not a folder"]),
        (["-c", BASE, "-CF", "0", "--checkpoints", "list.json"], ["--checkpoints", "list.json is not a folder"]),
        (["-L", "no.json", "--dry-run"], ["no.json: cannot be read"]),
        (["-c", BASE, "-CF", "0", "--jobs", "65"], ["--jobs 65: must be from 1 to 64"]),
        (["-c", BASE, "-CF", "0", "--dry-run", "--parallel", "-1"], ["--jobs -1: must be from 1 to 64"]),
        (["-c", BASE, "-CF", "0", "--ray", "local", "--jobs", "0"], ["--jobs 0: must be from 1 to 10000"]),
        (["-c", BASE, "-CF", "0", "--gpus-per-run", "0.5"], ["goes with --ray; --ray local needs no cluster"]),
        (["-c", BASE, "-CF", "0", "--ray", "--gpus-per-run", "2"], ["--gpus-per-run 2: must be from 0 to 1"]),
        (
            ["-c", BASE, "-CF", "0", "--ray", "ray://there:10001"],
            ["on a machine of the cluster; give HOST:PORT or noth"],
        ),
        (["-c", BASE, "-IF", "list.json"], ["list.json: entry 1: ", "is not an index"]),
        (["-c", BASE, "-CF", "0", "-LM", BASE, "--dry-run"], [f"{BASE}: not a mask"]),
    ],
)
def test_wrong_flags(argv: list[str], words: list[str], base_file: Path, refuse: Refuse, write: Write) -> None:
    write("list.json", [{"checkpoint": BASE, "class_to_forget": 0}])
    (line,) = refuse(main, [*argv, "-NL"])
    assert line.startswith("salun-unlearn: ")
    assert all(word in line for word in words), line
    assert refuse(main, [*argv, "--dry-run"]) == [line]
