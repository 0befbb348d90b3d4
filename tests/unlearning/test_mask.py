import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from hostile import Bomb, refuses
from problems import same_weights
from torch import Tensor, nn

from salun.data.sets import Sets
from salun.errors import SalunError
from salun.models.checkpoint import Checkpoint
from salun.training.loop import fit
from salun.training.progress import Progress
from salun.training.recipe import TrainingConfig
from salun.training.runtime import Runtime
from salun.unlearning.mask import Score, check_mask, load_mask, masked_updates, saliency, save_mask
from salun.unlearning.topk import largest, select

CPU = torch.device("cpu")


@pytest.mark.parametrize("keep", ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1.0"])
def test_equals_the_official_mask(keep: str) -> None:
    case, wanted = reference.settings("saliency_mask"), reference.arrays("saliency_mask")
    model = reference.SmallNetwork(reference.tensors("saliency_mask_state"))
    forget = reference.raw_images(wanted["inputs"], wanted["labels"])
    mask = saliency(model, forget, float(keep), batch_size=case["batch_size"])
    assert list(mask) == case["param_order"]
    assert sum(int(chosen.sum()) for chosen in mask.values()) == case["counts"][keep]
    for name, chosen in mask.items():
        if f"mask_{keep}/{name}" in wanted:
            assert torch.equal(chosen, wanted[f"mask_{keep}/{name}"] != 0), name


def test_mean_abs_is_the_mean_of_absolute_batch_gradients() -> None:
    wanted = reference.arrays("saliency_mask")
    model = reference.SmallNetwork(reference.tensors("saliency_mask_state")).eval()
    expected = [torch.zeros_like(weight) for weight in model.parameters()]
    for start in (0, 8):
        part = slice(start, start + 8)
        loss = nn.functional.cross_entropy(model(wanted["inputs"][part]), wanted["labels"][part])
        for summed, gradient in zip(expected, torch.autograd.grad(loss, list(model.parameters())), strict=True):
            summed += gradient.abs() / 2
    count = int(0.3 * sum(values.numel() for values in expected))
    threshold = torch.cat([values.flatten() for values in expected]).sort(descending=True).values[count - 1]
    forget = reference.raw_images(wanted["inputs"], wanted["labels"])
    mask = saliency(model, forget, 0.3, "mean_abs", batch_size=8, max_batches=2)
    for chosen, values in zip(mask.values(), expected, strict=True):
        assert torch.equal(chosen, values >= threshold)


@pytest.mark.parametrize("keep", [0, 0.001, 0.25, 0.5, 0.999, 1])
@pytest.mark.parametrize("score", ["sum", "mean_abs", "random", "inverted"])
def test_keeps_exactly_the_asked_share(trained: Checkpoint, sets: Sets, keep: float, score: str) -> None:
    model = trained.restore()
    mask = saliency(model, sets.forget, keep, score, max_batches=1, generator=torch.Generator().manual_seed(0))
    weights = dict(model.named_parameters())
    assert {name: chosen.shape for name, chosen in mask.items()} == {name: w.shape for name, w in weights.items()}
    total = sum(weight.numel() for weight in weights.values())
    assert sum(int(chosen.sum()) for chosen in mask.values()) == int(keep * total)


def test_bf16_marks_nearly_the_same(trained: Checkpoint, sets: Sets) -> None:
    model = trained.restore()
    exact, rounded = (saliency(model, sets.forget, 0.5, precision=precision) for precision in ("float32", "bf16"))
    agreeing = sum(int((exact[name] == rounded[name]).sum()) for name in exact) / sum(map(torch.numel, exact.values()))
    assert 0.9 < agreeing < 1


def test_inverted_is_the_complement(trained: Checkpoint, sets: Sets) -> None:
    scores = [torch.tensor([3.0, 1.0, 2.0]), torch.tensor([[5.0], [4.0], [0.0]])]
    assert [chosen.flatten().tolist() for chosen in select(scores, 2)] == [[False] * 3, [True, True, False]]
    model = trained.restore()
    most, least = (saliency(model, sets.forget, 0.02, score) for score in ("sum", "inverted"))
    assert not any(bool((most[name] & least[name]).any()) for name in most)


KINDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {  # scores whose ranks are hard to find, of normal and uniform
    "all different": lambda drawn, chance: drawn,
    "of many sizes": lambda drawn, chance: drawn.abs() * 10 ** (8 * chance - 4),
    "few values": lambda drawn, chance: (2 * drawn).round(),
    "mostly zero": lambda drawn, chance: torch.where(chance < 0.9, 0.0, drawn.abs()),
    "half zero": lambda drawn, chance: torch.where(chance < 0.5, 0.0, drawn.abs()),
    "negative or zero": lambda drawn, chance: torch.where(chance < 0.5, 0.0, drawn.abs()).neg(),
    "one value": lambda drawn, chance: torch.full_like(drawn, 0.5),
    "infinite": lambda drawn, chance: torch.where(chance < 0.3, torch.inf, drawn.masked_fill(chance > 0.8, -torch.inf)),
    "no numbers": lambda drawn, chance: torch.where(
        chance < 0.3, torch.nan, drawn.masked_fill(chance > 0.8, -torch.inf)
    ),
    "in order": lambda drawn, chance: drawn.sort().values,
    "rare": lambda drawn, chance: torch.where(chance < 1e-4, 1 + chance, 0.0),
}


def numbers(kind: str, count: int, generator: torch.Generator) -> Tensor:
    return KINDS[kind](torch.randn(count, generator=generator), torch.rand(count, generator=generator))


SHAPES = {
    "tiny": [(1,), (2, 1), ()],
    "small": [(5, 3, 3, 3), (7,), (4, 6)],
    "large": [(64, 3, 3, 3), (300, 400), (1,), (96, 64, 5, 5)],
}


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("kind", KINDS)
def test_selection_is_that_of_a_stable_sort(kind: str, size: str) -> None:
    generator = torch.Generator().manual_seed(3)
    flat = numbers(kind, sum(map(math.prod, SHAPES[size])), generator)
    order = flat.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).argsort(descending=True, stable=True)
    split = flat.split([math.prod(shape) for shape in SHAPES[size]])
    plain = [part.view(shape) for part, shape in zip(split, SHAPES[size], strict=True)]
    layouts = {4: torch.channels_last}
    scores = [x.contiguous(memory_format=layouts.get(x.ndim, torch.contiguous_format)) for x in plain]
    for count in {0, 1, *(int(share * len(flat)) for share in (0.001, 0.3, 0.5, 0.9, 1))}:
        wanted = torch.zeros(len(flat), dtype=torch.bool)
        wanted[order[:count]] = True
        for given in (plain, scores):
            marked = select(given, count)
            assert [chosen.shape for chosen in marked] == [values.shape for values in given]
            assert torch.equal(torch.cat([chosen.flatten() for chosen in marked]), wanted), count
    assert all(torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in zip(plain, scores, strict=True))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "no numbers"])
