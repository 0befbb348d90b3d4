import functools
import io
import os
import pickle
import re
import socketserver
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from equality import same
from hostile import refuses
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from salun.models.architecture import TINY, Architecture, default_model
from salun.models.build import build
from salun.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, weights_file
from salun.models.features import embed, head
from salun.models.own import check_model
from salun.models.tiny import TinyResNet

SIZES = ((3, 32), (1, 28), (1, 8))
FAMILIES = [
    *((TINY, *shape) for shape in ((3, 32), (1, 8), (3, 96))),
    *(("resnet18", *shape) for shape in ((1, 28), (3, 96))),
    *((name, *shape) for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224") for shape in SIZES),
    *(("vit_tiny_patch16_224", *shape) for shape in ((3, 64), (3, 17))),
    *(("vgg16_bn", *shape) for shape in ((3, 32), (1, 8))),
    *((name, 1, 8) for name in (
        "resnet50", "mobilenetv3_small_100", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224",
    )),
    *((name, 3, 32) for name in (
        "convnext_atto", "resnet50d", "resnetv2_18", "densenet121", "deit_tiny_patch16_224", "pit_ti_distilled_224",
        "efficientformerv2_s0", "cait_xxs24_224", "xcit_nano_12_p16_224", "coat_tiny", "maxvit_pico_rw_256",
        "pit_ti_224", "swinv2_cr_tiny_224", "mobilenetv3_small_100",
    )),
]  # fmt: skip


@functools.cache
def built(name: str, channels: int, size: int) -> nn.Module:
    """A model with seven classes: shared, so its weights must not be changed."""
    torch.manual_seed(0)
    return build(Architecture(name, 7, channels, size))


def noise(channels: int, size: int, count: int = 3) -> Tensor:
    return torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("name", "channels", "size"), FAMILIES)
class TestEveryFamily:
    @torch.no_grad()
    def test_head_of_the_features_gives_the_logits(self, name: str, channels: int, size: int) -> None:
        model, x = built(name, channels, size).eval(), noise(channels, size)
        features, layer, logits = embed(model, x), head(model), model(x)
        assert features.ndim == 2
        assert layer.weight.shape == (7, features.shape[1])
        assert logits.shape == (3, 7)
        assert torch.allclose(layer(features), logits, atol=1e-5)
        assert torch.allclose(features @ layer.weight.T + layer.bias, logits, atol=1e-5)

    def test_can_be_trained(self, name: str, channels: int, size: int) -> None:
        model = built(name, channels, size).train()
        state = {key: value.clone() for key, value in model.state_dict().items()}
        loss = F.cross_entropy(model(noise(channels, size)), torch.tensor([0, 1, 2]))
        gradients = torch.autograd.grad(loss, [head(model).weight, next(model.parameters())], allow_unused=True)
        model.load_state_dict(state)  # running statistics have moved
        assert torch.isfinite(loss)
        assert gradients[-1] is not None
        assert gradients[-1].abs().sum() > 0


