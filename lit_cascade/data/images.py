"""Labelled images of any set: folders by class, the hub, Parquet files, tar shards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from lit_cascade.data.drawing import drawn
from lit_cascade.data.folders import FolderImages, holds_class_folders
from lit_cascade.data.image_set import ImageSet, Unknown, Unreadable
from lit_cascade.data.label_sets import LabelSets
from lit_cascade.data.rows import RowImages
from lit_cascade.data.tables import load_table
from lit_cascade.errors import UsageError, check_name
from lit_cascade.utilities.class_names import class_list

__all__ = ["ImageData", "workers_for"]

_OWN = "folders"
_MOST_WORKERS = 8
_PATIENCE = 600
"""Seconds without a batch after which a worker counts as lost."""


class ImageData(LightningDataModule):
    """Labelled images: a folder per class, a data set of the hub, Parquet files, or tar shards.

    The images come as they are: each model of a cascade sees them through its own preprocessing.
    They are converted to RGB as timm does it. The split `validation` holds them all, but for those
    that are held back as the split `calibration`, if that is asked for.

    Args:
        source: folder of class folders (or of `train`, `val`, ... with these); name of a data set
            on the Hugging Face hub; folder or path of Parquet files or of tar shards.
        published_split: which of the published splits to read, such as validation or test; by
            default the validation set if there is one, else the test set.
        classes: over which classes the models may answer, in label order: the name of a list such
            as imagenet-1k, imagenet-a or imagenet-r, a text file with one name per line, or names;
            `folders` for exactly those that the images have. By default those of the images too,
            but then a model that knows others is refused.
        label_sets: other labels, several of which may be right: imagenet-real, or a JSON file that
            maps names of images to lists of class names. Images without any are left out.
        calibration_size: images held back as the split `calibration`, drawn by their ids.
        seed: of that drawing.
        unreadable: `leave_out` images that cannot be read, and say so, or `stop`.
        unknown_classes: `stop` at images of classes that are not among `classes`, or `leave_out`.
        image_column: of a table; by default the only one of images.
        label_column: of a table; by default the only one of labels.
        name: what to call the data in records and tables; by default after the source.
        batch_size: images per batch.
        num_workers: processes that decode and preprocess; by default one per core, at most 8, of
            which each process of a machine has its share. Where one gives no batch for ten
            minutes, that is an error.
    """

    def __init__(
        self,
        source: str = "ILSVRC/imagenet-1k",
        published_split: str | None = None,
        classes: list[str] | str | None = None,
        label_sets: str | None = None,
        calibration_size: int = 0,
        seed: int = 0,
        unreadable: Unreadable = "leave_out",
        unknown_classes: Unknown = "stop",
        image_column: str | None = None,
        label_column: str | None = None,
        name: str | None = None,
        batch_size: int = 256,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        check_name(unreadable, ("leave_out", "stop"), "data.unreadable")
        check_name(unknown_classes, ("leave_out", "stop"), "data.unknown_classes")
        self.name = name or Path(source).name
        self.splits = ("calibration", "validation") if calibration_size else ("validation",)
        self._source, self._published = source, published_split
        self._classes, self._label_sets = classes, label_sets
        self._calibration_size, self._seed = calibration_size, seed
        self._unreadable: Unreadable = unreadable
        self._unknown: Unknown = unknown_classes
        self._columns = image_column, label_column
        self._batch_size = batch_size
        self._num_workers = num_workers
        self._found: FolderImages | RowImages | None = None
        self._parts: dict[str, Dataset[Any]] = {}

    def prepare_data(self) -> None:
        """Download, once per machine."""
        self._images()

    def setup(self, stage: str | None = None) -> None:
        """Find the images, and hold some back."""
        del stage
        if self._parts:
            return
        images = self._images()
        classes: Sequence[str] | None = None
        if self._classes == _OWN:
            classes = images.names
        elif self._classes is not None:
            classes = class_list(self._classes, "data.classes")
        sets = None
        if self._label_sets is not None:
            if classes is None:
                raise UsageError("data.label_sets: needs data.classes, which they are counted in.")
            sets = LabelSets.load(self._label_sets, classes)
        whole = ImageSet(
            images, self._name_of_ids(images), classes, sets, self._unreadable, self._unknown
        )
        n, held_back = len(whole), self._calibration_size
        if not 0 <= held_back < max(n, 1):
            raise UsageError(
                f"data.calibration_size: expected 0 to {n - 1} of the {n} images, got {held_back}."
            )
        if not held_back:
            self._parts = {"validation": whole}
            return
        order = drawn(whole.ids, self._seed)
        self._parts = {
            "calibration": Subset(whole, sorted(order[:held_back])),
            "validation": Subset(whole, sorted(order[held_back:])),
        }

    def _name_of_ids(self, images: FolderImages | RowImages) -> str:
        """Where the ids are counted: the set and its split, whether that was named or found."""
        here = Path(self._source).expanduser()
        base = here.name if here.exists() else self._source
        if isinstance(images, FolderImages):
            inside = images.root.relative_to(here).as_posix()
            return base if inside == "." else f"{base}/{inside}"
        split = self._published or images.split
        return f"{base}/{split}" if split else base

    def _images(self) -> FolderImages | RowImages:
        if self._found is None:
            folder = Path(self._source).expanduser()
            if folder.is_dir() and holds_class_folders(folder):
                self._found = FolderImages.scan(folder, self._published)
            else:
                rows = load_table(self._source, self._published, what="a folder of images by class")
                self._found = RowImages.of(rows, *self._columns)
        return self._found

    def _loader(self, split: str) -> DataLoader[Any]:
        if split not in self._parts:
            raise UsageError(
                f"data: there is no split {split!r}; hold some images back with "
                "data.init_args.calibration_size."
            )
        workers = self._num_workers
        if workers is None:
            workers = workers_for(1 if self.trainer is None else self.trainer.num_devices)
        return DataLoader(
            self._parts[split],
            batch_size=self._batch_size,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            timeout=_PATIENCE if workers else 0,
        )

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Batches of the images that were held back."""
        return self._loader("calibration")

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the other images."""
        return self._loader("validation")


def workers_for(processes: int) -> int:
    """How many workers load images, by default, where so many processes share a machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_WORKERS, max(1, (cores or 1) // processes))
