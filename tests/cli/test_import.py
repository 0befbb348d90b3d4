"""Networks and weights of a user's own on the command line."""

from pathlib import Path

import pytest
import torch

from salun.cli import extract, importing, train, unlearn, viz
from salun.models.checkpoint import load_checkpoint
from salun.models.own import MODELS

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10, in_channels=1, size=8, width=6):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(in_channels, width, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.last = nn.Linear(width * 9, classes)

    def forward(self, x):
        return self.last(self.body(x))

class Twice(Net):
    def forward(self, x):
        return super().forward(x), x

class Deep(Net):
    def __init__(self, depth):
        super().__init__()
"""
DATA = "synthetic:n=200,size=8,classes=3,noise=0"


@pytest.fixture(autouse=True)
def own_net(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/net.py").write_text(NET)


def test_a_network_of_ones_own_goes_all_the_way(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = ["--model", "nets/net.py:Net", "--dataset", DATA]
    assert train.main([*model, "--epochs", "2", "--batch-size", "32", "--comment", "base"]) == 0
    path = next(Path("checkpoints").glob("*.pt"))
    assert path.name.startswith("net.py-Net_")
    assert load_checkpoint(path).architecture.model == "net.py:Net"
    for method in ("boundary_expand", "scar"):
        assert unlearn.main([*model, "-CF", "0", "-M", method, "-E", "1", "--nexp", "1", "--no-log"]) == 0
    plugin = ["--plugin", "nets/net.py:Net"]
    assert unlearn.main(["-c", str(path), *plugin, "-CF", "0", "-M", "ft", "-E", "1", "--nexp", "2", "-NL"]) == 0
    assert extract.main(["-D", "checkpoints/command-line", *plugin, "-S", "20"]) == 0
    made = next(Path("checkpoints/command-line").glob("ft*.safetensors"))
    assert viz.main(["cka", str(path), str(made), *plugin, "-S", "20", "--dpi", "20"]) == 0
    capsys.readouterr()
    Path("nets/net.py").write_text(NET + "\n")
    for command in (
        lambda: unlearn.main(["-c", str(path), *plugin, "-CF", "0", "-M", "ft", "--nexp", "2", "-NL", "--dry-run"]),
        lambda: extract.main(["-D", str(path), *plugin, "-S", "20"]),
    ):
        assert command() == 0
        assert f"{path}: the code of 'net.py:Net' has changed since its weights were trained" in caplog.messages
        caplog.clear()
    capsys.readouterr()
    MODELS.clear()
    assert unlearn.main(["-c", str(path), "-CF", "0", "-M", "ft", "--nexp", "1"]) == 2
    assert extract.main(["-D", "checkpoints/command-line"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert all("is built by a file's code, which runs only where it is named: --plugin net.py:Net" in x for x in lines)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("nets/net.py:Nett", "nets/net.py has no class or function 'Nett'; did you mean 'Net'?"),
        ("nets/none.py:Net", "nets/none.py: cannot be read: No such file or directory"),
        ("nets/net.py:Twice", "model 'net.py:Twice': gives a tuple for 2 images; must give logits of shape (2, 3)"),
        ("nets/net.py:Deep", "model 'net.py:Deep': cannot be built: TypeError: "),
        ("nets/net.py", "model 'nets/net.py': name the class or function too, as in nets/net.py:NAME"),
        ("nets/net:Net", "model 'nets/net:Net': unknown; did you mean 'nets/net.py:Net'?"),
        ("Zyx", "model 'Zyx': unknown; give resnet_tiny, a model of timm, FILE.py:NAME, or --plugin FILE for one that"),
        ("timm/resnet17", "model 'resnet17': unknown; did you mean 'resnet"),
    ],
)
def test_a_wrong_name_is_one_line(name: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--model", name, "--dataset", DATA, "--epochs", "1"]) == 2
    found = capsys.readouterr().err.splitlines()
    assert len(found) == 1
    assert line in found[0]
    assert not Path("checkpoints").exists()


def test_foreign_weights_become_a_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", "nets/net.py:Net", "--dataset", DATA]
    assert train.main([*model, "--epochs", "6", "--batch-size", "32", "--comment", "base"]) == 0
    base = load_checkpoint(next(Path("checkpoints").glob("*.pt")))
    preparation = base.config["preparation"]
    normalize = {f"normalize.{name}": torch.tensor(preparation[name]) for name in ("mean", "std")}
    torch.save({"state_dict": {f"module.{k}": v for k, v in (base.weights | normalize).items()}}, "official.pth.tar")
    tested = capsys.readouterr().out.splitlines()[-3].rpartition("test ")[2]
    command = ["official.pth.tar", *model, "--out", "checkpoints/mine.pt"]
    assert importing.main(command) == 0
    captured = capsys.readouterr()
    assert f"test {tested} of " in captured.out
    assert captured.err == ""
    mine = load_checkpoint(Path("checkpoints/mine.pt"))
    assert mine.config["preparation"]["mean"] == pytest.approx(preparation["mean"])
    assert len(mine.config["imported"]["sha256"]) == 64
    assert importing.main(command) == 2
    assert "checkpoints/mine.pt: is there already; --force replaces it" in capsys.readouterr().err
    names = [str(name) for name in base.config["class_names"]]
    turned = [*command, "--force", "--classes", names[1], names[2], names[0]]
    assert importing.main(turned) == 0
    assert "that is near chance, 33.3 %" in capsys.readouterr().err
    assert unlearn.main(["-c", "checkpoints/mine.pt", "-CF", "0", "-M", "ft", "-E", "1", "--nexp", "1", "-NL"]) == 0
    assert "records no split" in capsys.readouterr().err
    assert importing.main([*command, "--force", "--mean", "0.5"]) == 2
    assert "--mean: 1 values for images of 3 channels" in capsys.readouterr().err