class TestSmallImages:
    @pytest.mark.parametrize("name", [TINY, "resnet18"])
    @pytest.mark.parametrize(("channels", "size"), [(3, 64), (3, 32), (1, 28), (1, 8)])
    def test_resnet_has_a_3x3_stem_and_no_pool(self, name: str, channels: int, size: int) -> None:
        model = built(name, channels, size).eval()
        assert isinstance(model, ResNet | TinyResNet)
        assert model.conv1.weight.shape[1:] == (channels, 3, 3)
        with torch.no_grad():
            assert model.act1(model.bn1(model.conv1(noise(channels, size)))).shape[-1] == size
            assert model.forward_features(noise(channels, size)).shape[-1] == -(-size // 8)

    @torch.no_grad()
    def test_deep_stem_keeps_the_resolution_too(self) -> None:
        assert built("resnet50d", 3, 32).eval().forward_features(noise(3, 32)).shape[-1] == 4

    def test_tiny_has_four_stages(self) -> None:
        model = built(TINY, 1, 8)
        widths = [getattr(model, f"layer{stage}")[-1].conv2.out_channels for stage in (1, 2, 3, 4)]
        assert widths == [16, 32, 64, 128]
        assert sum(weight.numel() for weight in model.parameters()) < 800_000

    @pytest.mark.parametrize("channels", [1, 3])
    def test_tiny_is_timms_class_bit_for_bit(self, channels: int) -> None:
        torch.manual_seed(0)
        origin = ResNet(BasicBlock, (2, 2, 2, 2), channels=(16, 32, 64, 128), num_classes=7, in_chans=channels)
        drawn = torch.rand(1)
        torch.manual_seed(0)
        ours = build(Architecture(TINY, 7, channels, 96))
        assert torch.equal(torch.rand(1), drawn)
        for model in (origin, ours):
            F.cross_entropy(model(noise(channels, 96)), torch.arange(3)).backward()
        assert list(ours.state_dict()) == list(origin.state_dict())
        assert all(map(torch.equal, ours.state_dict().values(), origin.state_dict().values()))
        gradients = [[weight.grad for weight in model.parameters()] for model in (ours, origin)]
        assert all(map(torch.equal, *gradients))

    def test_vgg_has_a_512_wide_head(self) -> None:
        for channels, size in ((3, 32), (1, 8)):
            model = built("vgg16_bn", channels, size)
            assert head(model).weight.shape == (7, 512)
            assert sum(weight.numel() for weight in model.parameters()) < 15_000_000

    @pytest.mark.parametrize(
        ("name", "channels", "size"),
        [
            *((name, *shape) for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224") for shape in SIZES),
            ("deit_tiny_distilled_patch16_224", 1, 8), ("eva02_tiny_patch14_224", 1, 8), ("flexivit_small", 3, 32),
        ],
    )  # fmt: skip
    def test_transformer_sees_at_least_8x8_patches(self, name: str, channels: int, size: int) -> None:
        model = built(name, channels, size)
        patches = model.patch_embed
        assert tuple(patches.img_size) == (size, size)
        assert min(patches.grid_size) >= 8
        assert patches.grid_size[0] * patches.patch_size[0] == size
        assert model(noise(channels, size, 2)).shape == (2, 7)

    @torch.no_grad()
    @pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 64)])
    def test_mixer_is_built_for_them(self, channels: int, size: int) -> None:
        model = build(Architecture("mixer_s16_224", 7, channels, size)).eval()
        nn.init.normal_(model.head.weight)  # timm's is zero
        x = noise(channels, size)
        logits = model(x)
        assert logits.shape == (3, 7)
        assert (logits.std(0) > 0).all()
        assert torch.allclose(head(model)(embed(model, x)), logits, atol=1e-5)

    @pytest.mark.parametrize("name", ["crossvit_9_240", "levit_128s", "volo_d1_224"])
    def test_model_whose_head_is_not_linear_can_still_be_used(self, name: str) -> None:
        logits = built(name, 3, 32).eval()(noise(3, 32))
        assert logits.shape == (3, 7)
        assert logits.isfinite().all()
        refuses("not linear", lambda: head(built(name, 3, 32)))

    @pytest.mark.parametrize("size", [65, 96])
    def test_larger_images_keep_timms_stem(self, size: int) -> None:
        model = built("resnet18", 3, size)
        assert model.conv1.weight.shape[2:] == (7, 7)
        assert isinstance(model.maxpool, nn.MaxPool2d)

    @pytest.mark.parametrize(
        ("name", "channels", "size"),
        [("convnext_atto", 1, 8), ("densenet121", 1, 8), ("inception_v3", 3, 32), ("mixer_s16_224", 1, 8)],
    )
    def test_model_that_cannot_take_them(self, name: str, channels: int, size: int) -> None:
        refuses(rf"{name}.*{size} x {size}", lambda: build(Architecture(name, 7, channels, size)))


