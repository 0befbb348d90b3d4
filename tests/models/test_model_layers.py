import pytest
import torch
from hostile import refuses

from salun.models.architecture import Architecture
from salun.models.build import build
from salun.models.layers import check_layers, default_layers, outputs_at

RESNET = ["conv1", *(f"layer{stage}.{block}" for stage in range(1, 5) for block in range(2)), "fc"]
FAMILIES = {
    "resnet_tiny": RESNET,
    "resnet18": RESNET,
    "vgg11": [f"features.{place}" for place in (1, 4, 7, 9, 12, 14, 17, 19)] + ["head.fc"],
    "vit_tiny_patch16_224": ["patch_embed", *(f"blocks.{block}" for block in range(12)), "norm", "head"],
    "swin_tiny_patch4_window7_224": [
        "patch_embed",
        *("layers.0.blocks.0", "layers.0.blocks.1"),
        *("layers.1.downsample", "layers.1.blocks.0", "layers.1.blocks.1"),
        *("layers.2.downsample", *(f"layers.2.blocks.{block}" for block in range(6))),
        *("layers.3.downsample", "layers.3.blocks.0", "layers.3.blocks.1"),
        *("norm", "head.fc"),
    ],
}
X = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
@pytest.mark.parametrize("name", [*FAMILIES, "convnext_atto", "mobilenetv3_small_050", "regnetx_002"])
def test_stem_blocks_and_head_of_each_family_have_one_row_an_image(name: str) -> None:
    network = build(Architecture(name, 5, 3, 32)).eval()
    layers = default_layers(network, X)
    assert layers == FAMILIES.get(name, layers)
    assert len(layers) > 5
    outputs, logits = outputs_at(network, layers, X)
    assert list(outputs) == layers
    assert all(len(output) == 2 for output in outputs.values())
    assert torch.equal(outputs[layers[-1]], logits)
    assert torch.equal(logits, network(X))
    assert not any(module._forward_hooks for module in network.modules())


def test_the_vggs_activations_are_the_notebooks() -> None:
    layers = default_layers(build(Architecture("vgg16_bn", 10, 3, 32)), X)
    assert [f"features.{place}" for place in (2, 5, 9, 12, 16, 19, 22, 26, 29)] == layers[:9]
    assert layers[-1] == "head.fc"


def test_layers_may_be_chosen() -> None:
    network = build(Architecture("resnet_tiny", 5, 3, 32))
    assert check_layers(network, ["layer4", "conv1", "layer4"], X) == ["layer4", "conv1"]


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("resnet_tiny", "layer9", "--layers layer9: the model has none of that name; did you mean 'layer"),
        (
            "swin_tiny_patch4_window7_224",
            "layers.0.blocks.0.attn",
            r"--layers .*: gives .* of shape \(.*one row",
        ),
        ("vit_tiny_patch16_224", "blocks.0.attn.attn_drop", "--layers blocks.0.attn.attn_drop: gives no tensor"),
    ],
)
def test_layers_that_cannot_be_compared_are_refused(name: str, layer: str, reason: str) -> None:
    network = build(Architecture(name, 5, 3, 32))
    refuses(reason, lambda: check_layers(network, [layer], X))