def test_largest_is_that_of_a_sort(kind: str) -> None:
    generator = torch.Generator().manual_seed(4)
    for count, dtype in ((1, torch.float32), (50, torch.float64), (50, torch.bfloat16), (100_000, torch.float32)):
        values = numbers(kind, count, generator).to(dtype)
        falling, before = values.sort(descending=True).values, values.clone()
        for rank in {1, count, (count + 1) // 2, max(1, count // 1000)}:
            found = largest(values, rank)
            assert found.shape == ()
            assert found == falling[rank - 1], rank
        assert torch.equal(values, before)


def test_leaves_the_model_as_it_was(trained: Checkpoint, sets: Sets) -> None:
    model = trained.restore().train()
    saliency(model, sets.forget, 0.5)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    assert same_weights(model, trained)


def test_frozen_weights_are_not_in_the_mask(trained: Checkpoint, sets: Sets) -> None:
    model = trained.restore()
    model.conv1.weight.requires_grad_(False)
    mask = saliency(model, sets.forget, 0.5)
    assert "conv1.weight" not in mask
    assert len(mask) == len(list(model.parameters())) - 1


@pytest.mark.parametrize(
    ("keep", "score", "text"),
    [(-0.1, "sum", "keep=-0.1"), (1.1, "sum", "keep=1.1"), (0.5, "best", "'best'"), (0.5, "random", "generator")],
)
def test_refuses(trained: Checkpoint, sets: Sets, keep: float, score: str, text: str) -> None:
    refuses(text, lambda: saliency(trained.restore(), sets.forget, keep, score))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_held_weights_stay_put_after_every_step(trained: Checkpoint, sets: Sets, optimizer: str) -> None:
    model = trained.restore()
    generator = torch.Generator().manual_seed(0)
    mask = saliency(model, sets.forget, 0.4, "random", generator=generator)
    config = TrainingConfig(0.1 if optimizer == "sgd" else 0.01, 2, optimizer=optimizer, weight_decay=0.1)

    def check(progress: Progress) -> None:
        for name, weight in model.named_parameters():
            assert torch.equal(weight[~mask[name]], trained.weights[name][~mask[name]]), name

    with masked_updates(model, mask) as hold:
        images = sets.retain.take(torch.arange(96))
        fit(model, lambda epoch: images.batches(32, generator), config, Runtime(callback=check, hold=hold))
    moved = sum(int((weight != trained.weights[name]).sum()) for name, weight in model.named_parameters())
    assert moved > 1000


def test_covers_edits_in_place_and_ends_with_the_block(trained: Checkpoint, sets: Sets) -> None:
    model = trained.restore()
    mask = saliency(model, sets.forget, 0.5, "random", generator=torch.Generator().manual_seed(1))
    with masked_updates(model, mask), torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2).add_(1)
    for name, weight in model.named_parameters():
        start = trained.weights[name]
        assert torch.equal(weight, torch.where(mask[name], start * 2 + 1, start)), name
    loss = sum((weight**2).sum() for weight in model.parameters())
    loss.backward()
    assert all(bool((w.grad == 2 * w).all()) for w in model.parameters())
    torch.optim.SGD(model.parameters(), lr=0.25).step()
    assert all(not torch.equal(w, trained.weights[n]) for n, w in model.named_parameters() if bool((w != 0).any()))