class TestBuild:
    @pytest.mark.parametrize("name", [TINY, "mobilenetv3_small_100", "crossvit_9_240"])
    def test_is_a_function_of_the_global_seed_whatever_was_built_before(self, name: str) -> None:
        def weights(seed: int) -> Tensor:
            torch.manual_seed(seed)
            return nn.utils.parameters_to_vector(build(Architecture(name, 13)).parameters())

        assert torch.equal(weights(1), weights(1))
        assert not torch.equal(weights(1), weights(2))

    def test_model_comes_in_training_mode_with_fresh_statistics(self) -> None:
        model = build(Architecture("mobilenetv3_small_100", 13))
        assert model.training
        assert all((layer.running_mean == 0).all() for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))

    @pytest.mark.parametrize(
        ("name", "nearest"),
        [
            ("resnet81", "resnet18"), ("ResNet18", "resnet18"), ("resnet_tinny", TINY), ("vgg16bn", "vgg16_bn"),
            ("vit_tiny_patch16_24", "vit_tiny_patch16_224"), ("mobilenet_v3_small_100", "mobilenetv3_small_100"),
        ],
    )  # fmt: skip
    def test_unknown_name(self, name: str, nearest: str) -> None:
        for refuse in (lambda: check_model(name), lambda: build(Architecture(name, 7))):
            refuses(f"'{name}'.*'{nearest}'", refuse)

    @pytest.mark.parametrize(
        "name",
        ["", "xyzzy", "../../etc/passwd", "hf-hub:someone/something", "resnet18.no_such_tag", f"{TINY}.a1_in1k",
         "vit_tiny_patch16_224.augreg"],
    )  # fmt: skip
    def test_name_that_is_near_none_or_of_no_such_weights(self, name: str) -> None:
        refuses(f"'{name}': unknown", lambda: check_model(name))

    def test_default_is_small_for_small_images(self) -> None:
        assert default_model("digits") == TINY
        assert {default_model(name) for name in ("cifar10", "cifar100", "svhn", "folder:x")} == {"resnet18"}

    @torch.no_grad()
    @pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "efficientformerv2_s0"])
    def test_two_heads_that_differ_become_one(self, name: str) -> None:
        model, x = build(Architecture(name, 7)).eval(), noise(3, 32)
        for number, layer in enumerate(model.get_classifier()):
            nn.init.normal_(layer.weight, number)
            nn.init.normal_(layer.bias, number)
        assert torch.allclose(head(model)(embed(model, x)), model(x), rtol=1e-4, atol=1e-4)

    def test_head_shares_the_models_weights(self) -> None:
        for name in (TINY, "resnetv2_18"):
            model = built(name, 3, 32)
            pointers = {weight.data_ptr() for weight in model.parameters()}
            assert {weight.data_ptr() for weight in head(model).parameters()} <= pointers


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of downloaded weights, and a hub that nobody answers at."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cached_file(hub: Path) -> Path:
    """The place of test_resnet's weights in a store of downloaded weights, with its folders."""
    folder = hub / f"models--{timm.get_pretrained_cfg('test_resnet').hf_hub_id.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    return folder / "snapshots" / ("0" * 40) / "model.safetensors"


def cannot_be_had() -> None:
    refuses(r"test_resnet.*cannot be had", lambda: build(Architecture("test_resnet", 7), pretrained=True))


