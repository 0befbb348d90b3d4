import pytest
import torch
from torch import nn

from salun.models.architecture import Architecture
from salun.models.build import build
from salun.models.checkpoint import Checkpoint
from salun.unlearning.pruning import both, prune


@pytest.mark.parametrize("share", [0.3, 0.95])
def test_the_smallest_weights_of_all_layers_together_become_zero(trained: Checkpoint, share: float) -> None:
    model = trained.restore()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    survivors = prune(model, share)
    total = sum(map(torch.numel, survivors.values()))
    pruned = torch.cat([before[name][~kept].abs() for name, kept in survivors.items()])
    kept = torch.cat([before[name][kept].abs() for name, kept in survivors.items()])
    assert len(pruned) == int(share * total)
    assert float(pruned.max()) <= float(kept.min())
    for name, weight in model.named_parameters():
        expected = before[name] * survivors[name] if name in survivors else before[name]
        assert torch.equal(weight, expected)


def test_head_norms_and_biases_stay(trained: Checkpoint) -> None:
    model = trained.restore()
    survivors = prune(model, 0.5)
    convolutions = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
    assert survivors.keys() == convolutions


def test_linear_layers_of_a_transformer_are_pruned_and_its_tokens_are_not() -> None:
    model = build(Architecture("vit_tiny_patch16_224", 10, 1, 8))
    survivors = prune(model, 0.5)
    assert "blocks.0.mlp.fc1.weight" in survivors
    assert "patch_embed.proj.weight" in survivors
    assert not {"cls_token", "pos_embed", "head.weight"} & survivors.keys()


def test_two_masks_let_move_what_both_let() -> None:
    one = {"a": torch.tensor([True, True, False]), "b": torch.tensor([True])}
    other = {"a": torch.tensor([False, True, True]), "c": torch.tensor([False])}
    together = both(one, other)
    assert together["a"].tolist() == [False, True, False]
    assert together["b"].tolist() == [True]
    assert together["c"].tolist() == [False]
    assert both(one, None) is one
    assert both(None, other) is other
    assert both(None, None) is None


def test_a_mask_from_a_file_meets_one_on_a_device() -> None:
    here, there = ({"w": torch.ones(3, dtype=torch.bool, device=name)} for name in ("cpu", "meta"))
    together = both(here, there)
    assert together is not None
    assert together["w"].is_meta
