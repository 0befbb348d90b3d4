import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from salun.cli.train import main
from salun.data.dataset import Dataset
from salun.data.split import ForgetRequest, Split, make_split
from salun.io.locks import LOCKS, Locks
from salun.models.checkpoint import Checkpoint, load_checkpoint

Refuse = Callable[[Any, list[str]], list[str]]
Write = Callable[[str, Any], Path]

DIGITS = ["--dataset", "digits", "-NL", "--epochs", "1"]
SMALL = ["--dataset", "synthetic:n=100,size=8,classes=4", "--model", "resnet_tiny", "-NL", "--epochs", "1"]
NAMES = {"digits": "resnet_tiny_digits", SMALL[1]: "resnet_tiny_synthetic-n-100-size-8-classes-4"}


def train(
    *argv: str, on: list[str] = DIGITS, name: str = "base", folder: str = "checkpoints"
) -> tuple[Checkpoint, list[int]]:
    """Train for an epoch; gives the checkpoint and the content of its forget file."""
    assert main([*on, *argv]) == 0
    path = Path(folder) / f"{NAMES[on[1]]}_{name}.pt"
    assert sorted(file.name for file in path.parent.glob(f"{path.stem}*")) == [path.name, f"{path.stem}_forget.json"]
    return load_checkpoint(path), json.loads(path.with_name(f"{path.stem}_forget.json").read_text())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Tell whether all weights and buffers agree bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(digits: Dataset) -> Split:
    """The split of digits with nothing forgotten."""
    return make_split(digits, ForgetRequest())


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model trained on digits for an epoch by the flags' defaults on everything."""
    torch.set_num_threads(1)
    return train("--out", folder := str(tmp_path_factory.mktemp("plain")), folder=folder)[0]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model trained on a few generated images for an epoch by the flags' defaults."""
    torch.set_num_threads(1)
    return train("--out", folder := str(tmp_path_factory.mktemp("small")), on=SMALL, folder=folder)[0]


def test_without_flags_for_the_forget_set_everything_is_learned(
    capsys: pytest.CaptureFixture[str], plain: Checkpoint, whole: Split
) -> None:
    checkpoint, listed = train()
    out, err = capsys.readouterr()
    assert (listed, checkpoint.excluded) == ([], ())
    assert f"{len(whole.train)} of {len(whole.train)} training images" in out
    assert "forgetting nothing" in out
    assert re.search(r"epoch 1/1  loss \d\.\d+  accuracy \d+\.\d\d %  validation \d+\.\d\d %  [\d,]+ images/s", out)
    assert "\ncheckpoints/resnet_tiny_digits_base.pt\n" in out
    assert "first weights" not in out
    assert "left-out" not in out
    assert err == ""
    assert (checkpoint.dataset, checkpoint.architecture.model) == ("digits", "resnet_tiny")
    assert checkpoint.config["recipe"]["epochs"] == 1
    assert checkpoint.config["split"] == whole.fingerprint
    assert same(checkpoint.weights, plain.weights)