class TestPretrained:
    def test_without_network_is_refused_at_once(self, no_hub: Path, capfd: pytest.CaptureFixture[str]) -> None:
        begun = time.perf_counter()
        for name in ("resnet18", "resnet50.a1_in1k"):
            told = rf"{name}.*pretrained.*without --pretrained"
            refuses(told, lambda name=name: build(Architecture(name, 7), pretrained=True))
        assert time.perf_counter() - begun < 3
        assert capfd.readouterr() == ("", "")
        assert not no_hub.exists()

    def test_model_without_such_weights(self, no_hub: Path) -> None:
        for name in (TINY, "mnasnet_050", "resnet18.no_such_tag"):
            refuses(name, lambda name=name: build(Architecture(name, 7), pretrained=True))

    @pytest.mark.parametrize(
        "answer",
        [b"", b"nonsense\r\n\r\n", *(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % code for code in (404, 429, 503))],
    )
    def test_host_that_answers_nonsense(self, answer: bytes, no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Answer(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                self.request.recv(4096)
                self.request.sendall(answer)

        begun = time.perf_counter()
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            address = f"http://127.0.0.1:{server.server_address[1]}"
            monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
            monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", f"{address}/{{filename}}")
            cannot_be_had()
            server.shutdown()
        assert time.perf_counter() - begun < 5

    @pytest.mark.parametrize("endpoint", ["nowhere", "http://", "http://127.0.0.1:port", "http://no such host", None])
    def test_address_that_is_none(self, endpoint: str | None, no_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", endpoint is None)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint or "http://127.0.0.1:9")
        cannot_be_had()

    def test_weights_that_are_damaged(self, no_hub: Path) -> None:
        file = cached_file(no_hub)
        for content in (b"", b"half a file", bytes(1000)):
            file.write_bytes(content)
            cannot_be_had()

    @pytest.mark.parametrize("offline", [False, True])
    def test_weights_that_are_here_need_no_network(
        self, offline: bool, no_hub: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        torch.manual_seed(3)
        origin = timm.create_model("test_resnet")
        safetensors.torch.save_file(origin.state_dict(), cached_file(no_hub))
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}")
        model = build(Architecture("test_resnet", 7, 3, 160, native=True), pretrained=True)
        assert torch.equal(model.conv1[0].weight, origin.conv1[0].weight)
        assert head(model).weight.shape[0] == 7
        grey = build(Architecture("test_resnet", 7, 1, 160, native=True), pretrained=True)
        assert torch.allclose(grey.conv1[0].weight, origin.conv1[0].weight.sum(1, keepdim=True), atol=1e-5)
        assert torch.isfinite(grey.eval()(noise(1, 160, 1))).all()


SMALL = Architecture(TINY, 3, 1, 8)


def trained(kind: type[torch.optim.Optimizer] = torch.optim.SGD, **settings: Any) -> tuple[nn.Module, Any]:
    """A small model and its optimiser after two steps."""
    torch.manual_seed(0)
    model = build(SMALL)
    optimizer = kind(model.parameters(), lr=0.01, **settings)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(noise(1, 8, 6)), torch.arange(6) % 3).backward()
        optimizer.step()
    return model, optimizer


def described(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> Checkpoint:
    config = {"recipe": {"epochs": 2, "lr": 0.1}, "class_names": ["a", "b", "ü"], "split": "0123", "split_seed": 5}
    state = optimizer.state_dict() if optimizer else None
    return Checkpoint(model.state_dict(), SMALL, "digits", state, config, (1, 5, 9))


class TestRoundTrip:
    @pytest.mark.parametrize(
        ("kind", "settings"),
        [
            (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 5e-4}),
            (torch.optim.Adam, {"betas": (0.9, 0.999)}),
            (torch.optim.AdamW, {"weight_decay": 0.1}),
        ],
    )
    def test_is_exact(self, tmp_path: Path, kind: type[torch.optim.Optimizer], settings: dict[str, Any]) -> None:
        kept = described(*trained(kind, **settings))
        for written in (replace(kept, dataset="older"), kept):
            save_checkpoint(tmp_path / "new" / "a.pt", written)
        found = load_checkpoint(tmp_path / "new" / "a.pt")
        assert same(dict(found.weights), dict(kept.weights))
        assert same(found.optimizer, kept.optimizer)
        assert replace(found, weights={}, optimizer=None) == replace(kept, weights={}, optimizer=None)
        assert found.fingerprint == kept.fingerprint
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.pt"]

    @torch.no_grad()
    @pytest.mark.parametrize(
        "architecture",
        [
            Architecture(TINY, 3, 3, 96), Architecture("mobilenetv3_small_100", 5, 1, 28), Architecture("vgg11", 7),
            Architecture("convnext_atto", 7), Architecture("vit_tiny_patch16_224", 7),
            Architecture("swin_tiny_patch4_window7_224", 7), Architecture("eva02_tiny_patch14_224", 7),
            Architecture("resnet18", 7, native=True),
        ],
        ids=lambda architecture: architecture.model + ("_native" if architecture.native else ""),
    )  # fmt: skip
    def test_every_restored_model_is_the_one_that_was_saved(self, tmp_path: Path, architecture: Architecture) -> None:
        model, x = build(architecture), noise(architecture.channels, architecture.size)
        wanted = model.eval()(x)
        placed = {
            name: weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight
            for name, weight in model.state_dict().items()
        }
        before = torch.get_rng_state()
        restored = []
        for path in (tmp_path / "a.pt", tmp_path / "a.safetensors"):
            save_checkpoint(path, Checkpoint(placed, architecture, "cifar10"))
            found = load_checkpoint(path)
            assert (found.architecture, found.optimizer) == (architecture, None)
            restored.append(found.restore())
        assert torch.equal(torch.get_rng_state(), before)
        assert (found.config, found.excluded) == ({}, ())
        for again in restored:
            assert again.training
            assert list(again.state_dict()) == list(model.state_dict())
            for kind in ("named_parameters", "named_buffers"):
                ours, theirs = dict(getattr(again, kind)()), dict(getattr(model, kind)())
                assert same({name: x.data for name, x in ours.items()}, {name: x.data for name, x in theirs.items()})
                assert all(x.requires_grad == theirs[name].requires_grad for name, x in ours.items())
            assert torch.equal(again.eval()(x), wanted)
            for tensor in again.state_dict().values():
                tensor.zero_()
        assert found.fingerprint == Checkpoint(model.state_dict(), architecture, "cifar10").fingerprint

    def test_safetensors_hold_all_but_an_optimiser(self, tmp_path: Path) -> None:
        model, optimizer = trained()
        kept, path = described(model), tmp_path / "a.safetensors"
        save_checkpoint(path, kept)
        found = load_checkpoint(path)
        assert same(dict(found.weights), dict(kept.weights))
        assert replace(found, weights={}) == replace(kept, weights={})
        assert same(safetensors.torch.load_file(path), dict(kept.weights))
        refuses(
            "hold no optimiser; a name that ends in .pt", lambda: save_checkpoint(path, described(model, optimizer))
        )
        assert found.fingerprint == load_checkpoint(path).fingerprint

    def test_a_file_of_an_earlier_version_keeps_its_name(self, tmp_path: Path) -> None:
        assert weights_file(tmp_path, "ft_seed0").name == "ft_seed0.safetensors"
        (tmp_path / "ft_seed0.pt").touch()
        assert weights_file(tmp_path, "ft_seed0").name == "ft_seed0.pt"

    def test_file_has_the_keys_of_the_seed_system(self, tmp_path: Path) -> None:
        model, optimizer = trained()
        save_checkpoint(tmp_path / "a.pt", described(model, optimizer))
        content = torch.load(tmp_path / "a.pt", weights_only=True)
        assert content.keys() == {"model", "optimizer", "config"}
        assert {"model": TINY, "dataset": "digits", "nclasses": 3}.items() <= content["config"].items()
        build(SMALL).load_state_dict(content["model"])

    def test_fingerprint_tells_weights_apart(self) -> None:
        model, _ = trained()
        one = described(model)
        assert replace(one, dataset="other", config={}).fingerprint == one.fingerprint
        for name in [*one.weights][::9]:
            changed = dict(one.weights) | {name: one.weights[name] + 1}
            assert replace(one, weights=changed).fingerprint != one.fingerprint


def one_line(path: Path) -> str:
    return refuses(re.escape(str(path)), lambda: load_checkpoint(path))


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    """What a good file holds: shared, so it must not be changed."""
    out = io.BytesIO()
    model, optimizer = trained(momentum=0.9)
    config = {"model": TINY, "dataset": "digits", "nclasses": 3, "architecture": {"channels": 1, "size": 8}}
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "config": config}, out)
    out.seek(0)
    return torch.load(out, weights_only=True)


