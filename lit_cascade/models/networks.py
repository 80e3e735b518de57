"""Small networks for images, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from lit_cascade.errors import UsageError
from lit_cascade.models.network import Network

_FEW_CHANNELS = 8


class _Scaled(Network):
    """Layers on inputs that are divided by a constant."""

    def __init__(self, layers: Sequence[nn.Module], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of a batch of images (N, ...)."""
        logits: Tensor = self.layers(images / self.scale)
        return logits


class Perceptron(_Scaled):
    """Fully connected network with batch normalisation.

    Args:
        inputs: number of input values; images are flattened.
        widths: units of each hidden layer.
        classes: number of classes.
        scale: inputs are divided by this first.
    """

    def __init__(
        self, inputs: int, widths: Sequence[int], classes: int = 10, scale: float = 1.0
    ) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        super().__init__([*layers, nn.Linear(inputs, classes)], scale)


class ConvNet(_Scaled):
    """3x3 convolutions with batch normalisation, then one linear layer over all positions.

    Args:
        side: height and width of the images.
        widths: channels of each convolution.
        strides: stride of each convolution.
        channels: channels of the images.
        classes: number of classes.
        dropout: dropout rate before the linear layer.
        scale: inputs are divided by this first.

    Raises:
        UsageError: `widths` and `strides` differ in length.
    """

    def __init__(
        self,
        side: int,
        widths: Sequence[int],
        strides: Sequence[int],
        channels: int = 1,
        classes: int = 10,
        dropout: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        if len(widths) != len(strides):
            raise UsageError(f"strides: expected {len(widths)}, one per width, got {len(strides)}.")
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels, side = width, (side + stride - 1) // stride
        head = nn.Linear(channels * side * side, classes)
        super().__init__([*layers, nn.Flatten(), nn.Dropout(dropout), head], scale)


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which is a 1x1 convolution where shapes differ."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(inputs, width, 3, stride)
        self.second = _convolution(width, width, 3, 1)
        same = inputs == width and stride == 1
        self.shortcut = nn.Identity() if same else _convolution(inputs, width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return relu(self.second(relu(self.first(x))) + self.shortcut(x))


def _convolution(inputs: int, width: int, size: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, size, stride=stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(width),
    )


class ResNet(Network):
    """Residual network for small images (arXiv:1512.03385, section 4.2).

    With `widths` (16, 32, 64) and n blocks in each of the three groups it is that paper's network
    of 6n + 2 layers, except that shortcuts between groups are 1x1 convolutions.

    Args:
        widths: channels of each group of blocks; every group but the first halves the image.
        blocks: number of blocks in each group.
        stem_stride: stride of the first convolution; 2 makes all later layers four times cheaper.
        classes: number of classes.
        mean: mean of each channel of the images; subtracted first.
        std: standard deviation of each channel; inputs are divided by it next.

    Raises:
        UsageError: `widths` and `blocks` differ in length, a group has no block, or `mean` and
            `std` differ in length.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        widths: Sequence[int],
        blocks: Sequence[int],
        stem_stride: int = 1,
        classes: int = 10,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks):
            raise UsageError(f"blocks: expected {len(widths)}, one per width, got {len(blocks)}.")
        if not widths or min(blocks) < 1:
            raise UsageError(f"blocks: expected groups of 1 or more, got {list(blocks)}.")
        if len(mean) != len(std):
            raise UsageError(f"std: expected {len(mean)}, one per channel, got {len(std)}.")
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        width = widths[0]
        self.stem = _convolution(len(mean), width, 3, stem_stride)
        groups: list[nn.Module] = []
        for group, (wide, deep) in enumerate(zip(widths, blocks, strict=True)):
            for block in range(deep):
                groups.append(_Block(width, wide, 2 if group and not block else 1))
                width = wide
        self.groups = nn.Sequential(*groups)
        self.head = nn.Linear(width, classes)
        # convolutions on CPU and GPU are faster in channels_last; but with few channels torch 2.15
        # writes out of bounds in the backward pass of a shortcut
        few = min(widths) < _FEW_CHANNELS
        self._format = torch.contiguous_format if few else torch.channels_last
        self.to(memory_format=self._format)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, channels, height, width) of any dtype."""
        x = ((images - self.mean) / self.std).contiguous(memory_format=self._format)
        x = self.groups(relu(self.stem(x)))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits
