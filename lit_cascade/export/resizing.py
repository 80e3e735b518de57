"""Resizing and cropping of images exactly as Pillow does it, as a program."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lit_cascade.errors import CascadeError
from lit_cascade.models import ImagePreprocessing

_BITS = 22
"""Pillow multiplies by whole numbers: weights times two to this power."""
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _bicubic(x: Tensor) -> Tensor:
    x, a = x.abs(), -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


class PillowResize(nn.Module):
    """Resize and centre crop of one image, as timm's evaluation does by Pillow.

    Pillow resizes along the width, then along the height. Each pass sums bytes times whole numbers
    and rounds to bytes (Pillow's Resample.c), which float64 repeats exactly. Pillow 13 takes the
    height first where it shrinks much: images more than about twice as high as wide then differ.

    Args:
        image: the steps.
        name: of the stage, for messages.

    Raises:
        CascadeError: other steps than a centre crop of an image that is resized by `bilinear` or
            `bicubic` to cover a square.
    """

    def __init__(self, image: ImagePreprocessing, name: str) -> None:
        super().__init__()
        _, height, width = image.input_size
        if image.crop_mode != "center" or height != width or image.interpolation not in _SUPPORT:
            raise CascadeError(
                f"embed_preprocessing: stage {name!r} takes {height} x {width} by "
                f"{image.interpolation} and {image.crop_mode}; expected a square by bilinear or "
                "bicubic and center, which alone are exact in the files."
            )
        self.size = height
        self.short = int(height // image.crop_pct)
        self.support = _SUPPORT[image.interpolation]
        self.filter = {"bilinear": _bilinear, "bicubic": _bicubic}[image.interpolation]

    def forward(self, *inputs: Tensor) -> Tensor:
        """Bytes (channels, size, size) of an image (height, width, channels) uint8."""
        (image,) = inputs
        pixels = image.permute(2, 0, 1).double()
        height, width = (torch.full((), n, dtype=torch.float64) for n in image.shape[:2])
        shorter = torch.minimum(height, width)
        rows = self._weights(height, shorter, image.shape[0])
        columns = self._weights(width, shorter, image.shape[1])
        across = self._bytes(pixels @ columns.T)
        return self._bytes(rows @ across).to(torch.uint8)

    def _weights(self, length: Tensor, shorter: Tensor, count: int) -> Tensor:
        """Weights (size, count) of the pixels along an axis, for the rows of the crop."""
        resized = (self.short * length / shorter).trunc()
        first = ((resized - self.size) / 2).round()
        scale = length / resized
        stretch = scale.clamp(min=1.0)
        centre = (first + torch.arange(self.size, dtype=torch.float64) + 0.5) * scale
        reach = self.support * stretch
        low = (centre - reach + 0.5).trunc().clamp(min=0)[:, None]
        high = torch.minimum((centre + reach + 0.5).trunc(), length)[:, None]
        at = torch.arange(count, dtype=torch.float64)
        inside = (at >= low) & (at < high)
        weights = self.filter((at - centre[:, None] + 0.5) * (1.0 / stretch))
        weights = torch.where(inside, weights, 0.0)
        weights = weights / weights.sum(dim=1, keepdim=True) * 2**_BITS
        return torch.where(weights < 0, weights - 0.5, weights + 0.5).trunc()

    @staticmethod
    def _bytes(sums: Tensor) -> Tensor:
        found: Tensor = ((sums + 2 ** (_BITS - 1)) / 2**_BITS).floor().clamp(0, 255)
        return found