class TestRefused:
    @pytest.mark.parametrize("kind", ["zip", "legacy", "bare pickle", "in config", "in optimizer", "in weights"])
    def test_malicious_pickle_does_not_run(
        self, tmp_path: Path, content: dict[str, Any], kind: str, capfd: pytest.CaptureFixture[str]
    ) -> None:
        class Harm:
            def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
                self.made = call, arguments

            def __reduce__(self) -> Any:
                return self.made

        mark = tmp_path / "harm"
        path = tmp_path / "a.pt"
        for harm in (Harm(os.system, f"touch {mark}"), Harm(eval, f"open({str(mark)!r}, 'w')"), Harm(Path.touch, mark)):
            whole: Any = {
                "in config": content | {"config": content["config"] | {"note": harm}},
                "in optimizer": content | {"optimizer": harm},
                "in weights": content | {"model": dict(content["model"]) | {"extra": harm}},
            }.get(kind, harm)
            if kind == "bare pickle":
                path.write_bytes(pickle.dumps(whole))
            else:
                torch.save(whole, path, _use_new_zipfile_serialization=kind != "legacy")
            told = (
                "before 1.6, or a plain pickle" if kind in ("legacy", "bare pickle") else "whose code would have to run"
            )
            assert told in one_line(path)
        assert not mark.exists()
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("legacy", [False, True])
    def test_truncated_file_or_one_of_another_kind(self, tmp_path: Path, content: dict[str, Any], legacy: bool) -> None:
        torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        whole = (tmp_path / "a.pt").read_bytes()
        cut = [whole[: int(share * len(whole))] for share in (0.0, 0.0001, 0.01, 0.5, 0.9, 0.999)]
        for other in (*cut, b"hello\n", b"PK\x03\x04junk", b"\x80\x02.", bytes(1000), b"\x80\x02]q\x00(K"):
            (tmp_path / "a.pt").write_bytes(other)
            assert "checkpoint" in one_line(tmp_path / "a.pt")

    def test_no_file(self, tmp_path: Path) -> None:
        assert "no such checkpoint" in one_line(tmp_path / "a.pt")
        one_line(tmp_path)

    def test_wrong_keys_and_types(self, tmp_path: Path, content: dict[str, Any]) -> None:
        others: list[Any] = [None, 3, "text", [], {}, torch.zeros(3)]
        others += [{"config": {}}, {"model": {}}, {"state_dict": {}, "config": {}}]
        for key in ("model", "config"):
            others += [content | {key: value} for value in (None, 3, "text", [1], torch.zeros(2))]
        for other in others:
            torch.save(other, tmp_path / "a.pt")
            assert "not a checkpoint" in one_line(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("extra", "told"),
        [
            ({"a": 1}, "named tensors"), ({"a": None}, "named tensors"), ({3: torch.zeros(2)}, "named tensors"),
            ({"a": [torch.zeros(2)]}, "named tensors"),
            ({"more": torch.zeros(1)}, "names: holds the weight 'more', which the model has not"),
            ({"fc.weight": torch.zeros(128, 3)}, "names: weight 'fc.weight' is (128, 3), the model's (3, 128)"),
            ({"fc.weight": torch.zeros(4, 128), "fc.bias": torch.zeros(4)}, "'fc.bias' is of 4 classes, its config of"),
        ],
    )  # fmt: skip
    def test_other_weights(self, tmp_path: Path, content: dict[str, Any], extra: dict[Any, Any], told: str) -> None:
        torch.save(content | {"model": content["model"] | extra}, tmp_path / "a.pt")
        assert told in one_line(tmp_path / "a.pt")

    def test_names_with_the_prefix_of_another_program(self, tmp_path: Path, content: dict[str, Any]) -> None:
        named = {f"module.{name}": tensor for name, tensor in content["model"].items()}
        torch.save(content | {"model": named}, tmp_path / "a.pt")
        assert one_line(tmp_path / "a.pt").endswith("their names begin with 'module.', which salun-import takes off")

    def test_part_that_lacks_something(self, tmp_path: Path, content: dict[str, Any]) -> None:
        for part, key in (("model", "fc.bias"), ("config", "model"), ("config", "dataset"), ("config", "nclasses")):
            torch.save(content | {part: {name: kept for name, kept in content[part].items() if name != key}}, "a.pt")
            told = "do not fit" if part == "model" else f"lacks '{key}'"
            assert told in one_line(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("key", "value", "told"),
        [
            *(("model", value, "model") for value in (3, None)), ("dataset", ["digits"], "dataset"),
            *(("nclasses", value, "nclasses") for value in ("3", 3.0, True, 0, -3)),
            *(("architecture", value, "architecture") for value in ("small", [1], {}, {"size": "8"}, {"size": 0})),
            *(("architecture", {"size": 8, "channels": 1} | odd, "architecture")
              for odd in ({"size": -8}, {"channels": 0}, {"native": "no"}, {"depth": 3})),
            *(("excluded", value, "excluded") for value in (3, ["1"], [-1], [1.5])),
            *(("split_seed", value, "split_seed") for value in ("0", -1, None)),
            *(("nclasses", value, "") for value in (4, 10**12)), ("model", "resnet81", "'resnet18'"),
            *(("model", value, "") for value in ("resnet18", "mobilenetv3_small_100")),
            *(("architecture", {"size": size, "channels": 1}, "") for size in (100, 10**9)),
            ("architecture", {"size": 8, "channels": 3}, ""),
        ],
    )  # fmt: skip
    def test_other_config(self, tmp_path: Path, content: dict[str, Any], key: str, value: Any, told: str) -> None:
        torch.save(content | {"config": content["config"] | {key: value}}, tmp_path / "a.pt")
        assert told in one_line(tmp_path / "a.pt")

    def test_restoring_weights_that_do_not_fit(self) -> None:
        kept = described(trained()[0])
        refuses("do not fit", lambda: replace(kept, architecture=Architecture(TINY, 4, 1, 8)).restore())


