"""A small convolutional network for comparisons on a processor: `--model examples/small_cnn.py:SmallCNN`."""

from torch import Tensor, nn


def _block(channels: int, width: int, side: int) -> nn.Sequential:
    """Halve the image: a convolution with stride 2, batch normalisation and ReLU."""
    convolution = nn.Conv2d(channels, width, side, stride=2, padding=side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU())


class SmallCNN(nn.Module):
    """Three convolutions of 16, 32 and 64 channels, their mean over the image, and a linear layer."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(_block(in_chans, 16, 5), _block(16, 32, 3), _block(32, 64, 3))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Give the logits."""
        features: Tensor = self.features(images).mean((2, 3))
        logits: Tensor = self.classifier(features)
        return logits
