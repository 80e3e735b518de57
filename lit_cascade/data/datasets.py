"""Any map-style datasets as the splits of a data module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from lit_cascade.errors import UsageError

__all__ = ["Datasets"]

DatasetFactory = Callable[[], Dataset]  # type: ignore[type-arg] # as users annotate theirs


class Datasets(LightningDataModule):
    """Your own datasets, one per split.

    Each gives `(input, label)` pairs, or dicts with an entry `labels`. A dataset may have `classes`
    (names in label order), `ids` (what tells its samples apart, by default their positions) and
    `source` (where it comes from: ids are compared between splits of the same source).

    Args:
        train: class (class_path and init_args) of the training set, or a dataset.
        calibration: the same for the samples that temperatures and thresholds are fitted on.
        validation: the same for the samples that are reported on.
        test: the same for a further set.
        batch_size: samples per batch.
        num_workers: processes that load samples; 0 loads in the main one.
        class_names: names of the classes in label order; by default the datasets' own.
        name: what to call the data in records and tables.
    """

    def __init__(
        self,
        train: DatasetFactory | None = None,
        calibration: DatasetFactory | None = None,
        validation: DatasetFactory | None = None,
        test: DatasetFactory | None = None,
        batch_size: int = 64,
        num_workers: int = 0,
        class_names: list[str] | None = None,
        name: str = "data",
    ) -> None:
        super().__init__()
        self.name = name
        self.class_names: Sequence[str] | None = class_names
        self._factories = {
            "train": train,
            "calibration": calibration,
            "validation": validation,
            "test": test,
        }
        self._made: dict[str, Dataset[Any]] = {}
        self._batch_size = batch_size
        self._num_workers = num_workers

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that were given."""
        return tuple(name for name, factory in self._factories.items() if factory is not None)

    def _dataset(self, split: str) -> Dataset[Any]:
        if split not in self._made:
            factory = self._factories[split]
            if factory is None:
                raise UsageError(
                    f"data: there is no split {split!r}; "
                    f"given are {', '.join(self.splits) or 'none'}."
                )
            self._made[split] = factory if isinstance(factory, Dataset) else factory()
        return self._made[split]

    def _loader(self, split: str, *, shuffle: bool = False) -> DataLoader[Any]:
        return DataLoader(
            self._dataset(split),
            batch_size=self._batch_size,
            shuffle=shuffle,
            num_workers=self._num_workers,
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of the training split, shuffled."""
        return self._loader("train", shuffle=True)

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Batches of the calibration split."""
        return self._loader("calibration")

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the validation split."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the test split."""
        return self._loader("test")
