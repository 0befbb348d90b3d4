"""`resnet_tiny`: a residual network of 0.7 million weights, which needs no timm."""

from collections import OrderedDict

from torch import Tensor, nn

_STEM = 64
_WIDTHS = (16, 32, 64, 128)
_BLOCKS = 2  # of each stage


class TinyResNet(nn.Module):
    """A ResNet-18 whose four stages of two basic blocks are a quarter as wide: 16, 32, 64 and 128 channels.

    Layers and weights have the names that timm's ResNet gives them, and the same random numbers give the same weights.

    Args:
        classes: logits an image.
        channels: colours of the images.

    Source:
        He, Zhang, Ren and Sun, "Deep Residual Learning for Image Recognition", CVPR 2016; weights drawn as in He et
        al., "Delving Deep into Rectifiers", ICCV 2015; residual branches begin at zero as in Goyal et al., "Accurate,
        Large Minibatch SGD", arXiv 1706.02677.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        self.num_features = _WIDTHS[-1]
        self.conv1 = nn.Conv2d(channels, _STEM, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(_STEM)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        before = _STEM
        for number, width in enumerate(_WIDTHS, 1):
            first = _Block(before, width, stride=1 if number == 1 else 2)
            rest = [_Block(width, width) for _ in range(_BLOCKS - 1)]
            self.add_module(f"layer{number}", nn.Sequential(first, *rest))
            before = width
        self.global_pool = nn.Sequential(OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(1)))
        self.fc = nn.Linear(self.num_features, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        for layer in self.modules():
            if isinstance(layer, _Block):
                nn.init.zeros_(layer.bn2.weight)

    def get_classifier(self) -> nn.Module:
        """Give the layer whose output is the logits."""
        return self.fc

    def forward_features(self, x: Tensor) -> Tensor:
        """Compute the last stage's output, (B, 128, H', W'), of (B, C, H, W) model input."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        for number in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Compute logits (B, classes) of the last stage's output, or what they are computed from, (B, 128)."""
        pooled: Tensor = self.global_pool(x)
        logits: Tensor = pooled if pre_logits else self.fc(pooled)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits, (B, classes), of (B, C, H, W) model input."""
        return self.forward_head(self.forward_features(x))


class _Block(nn.Module):
    """Two convolutions, whose output is added to their input."""

    def __init__(self, before: int, width: int, stride: int = 1) -> None:
        super().__init__()
        # Its weights are the first to be drawn, its name is the last.
        downsample = None
        if stride != 1 or before != width:
            shrink = nn.Conv2d(before, width, 1, stride=stride, bias=False)
            downsample = nn.Sequential(shrink, nn.BatchNorm2d(width))
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        inner += x if self.downsample is None else self.downsample(x)
        output: Tensor = self.act2(inner)
        return output
