"""Handwritten digits: real images that need no download."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

__all__ = ["DigitsData"]


class _Digits(Dataset[Any]):
    """A part of the digits, with their positions in the whole set as ids."""

    source = "sklearn-digits"
    classes = tuple("0123456789")

    def __init__(
        self, images: Tensor, labels: Tensor, ids: Tensor, augment: v2.Transform | None
    ) -> None:
        self._images, self._labels, self._augment = images[ids], labels[ids], augment
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        image = self._images[position]
        return (image if self._augment is None else self._augment(image)), self._labels[position]


class DigitsData(LightningDataModule):
    """scikit-learn's 1,797 handwritten digits (UCI, 8x8 grey values from 0 to 16).

    They are split, stratified by class, into halves: one to train on, and the other halved again
    into calibration and validation. Inputs have shape (N, 1, 8, 8).

    Args:
        batch_size: samples per batch.
        split_seed: seed of the split.
        augment: shift, turn and scale the training images a little.
    """

    name = "digits"
    class_names = _Digits.classes

    def __init__(self, batch_size: int = 64, split_seed: int = 0, augment: bool = True) -> None:  # noqa: FBT001, FBT002 - a setting
        super().__init__()
        self._batch_size = batch_size
        self._split_seed = split_seed
        self._augment = (
            v2.RandomAffine(
                degrees=10,
                translate=(0.125, 0.125),
                scale=(0.9, 1.1),
                interpolation=v2.InterpolationMode.BILINEAR,
            )
            if augment
            else None
        )
        self._splits: dict[str, _Digits] = {}

    def setup(self, stage: str | None = None) -> None:
        """Load and split the images."""
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        del stage
        if self._splits:
            return
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
        self._splits = {
            "train": _Digits(images, labels, train, self._augment),
            "calibration": _Digits(images, labels, calibration, None),
            "validation": _Digits(images, labels, validation, None),
        }

    def _loader(self, split: str, *, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            self._splits[split], batch_size=self._batch_size, shuffle=shuffle, drop_last=shuffle
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training split, shuffled and augmented."""
        return self._loader("train", shuffle=True)

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Batches of the calibration split."""
        return self._loader("calibration")

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation split."""
        return self._loader("validation")