def test_puts_back_what_became_nan_and_after_an_error(trained: Checkpoint, sets: Sets) -> None:
    model = trained.restore()
    mask = saliency(model, sets.forget, 0)

    def spoil() -> None:
        with masked_updates(model, mask), torch.no_grad():
            for weight in model.parameters():
                weight.fill_(float("nan"))
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        spoil()
    assert same_weights(model, trained)


def test_clipping_counts_only_weights_that_may_move(trained: Checkpoint, sets: Sets) -> None:
    model = trained.restore().train()
    mask = saliency(model, sets.forget, 0.3)
    batch = next(sets.forget.batches(64, torch.Generator().manual_seed(0)))

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        return {name: weight.grad.clone() for name, weight in model.named_parameters()}

    free = gradients()
    expected = torch.cat([free[name][mask[name]] for name in mask]).norm()
    with masked_updates(model, mask) as hold:
        gradients()
        hold.clear_gradients()
        counted = nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert float(counted) == pytest.approx(float(expected), rel=1e-5)


def test_buffers_move_under_a_mask(trained: Checkpoint, sets: Sets) -> None:
    model = trained.restore().train()
    with masked_updates(model, saliency(model, sets.forget, 0)):
        model(next(sets.forget.batches(64)).x)
    assert not torch.equal(model.bn1.running_mean, trained.weights["bn1.running_mean"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_mask_of_a_file_must_have_every_trainable_weight(trained: Checkpoint, device: str) -> None:
    model = trained.restore().to(device)
    weights = dict(model.named_parameters())
    mask = {name: torch.ones(weight.shape, dtype=torch.bool) for name, weight in weights.items()}
    check_mask(mask, weights)
    partial = {name: chosen for name, chosen in mask.items() if name not in ("bn1.bias", "fc.weight")}
    refuses(r"^mask: .*'bn1\.bias'.*another model's", lambda: check_mask(partial, weights))
    for name in ("bn1.bias", "fc.weight"):
        weights[name].requires_grad_(False)
    check_mask(partial, weights)


@pytest.mark.parametrize("score", ["sum", "mean_abs", "inverted"])
def test_gradients_that_are_no_numbers_give_no_mask(trained: Checkpoint, sets: Sets, score: Score) -> None:
    model = trained.restore()
    nn.init.constant_(model.fc.bias, torch.nan)
    refuses("^mask: the model's gradients are no numbers", lambda: saliency(model, sets.forget, 0.5, score))


@pytest.mark.parametrize(("values", "held"), [(torch.ones(10), "torch.float32"), ([True] * 10, "a list")])
def test_a_mask_is_of_booleans(trained: Checkpoint, values: Any, held: str) -> None:
    weights = dict(trained.restore().named_parameters())
    told = f"^mask: 'fc.bias' is {held}; must be a boolean tensor"
    refuses(told, lambda: check_mask({"fc.bias": values}, weights, complete=False))


@pytest.mark.parametrize("name", ["fc.weights", "fc.weight"])
def test_mask_of_another_model_does_not_fit(trained: Checkpoint, name: str) -> None:
    model = trained.restore()
    weights = dict(model.named_parameters())
    odd = {name: torch.ones(3, 3, dtype=torch.bool)}
    mask = {key: torch.ones(weight.shape, dtype=torch.bool) for key, weight in weights.items()} | odd
    refuses("another model", lambda: check_mask(mask, weights))
    with pytest.raises(SalunError, match="another model"), masked_updates(model, odd):
        pass


def test_weights_without_a_mask_are_free(trained: Checkpoint) -> None:
    model = trained.restore()
    with masked_updates(model, {"fc.weight": torch.zeros(model.fc.weight.shape, dtype=torch.bool)}), torch.no_grad():
        for weight in model.parameters():
            weight.add_(1)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, trained.weights[name] + (name != "fc.weight")), name


def test_saved_and_loaded_like_a_mask_of_the_official_code(trained: Checkpoint, sets: Sets, tmp_path: Path) -> None:
    mask = saliency(trained.restore(), sets.forget, 0.5)
    save_mask(tmp_path / "mask.pt", mask)
    loaded = load_mask(tmp_path / "mask.pt")
    assert list(loaded) == list(mask)
    assert all(torch.equal(loaded[name], mask[name]) for name in mask)
    torch.save({"module.fc.weight": torch.tensor([[0, 1], [1, 0]])}, tmp_path / "mask.pt")
    assert torch.equal(load_mask(tmp_path / "mask.pt")["fc.weight"], torch.tensor([[False, True], [True, False]]))


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"a": 1}, {1: torch.ones(2)}, {"a": torch.tensor([0.5])}, {"a": Bomb(Path("mark"))}]
)
def test_refuses_a_file_that_is_no_mask(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "mask.pt")
    refuses(r"mask\.pt: not a", lambda: load_mask(tmp_path / "mask.pt"))
    assert not Path("mark").exists()


MEMORY = """
import resource, sys, torch
from torch import nn
from salun.data.images import Images
from salun.unlearning.mask import saliency

model = nn.Sequential(nn.Flatten(), *(nn.Linear(3000, 3000, bias=False) for _ in range(3)))
weights = 4 * sum(weight.numel() for weight in model.parameters())
pixels, rows = torch.rand(2, 3, 10, 100), torch.arange(2)
pixels[:, :, :5] = 0  # so that a sixth of the weights have the same score
images = Images(pixels, rows, rows, torch.device("cpu"), lambda taken, generator: taken)
model(pixels)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
saliency(model, images, float(sys.argv[2]), sys.argv[1], batch_size=1, generator=torch.Generator().manual_seed(0))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / weights)
"""


@pytest.mark.parametrize(
    ("score", "keep"),
    [
        pytest.param("sum", "0.5", marks=pytest.mark.slow),
        pytest.param("mean_abs", "0.5", marks=pytest.mark.slow),
        ("mean_abs", "0.9"),
    ],
)
def test_needs_at_most_three_times_the_weights(score: str, keep: str) -> None:
    done = subprocess.run([sys.executable, "-c", MEMORY, score, keep], capture_output=True, text=True, check=True)
    assert float(done.stdout) <= 3
