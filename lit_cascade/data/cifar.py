"""CIFAR-10 from the Hugging Face hub or from Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset, TensorDataset

from lit_cascade.data.images import UnlabelledImages, unlabelled_images
from lit_cascade.data.splits import SplitDataModule
from lit_cascade.data.tables import load_table
from lit_cascade.errors import CascadeError, UsageError

_SIDE = 32
"""Height and width of the images."""


class _Images(TensorDataset):
    """Decoded images, with their positions in the published split as ids."""

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        ids: range,
        published: str,
        classes: tuple[str, ...] | None,
    ) -> None:
        super().__init__(images[ids.start : ids.stop], labels[ids.start : ids.stop])
        self.ids = torch.tensor(ids)
        self.source = f"cifar10/{published}"
        self.classes = classes


class CifarData(SplitDataModule):
    """CIFAR-10: 32x32 colour images of ten classes.

    The last `calibration_size` training images are held back as the split `calibration`, if it is
    not 0; `test` is the published test set, and there is no `validation`. Inputs have shape
    (N, 3, 32, 32), uint8.

    Args:
        source: name of a data set on the Hugging Face hub, or a folder with train.parquet and
            test.parquet that have the same columns (`img`, `label`).
        name: of the data in records and tables.
        batch_size: images per batch.
        calibration_size: training images held back.
        augment: shift training images by up to `shift` pixels and mirror half of them.
        shift: most pixels that a training image is moved.
    """

    _whole_batches = True

    def __init__(
        self,
        source: str = "uoft-cs/cifar10",
        name: str = "CIFAR-10",
        batch_size: int = 256,
        calibration_size: int = 5000,
        augment: bool = True,  # noqa: FBT001, FBT002 - a setting
        shift: int = 4,
    ) -> None:
        splits = ("train", "calibration", "test") if calibration_size else ("train", "test")
        super().__init__(name, splits, batch_size)
        self._source, self._calibration_size = source, calibration_size
        self._augment, self._shift = augment, shift

    def prepare_data(self) -> None:
        """Download, once per machine."""
        for published in ("train", "test"):
            self._read(published)

    def unlabelled(self, inputs: Sequence[str]) -> UnlabelledImages:
        """Data module of other images, resized and cropped to 32x32."""
        return unlabelled_images(inputs, self, None, _SIDE)

    def _prepared(self) -> dict[str, Dataset[Any]]:
        datasets: dict[str, Dataset[Any]] = {}
        for published in ("train", "test"):
            images, labels, classes = _decoded(self._read(published), self._source)
            n = len(labels)
            held_back = self._calibration_size if published == "train" else 0
            if not 0 <= held_back < n:
                raise UsageError(
                    f"data.calibration_size: expected 0 to {n - 1} of the {n} training images, "
                    f"got {held_back}."
                )
            parts = {published: range(n - held_back)}
            if held_back:
                parts["calibration"] = range(n - held_back, n)
            for split, ids in parts.items():
                datasets[split] = _Images(images, labels, ids, published, classes)
        return datasets

    def _read(self, published: str) -> Any:
        what = "a folder with train.parquet and test.parquet"
        return load_table(self._source, published, what=what, argument=f"data.source: {what}")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment training batches, on the device."""
        del dataloader_idx
        if not self._augment or self.trainer is None or not self.trainer.training:
            return batch
        images, labels = batch
        return _shifted_and_mirrored(images, self._shift), labels


def _decoded(rows: Any, source: str) -> tuple[Tensor, Tensor, tuple[str, ...] | None]:
    """Images (N, 3, H, W) uint8, labels (N,) int64 and class names of a published split."""
    import numpy as np
    from datasets import Image

    missing = [column for column in ("img", "label") if column not in rows.column_names]
    if missing:
        raise CascadeError(
            f"data.source: {source!r} has no column {missing[0]!r}; "
            f"it has {', '.join(rows.column_names)}."
        )
    try:
        images = rows.cast_column("img", Image())["img"]
        pixels = np.stack([np.asarray(image.convert("RGB")) for image in images])
    except (OSError, TypeError, ValueError) as error:
        raise CascadeError(
            f"data.source: the column 'img' of {source!r} must hold images of one size: {error}"
        ) from error
    names = getattr(rows.features["label"], "names", None)
    labels = torch.tensor(rows["label"])
    classes = tuple(names) if names else None
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, classes


def _shifted_and_mirrored(images: Tensor, shift: int) -> Tensor:
    """Shift and mirror each image (N, C, H, W) at random, with 0 around it.

    torchvision moves a batch as one.
    """
    n, channels, height, width = images.shape
    device = images.device
    top, left = torch.randint(0, 2 * shift + 1, (2, n, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    mirrored = torch.rand(n, 1, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    return pad(images, [shift] * 4)[
        torch.arange(n, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]