def test_cf_leaves_classes_out(
    digits: Dataset, whole: Split, plain: Checkpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, listed = train("--cf", "7", "3", "7", name="cf3-7")
    out = capsys.readouterr().out
    labels = digits.train.labels
    wanted = [index for index in whole.train.tolist() if int(labels[index]) in (3, 7)]
    assert listed == wanted
    assert checkpoint.excluded == tuple(wanted)
    assert f"{len(whole.train) - len(wanted)} of {len(whole.train)} training images" in out
    assert "test of left-out classes 0.00 %" in out
    assert checkpoint.config["split"] == whole.fingerprint
    assert not same(checkpoint.weights, plain.weights)


@pytest.mark.parametrize("stratified", [False, True])
def test_unlr_leaves_a_share_out_of_all_or_of_each_class(
    stratified: bool, whole: Split, digits: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--stratified"] if stratified else []
    checkpoint, listed = train("--unlr", "0.1", *more, name=f"unlr0.1{'-stratified' * stratified}")
    out = capsys.readouterr().out
    assert ("forgetting 0.1 of the training split, stratified" in out) == stratified
    assert f"{len(whole.train) - len(listed)} of {len(whole.train)} training images" in out
    assert len(listed) == round(0.1 * len(whole.train))
    assert listed == sorted(set(listed) & set(whole.train.tolist()))
    assert checkpoint.excluded == tuple(listed)
    sizes, counts = (digits.train.labels[of].bincount() for of in (whole.train, torch.tensor(listed)))
    assert (float((counts - 0.1 * sizes).abs().max()) < 1) == stratified


def test_the_forget_seed_draws_the_share() -> None:
    first, again, other = (
        train("--unlr", "0.3", "--forget-seed", seed, on=SMALL, name=f"unlr0.3-forget{seed}") for seed in "223"
    )
    assert again[1] == first[1]
    assert same(again[0].weights, first[0].weights)
    assert other[1] != first[1]
    assert len(other[1]) == len(first[1])
    assert not same(other[0].weights, first[0].weights)


def test_itf_of_another_run_learns_from_the_very_same_images() -> None:
    first, listed = train("--unlr", "0.1", "--comment", "first", on=SMALL, name="first")
    file = f"{NAMES[SMALL[1]]}_first_forget"
    second, again = train("--itf", f"checkpoints/{file}.json", on=SMALL, name=f"itf-{file}")
    assert again == listed
    assert second.excluded == first.excluded
    assert same(second.weights, first.weights)


def test_itf_leaves_the_listed_images_out_of_validation_too(
    whole: Split, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = whole.train.tolist()[:50] + whole.validation.tolist()[:5]
    write("mine.json", [*reversed(chosen), chosen[0]])
    checkpoint, listed = train("--itf", "mine.json", name="itf-mine")
    out = capsys.readouterr().out
    assert listed == sorted(chosen)
    assert checkpoint.excluded == tuple(sorted(chosen))
    assert "\nstarts from the first weights of a base model of --seed 0; as a retrained model of that one, take " in out
    counts = (
        f"{len(whole.train) - 50} of {len(whole.train)} training images, {len(whole.validation) - 5} for validation"
    )
    assert counts in out


def test_out_and_comment_name_the_files(small: Checkpoint) -> None:
    flags = ["--out", "a/b", "--comment", "my run/../2"]
    checkpoint, _ = train(*flags, on=SMALL, name="my-run-..-2", folder="a/b")
    assert same(checkpoint.weights, small.weights)
    assert [path.name for path in Path().iterdir()] == ["a"]


def test_the_seeds_decide_weights_and_split(small: Checkpoint) -> None:
    other, _ = train("--seed", "1", "--split-seed", "1", on=SMALL, name="base-split1-seed1")
    assert other.config["split"] != small.config["split"]
    assert other.config["split_seed"] == 1
    assert not same(other.weights, small.weights)
    assert other.config["recipe"]["seed"] == 1


@pytest.mark.parametrize(
    ("optimizer", "state", "schedule", "factor"),
    [
        ("sgd", "momentum_buffer", "constant", 1.0),
        ("sgd", "momentum_buffer", "plateau", 1.0),
        ("adam", "exp_avg", "multistep", 0.1),
        ("adamw", "exp_avg", "cosine", 0.0),
    ],
)
def test_every_optimizer_and_schedule(
    optimizer: str, state: str, schedule: str, factor: float, small: Checkpoint
) -> None:
    flags = ["--lr", "0.003", "--momentum", "0.8", "--weight-decay", "0.01", "--batch-size", "16", "--epochs", "2"]
    checkpoint, _ = train("--optimizer", optimizer, "--schedule", schedule, *flags, on=SMALL)
    given = {"optimizer": optimizer, "schedule": schedule, "lr": 0.003, "momentum": 0.8, "weight_decay": 0.01}
    assert given.items() <= checkpoint.config["recipe"].items()
    assert checkpoint.config["recipe"]["batch_size"] == 16
    assert checkpoint.optimizer is not None
    assert all(state in values for values in checkpoint.optimizer["state"].values())
    assert checkpoint.optimizer["param_groups"][0]["weight_decay"] == 0.01
    assert checkpoint.optimizer["param_groups"][0]["lr"] == pytest.approx(0.003 * factor, abs=1e-9)
    assert not same(checkpoint.weights, small.weights)


def test_pat_stops_early(capsys: pytest.CaptureFixture[str]) -> None:
    train("--epochs", "60", "--lr", "1e-12", "--pat", "2", "--schedule", "constant", on=SMALL)
    out = capsys.readouterr().out
    values = [float(value) for value in re.findall(r"^epoch .* validation (\S+) %", out, re.MULTILINE)]
    risen = values.index(max(values)) + 1
    assert len(values) == risen + 2 < 60
    latest = len(values) - values[::-1].index(max(values))
    assert f"best epoch {latest}:" in out


def test_a_timm_model_on_other_data() -> None:
    assert main([*SMALL, "--model", "resnet10t", "--cf", "3"]) == 0
    checkpoint = load_checkpoint(Path("checkpoints/resnet10t_synthetic-n-100-size-8-classes-4_cf3.pt"))
    assert (checkpoint.dataset, checkpoint.architecture.model) == (SMALL[1], "resnet10t")
    assert checkpoint.architecture.classes == 4


def test_without_a_key_there_is_one_notice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag for flag in SMALL if flag != "-NL"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("not logged to Weights & Biases: no WANDB_API_KEY")


def test_an_interruption_is_status_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("torch.optim.SGD.step", interrupt)
    assert main(SMALL) == 130
    assert capsys.readouterr().err == "salun-train: interrupted\n"
    assert list(Path().rglob("*.pt")) == []


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--dataset", "cifar10"], ["'cifar10' is not in data", "cifar-10-python.tar.gz", "--dataset digits"]),
        (["--dataset", "digit"], ["'digit': unknown", "'digits'"]),
        (["--model", "resnet_tinny"], ["'resnet_tinny': unknown", "'resnet_tiny'"]),
        (["--model", "inception_v3"], ["'inception_v3' cannot take images of 8 x 8"]),
        (["--pretrained"], ["'resnet_tiny'", "no pretrained weights"]),
        (["--lr", "0"], ["--lr 0.0", "greater than 0"]),
        (["--lr", "fast"], ["--lr", "'fast'"]),
        (["--batch-size", "1"], ["--batch-size 1", "greater than or equal to 2"]),
        (["--optimizer", "sdg"], ["--optimizer", "'sdg'", "adamw"]),
        (["--precision", "fp16"], ["--precision", "'fp16'", "bf16"]),
        (["--seed", "2147483648"], ["--seed 2147483648", "less than 2147483648"]),
        (["--split-seed", "9" * 30], ["--split-seed 999", "to 2147483647"]),
        (["--cf", "10"], ["class 10", "'digits' has the classes 0 to 9"]),
        (["--cf", "seven"], ["--cf", "'seven'"]),
        (["--unlr", "1"], ["--unlr 1.0", "between 0 and 1"]),
        (["--cf", "1", "--stratified"], ["--stratified: goes with --unlr"]),
        (["--unlr", "0.99999"], ["the whole training split"]),
        (["--cf", "1", "--unlr", "0.1"], ["--unlr", "not allowed with", "--cf"]),
        (["--itf", "no.json"], ["no.json: cannot be read: No such file"]),
        (["--itf", "foreign.json"], ["foreign.json: entry 2: index 1438", "0 to 1437"]),
        (["--comment", ""], ["--comment", "empty"]),
        (["--out", "broken.json/below"], ["--out", "broken.json is not a folder"]),
        (["--nope"], ["--nope", "--help"]),
    ],
)
def test_wrong_flags(argv: list[str], words: list[str], refuse: Refuse, write: Write) -> None:
    write("foreign.json", [0, 1438])
    write("broken.json", "[1,")
    (line,) = refuse(main, [*DIGITS, *argv])
    assert line.startswith("salun-train: ")
    assert all(word in line for word in words), line


def test_wrong_flags_of_the_recipe_have_a_line_each(refuse: Refuse) -> None:
    lines = refuse(main, [*DIGITS, "--lr", "-1", "--momentum", "3", "--batch-size", "0"])
    assert [line.split()[1] for line in lines] == ["--lr", "--batch-size", "--momentum"]


@pytest.mark.parametrize(
    ("argv", "held", "name"),
    [
        (["--epochs", "2"], "epochs 1", NAMES[SMALL[1]]),
        (["--lr", "0.2", "--seed", "1"], "lr 0.1, seed 0", NAMES[SMALL[1]]),
        (["--cf", "1"], "another forget set (0 images)", NAMES[SMALL[1]]),
        (["--split-seed", "1"], "split_seed 0", NAMES[SMALL[1]]),
        (["--model", "resnet10t"], "model resnet_tiny", NAMES[SMALL[1]].replace("resnet_tiny", "resnet10t")),
        (["--dataset", SMALL[1].replace("100", "99")], "dataset " + SMALL[1], NAMES[SMALL[1]].replace("100", "99")),
    ],
)
def test_a_checkpoint_of_another_training_is_not_replaced(
    argv: list[str], held: str, name: str, refuse: Refuse
) -> None:
    train(on=SMALL)
    other = Path(f"checkpoints/{NAMES[SMALL[1]]}_base.pt").rename(f"checkpoints/{name}_base.pt")
    (line,) = refuse(main, [*SMALL, "--comment", "base", *argv])
    assert line.startswith(f"salun-train: {other}: holds a model of {held}")
    assert line.endswith("; --force replaces it, --comment names another file")
    before = other.read_bytes()
    assert main([*SMALL, "--comment", "base", *argv, "--force"]) == 0
    assert other.read_bytes() != before


def test_a_file_that_is_no_checkpoint_is_not_replaced(refuse: Refuse, write: Write) -> None:
    write("checkpoints/resnet_tiny_digits_base.pt", "mine")
    (line,) = refuse(main, DIGITS)
    assert line.endswith("; --force replaces it")


def test_a_file_that_another_process_trains_is_refused(refuse: Refuse) -> None:
    with Locks(Path("checkpoints") / LOCKS) as claims:
        assert claims.take("resnet_tiny_digits_base.pt")
        (line,) = refuse(main, DIGITS)
    path = "checkpoints/resnet_tiny_digits_base.pt"
    assert line == f"salun-train: {path}: another process trains it at this moment; --comment names another file"