def seed_file(path: Path, model: nn.Module, name: str, classes: int = 10, **more: Any) -> Path:
    """Write a checkpoint as the seed system did."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    config = {"model": name, "dataset": "cifar10", "nclasses": classes} | more
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "config": config}, path)
    return path


class TestSeedSystem:
    @torch.no_grad()
    @pytest.mark.parametrize(
        ("name", "size"),
        [("resnet18", 224), ("vit_tiny_patch16_384", 384), ("pit_ti_224", 224), ("efficientformer_l1", 224)],
    )
    def test_model_as_timm_builds_it(self, tmp_path: Path, name: str, size: int) -> None:
        origin = timm.create_model(name, num_classes=10)
        found = load_checkpoint(seed_file(tmp_path / "a.pt", origin, name))
        assert (found.dataset, found.excluded, found.config) == ("cifar10", (), {})
        assert found.architecture == Architecture(name, 10, 3, size, native=True)
        x = noise(3, size, 1)
        assert torch.equal(found.restore().eval()(x), origin.eval()(x))

    def test_small_stem_is_told_from_the_native_one(self, tmp_path: Path) -> None:
        changed = timm.create_model("resnet18", num_classes=10)
        changed.conv1, changed.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
        small = load_checkpoint(seed_file(tmp_path / "b.pt", changed, "resnet18"))
        assert (small.architecture.native, small.architecture.size) == (False, 32)
        x = noise(3, 32)
        with torch.no_grad():
            assert torch.equal(small.restore().eval()(x), changed.eval()(x))

    @pytest.mark.parametrize("name", [TINY, "vit_tiny_patch16_224", "convnext_atto"])
    def test_model_for_small_images(self, tmp_path: Path, name: str) -> None:
        origin = build(Architecture(name, 100, 3, 32))
        found = load_checkpoint(seed_file(tmp_path / "a.pt", origin, name, 100, epochs=30, note="mine"))
        assert found.architecture == Architecture(name, 100, 3, 32)
        assert found.config == {"epochs": 30, "note": "mine"}
        assert same(dict(found.restore().state_dict()), dict(origin.state_dict()))

    @pytest.mark.parametrize(
        ("name", "classes", "told"),
        [(TINY, 9, "do not fit"), (TINY, 11, "do not fit"), ("resnet10t", 10, "do not fit"),
         ("resnet81", 10, "'resnet18'")],
    )  # fmt: skip
    def test_another_model(self, tmp_path: Path, name: str, classes: int, told: str) -> None:
        assert told in one_line(seed_file(tmp_path / "a.pt", build(Architecture(TINY, 10)), name, classes))
