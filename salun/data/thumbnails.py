"""Small pictures of images, for pages."""

import base64
import io

import numpy as np
from PIL import Image
from torch import Tensor

_SIDE = 48
_SMALLEST_LOSSY = 24


def thumbnail(pixels: Tensor) -> str:
    """Draw an image as a data URI.

    Args:
        pixels: (C, H, W) uint8; of one channel grey, of three colour, of others the first.

    Returns:
        A WebP picture of at most 48 pixels a side, without loss below 24.
    """
    values = np.ascontiguousarray(pixels.cpu().numpy())
    picture = Image.fromarray(values.transpose(1, 2, 0)) if len(values) == 3 else Image.fromarray(values[0])
    picture.thumbnail((_SIDE, _SIDE))
    file = io.BytesIO()
    picture.save(file, "WEBP", lossless=max(picture.size) < _SMALLEST_LOSSY, quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
