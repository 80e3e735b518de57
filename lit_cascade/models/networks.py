"""Small networks for images, in plain torch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from lit_cascade.errors import UsageError

__all__ = ["ConvNet", "Perceptron"]


class Perceptron(nn.Module):
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
        super().__init__()
        self.scale = scale
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, classes))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of a batch (N, ...)."""
        logits: Tensor = self.layers(images / self.scale)
        return logits


class ConvNet(nn.Module):
    """3x3 convolutions with batch normalisation, then one linear layer over all positions.

    Args:
        side: height and width of the images.
        widths: channels of each convolution.
        strides: of each convolution.
        channels: of the images.
        classes: number of classes.
        dropout: before the linear layer, 0 to 1.
        scale: inputs are divided by this first.

    Raises:
        UsageError: as many strides as widths are needed.
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
        super().__init__()
        if len(widths) != len(strides):
            raise UsageError(f"strides: expected {len(widths)}, one per width, got {len(strides)}.")
        self.scale = scale
        layers: list[nn.Module] = []
        for width, stride in zip(widths, strides, strict=True):
            layers += [
                nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels, side = width, (side + stride - 1) // stride
        head = nn.Linear(channels * side * side, classes)
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of a batch (N, channels, height, width)."""
        logits: Tensor = self.layers(images / self.scale)
        return logits
