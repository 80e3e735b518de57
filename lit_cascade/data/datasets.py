"""Any map-style datasets as the splits of a data module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import Dataset

from lit_cascade.data.splits import SplitDataModule
from lit_cascade.errors import UsageError

DatasetFactory = Callable[[], Dataset]  # type: ignore[type-arg] # as users annotate theirs


class Datasets(SplitDataModule):
    """Your own datasets, one per split.

    Each gives `(input, label)` pairs, or dicts with an entry `labels`. A dataset may have `classes`
    (names in label order), `ids` (distinct integers or strings, by default positions) and `source`
    (where it comes from: ids are compared between splits of the same source).

    Args:
        train: class (class_path and init_args) of the training set, or a dataset.
        calibration: the same for the samples that temperatures and thresholds are fitted on.
        validation: the same for the samples that are reported on.
        test: the same for a further set.
        batch_size: samples per batch.
        num_workers: processes that load samples; 0 loads in the main one.
        class_names: names of the classes in label order; by default the datasets' own.
        name: of the data in records and tables.
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
        given = {
            "train": train,
            "calibration": calibration,
            "validation": validation,
            "test": test,
        }
        self._factories = {split: made for split, made in given.items() if made is not None}
        super().__init__(name, list(self._factories), batch_size, num_workers)
        self.class_names: Sequence[str] | None = class_names

    def dataset(self, split: str) -> Dataset[Any]:
        """Dataset of a split, made when it is first asked for.

        Raises:
            UsageError: there is no such split, or it is no dataset.
        """
        if split in self._factories and split not in self._datasets:
            made: Any = self._factories[split]
            made = made() if callable(made) and not isinstance(made, Dataset) else made
            listed = hasattr(made, "__getitem__") and hasattr(made, "__len__")
            if not isinstance(made, Dataset) and not listed:
                raise UsageError(
                    f"data.{split}: expected a dataset with __getitem__ and __len__, or a function "
                    f"that makes one, got {type(made).__name__}."
                )
            self._datasets[split] = made
        return super().dataset(split)
