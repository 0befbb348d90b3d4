"""What the classification head sees of images, in one piece."""

import torch
from torch import Tensor, nn

from salun.data.images import Images
from salun.models.features import embed


@torch.no_grad()
def features_of(model: nn.Module, images: Images) -> Tensor:
    """(N, D) float32, in evaluation mode; the model is left in the mode that it was in."""
    training = model.training
    model.eval()
    features = embed(model, images.view(images.pixels[images.rows], None))
    model.train(training)
    return features
