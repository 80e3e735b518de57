"""Handwritten digits: real images that need no download."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample
from torch.utils.data import Dataset

from lit_cascade.data.splits import SplitDataModule

_DEGREES, _SHIFT, _SCALES = 10.0, 0.125, (0.9, 1.1)


def _moved(images: Tensor) -> Tensor:
    """Shift, rotate and scale each image (N, 1, S, S) at random, with 0 around it.

    The same as torchvision's `RandomAffine` of each image, from the same random numbers, in a tenth
    of the time.
    """
    n, size = len(images), images.shape[-1]
    most = _SHIFT * size
    low = torch.tensor([-_DEGREES, -most, -most, _SCALES[0]])
    high = torch.tensor([_DEGREES, most, most, _SCALES[1]])
    angle, right, down, scale = (torch.rand(n, 4) * (high - low) + low).double().unbind(dim=1)
    cos, sin = (angle * (math.pi / 180)).cos() / scale, (angle * (math.pi / 180)).sin() / scale
    shift = torch.stack([right, down], dim=1).round()[:, :, None] / (size / 2)
    turn = torch.stack([cos, sin, -sin, cos], dim=1).view(n, 2, 2)  # from new to old coordinates
    theta = torch.cat([turn, -turn @ shift], dim=2).float()
    grid = affine_grid(theta, [n, 1, size, size], align_corners=False)
    # with a mask of the image, so that the border fades to 0
    both = torch.cat([images, torch.ones_like(images)], dim=1)
    moved: Tensor = grid_sample(both, grid, align_corners=False)
    return moved[:, :1] * moved[:, 1:]


class _Digits(Dataset[Any]):
    """Part of the digits, with positions in the whole set as ids."""

    source = "sklearn-digits"
    classes = tuple("0123456789")

    def __init__(
        self, images: Tensor, labels: Tensor, ids: Tensor, *, augment: bool = False
    ) -> None:
        self._images, self._labels, self._augment = images[ids], labels[ids], augment
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Samples of a batch in one call."""
        at = torch.tensor([int(position) for position in positions])
        images = self._images[at]
        return list(zip(_moved(images) if self._augment else images, self._labels[at], strict=True))


class DigitsData(SplitDataModule):
    """scikit-learn's 1,797 handwritten digits (UCI, 8x8 grey values from 0 to 16).

    Half of them, stratified by class, are for training; the other half is halved again into
    calibration and validation. Inputs have shape (N, 1, 8, 8).

    Args:
        batch_size: samples per batch.
        split_seed: seed of the split.
        augment: shift, rotate and scale the training images at random.
    """

    class_names = _Digits.classes
    _whole_batches = True

    def __init__(self, batch_size: int = 64, split_seed: int = 0, augment: bool = True) -> None:  # noqa: FBT001, FBT002 - a setting
        super().__init__("digits", ("train", "calibration", "validation"), batch_size)
        self._split_seed, self._augment = split_seed, augment

    def _prepared(self) -> dict[str, Dataset[Any]]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        images = torch.from_numpy(digits.images).float()[:, None]
        labels = torch.from_numpy(digits.target).long()

        def halve(ids: Tensor) -> tuple[Tensor, Tensor]:
            one, other = train_test_split(
                ids.numpy(),
                test_size=0.5,
                stratify=labels[ids].numpy(),
                random_state=self._split_seed,
            )
            return torch.from_numpy(one).sort().values, torch.from_numpy(other).sort().values

        train, rest = halve(torch.arange(len(labels)))
        calibration, validation = halve(rest)
        return {
            "train": _Digits(images, labels, train, augment=self._augment),
            "calibration": _Digits(images, labels, calibration),
            "validation": _Digits(images, labels, validation),
        }
