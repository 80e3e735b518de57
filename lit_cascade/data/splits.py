"""Splits of data modules: their datasets, loaders, and the ids of their samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Subset

from lit_cascade.errors import UsageError, check_name
from lit_cascade.records import Ids

# the `stage` of `LightningDataModule.setup` that prepares a split, if it is not "fit":
# calibration data are held back from training data
SETUP_STAGES = {"validation": "validate", "test": "test", "predict": "predict"}

_MOST_WORKERS = 8


STDIN = "-"
"""Name of standard input among inputs."""


def name_of_inputs(sources: Sequence[str]) -> str:
    """Name of the data in several files or folders.

    Examples:
        >>> name_of_inputs(["new/photos"]), name_of_inputs(["a.jpg", "b.jpg", "c.jpg"])
        ('photos', 'a.jpg and 2 more')
    """
    first = Path(sources[0]).expanduser()
    name = "standard input" if sources[0] == STDIN else first.name or first.absolute().name
    return name if len(sources) == 1 else f"{name} and {len(sources) - 1} more"


class SplitDataModule(LightningDataModule):
    """Base of data modules with one dataset per split.

    A subclass makes its datasets in `_prepared`, or overrides `dataset`.

    Args:
        name: of the data in records and tables.
        splits: names of the splits.
        batch_size: samples per batch.
        num_workers: processes that load samples; None for one per core, at most 8, of which each
            process of a machine has its share.

    Attributes:
        batch_size, num_workers: see above.
    """

    hint = ""
    """How to get a split that is missing, for the message."""
    _whole_batches = False
    """Whether training leaves out an incomplete last batch."""
    _pin_memory = False
    """Whether workers load into pinned memory where there is a GPU."""
    _timeout = 0
    """Seconds without a batch after which a worker counts as lost; 0 for never."""

    def __init__(
        self, name: str, splits: Sequence[str], batch_size: int, num_workers: int | None = 0
    ) -> None:
        super().__init__()
        for argument, value, least in (
            ("batch_size", batch_size, 1),
            ("num_workers", num_workers or 0, 0),
        ):
            if value < least:
                raise UsageError(f"{argument}: expected at least {least}, got {value}.")
        self.name = name
        self._splits = tuple(splits)
        self.batch_size, self.num_workers = batch_size, num_workers
        self._datasets: dict[str, Dataset[Any]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Prepare the datasets once, unless they are made when they are asked for.

        Raises:
            UsageError: data that are missing, or do not fit.
        """
        del stage
        if not self._datasets:
            self._datasets = self._prepared()

    def _prepared(self) -> dict[str, Dataset[Any]]:
        """Datasets by split."""
        return {}

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return self._splits

    def dataset(self, split: str) -> Dataset[Any]:
        """Dataset of a split.

        Raises:
            UsageError: there is no such split.
        """
        if split not in self.splits:
            raise UsageError(
                f"data: there is no split {split!r}; there are {', '.join(self.splits) or 'none'}."
                f"{self.hint}"
            )
        self.setup()
        return self._datasets[split]

    def unlabelled(self, inputs: Sequence[str]) -> SplitDataModule:
        """Data module of other samples without labels, as the split `predict`.

        Args:
            inputs: paths of files or folders.

        Raises:
            UsageError: a path that does not exist, or data that are not read from such files.
        """
        raise UsageError(
            f"input: {type(self).__name__} reads no files of your own, got {inputs[0]!r}; those "
            "that do are ImageData, CifarData, UnlabelledImages (images), TextData, GlueData, "
            "UnlabelledTexts (texts)."
        )

    def _batches(self, split: str, dataset: Any) -> dict[str, Any]:
        """Arguments of the `DataLoader` that compose the batches of a split."""
        del dataset
        train = split == "train"
        return {
            "batch_size": self.batch_size,
            "shuffle": train,
            "drop_last": train and self._whole_batches,
        }

    def _loader(self, split: str) -> DataLoader[Any]:
        dataset = self.dataset(split)
        workers = self.num_workers
        if workers is None:
            workers = _share_of_cores(1 if self.trainer is None else self.trainer.num_devices)
        return DataLoader(
            dataset,
            num_workers=workers,
            pin_memory=self._pin_memory and torch.cuda.is_available(),
            timeout=self._timeout if workers else 0,
            **(self._batches(split, dataset) | self._collate()),
        )

    def _collate(self) -> dict[str, Any]:
        """The collate function of a cascade that a Trainer runs over these data as they are.

        Empty without: `EvaluationData` and `TrainingData` apply preprocessing themselves.
        """
        if self.trainer is None or getattr(self.trainer, "datamodule", None) is not self:
            return {}
        own = getattr(self.trainer.lightning_module, "collate", None)
        return {} if own is None else {"collate_fn": own}

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled batches of the split `train`."""
        return self._loader("train")

    def development_dataloader(self) -> DataLoader[Any]:
        """Batches of the split `development`, held back for choices made in training."""
        return self._loader("development")

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Batches of the split `calibration`, held back for temperatures and thresholds."""
        return self._loader("calibration")

    def val_dataloader(self) -> Any:
        """Batches of the split `validation`; none for a Trainer where there is no such split."""
        if self.trainer is not None and "validation" not in self.splits:
            return []
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Batches of the split `test`."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Batches of the split `predict`, without labels."""
        return self._loader("predict")


def _share_of_cores(processes: int) -> int:
    """Default number of workers where several processes share a machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(_MOST_WORKERS, max(1, (cores or 1) // processes))


@dataclass(frozen=True)
class SplitInfo:
    """Description of a split, made without reading its samples.

    Attributes:
        n: number of samples.
        ids: distinct integers or strings, one per sample.
        source: data set and split that the ids belong to; None if unknown.
        classes: class names in label order; None if unknown.
        restricts: whether models that know more classes are to answer among these only.
        findings: remarks on the data before they are read.
        metric: name of the official metric; None for accuracy.
    """

    n: int
    ids: Ids
    source: str | None
    classes: tuple[str, ...] | None
    restricts: bool = False
    findings: tuple[str, ...] = ()
    metric: str | None = None


def describe(dataset: Dataset[Any]) -> SplitInfo:
    """Ids, source and class names of a dataset, looking through `Subset`.

    A dataset may offer `ids`, `source`, `classes`, `restricts_classes`, `findings` and `metric`;
    the ids of others are their positions.
    """
    if isinstance(dataset, Subset):
        whole = describe(dataset.dataset)
        chosen = [int(i) for i in dataset.indices]
        return replace(whole, n=len(chosen), ids=whole.ids[chosen])
    n = len(cast("Sized", dataset))
    return SplitInfo(
        n,
        Ids.of(getattr(dataset, "ids", None), n, f"ids of {type(dataset).__name__}"),
        getattr(dataset, "source", None),
        *class_names_of(dataset),
        tuple(getattr(dataset, "findings", ())),
        getattr(dataset, "metric", None),
    )


def class_names_of(dataset: Any) -> tuple[tuple[str, ...] | None, bool]:
    """Class names of a dataset in label order, looking through `Subset`; None if it has none.

    Also whether models that know more classes are to answer among these only.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    classes = getattr(dataset, "classes", None)
    names = tuple(str(c) for c in classes) if isinstance(classes, Sequence) else None
    return names, bool(getattr(dataset, "restricts_classes", False))


def shuffled(ids: Ids | torch.Tensor, seed: int) -> list[int]:
    """Positions in a pseudo-random order of the ids, by the SHA-256 of seed and id.

    One sample more or less does not change the order of the others.
    """
    keys = [hashlib.sha256(f"{seed} {one}".encode()).digest() for one in ids.tolist()]
    return sorted(range(len(keys)), key=keys.__getitem__)


def check_sizes(sizes: Mapping[str, float]) -> None:
    """Check the sizes of splits that are held back.

    Args:
        sizes: by split: a number of samples, or a share below 1; 0 for none.

    Raises:
        UsageError: a negative size, or a fraction above 1.
    """
    for split, size in sizes.items():
        if not size >= 0 or (size > 1 and size != int(size)):
            raise UsageError(
                f"data.{split}_size: expected a number of samples, or a share from 0 to below 1, "
                f"got {size:g}."
            )


def held_back(order: Sequence[int], sizes: Mapping[str, float], what: str) -> dict[str, list[int]]:
    """Positions of the samples that are held back, by split: the first of an order.

    Args:
        order: of all samples.
        sizes: as for `check_sizes`; earlier ones do not depend on later ones.
        what: the samples, for the message.

    Raises:
        UsageError: all samples or more would be held back.

    Examples:
        >>> held_back([3, 1, 0, 2], {"calibration": 0.5, "development": 1}, "images")
        {'calibration': [1, 3], 'development': [0]}
    """
    counts = {
        split: int(size) if size >= 1 else max(1, round(size * len(order)))
        for split, size in sizes.items()
        if size
    }
    if sum(counts.values()) >= len(order):
        options = ", ".join(f"data.{split}_size" for split in counts)
        raise UsageError(
            f"{options}: expected {'together ' * (len(counts) > 1)}less than the {len(order):,} "
            f"{what}, got {sum(counts.values()):,}."
        )
    first, held = 0, {}
    for split, count in counts.items():
        held[split] = sorted(order[first : first + count])
        first += count
    return held


def _method(split: str) -> str:
    return f"{'val' if split == 'validation' else split}_dataloader"


def has_split(datamodule: LightningDataModule, split: str) -> bool:
    """Whether a data module has a split: by its `splits` if it lists them, else by its loaders."""
    listed = getattr(datamodule, "splits", None)
    if listed is not None:
        return split in listed
    method = getattr(datamodule, _method(split), None)  # `from_datasets` sets those of an instance
    inherited = getattr(LightningDataModule, _method(split), None)
    return method is not None and getattr(method, "__func__", method) is not inherited


def check_split(datamodule: LightningDataModule, split: str) -> None:
    """Check that a data module has a split.

    Raises:
        UsageError: it has not; the message lists those it has, and how to get others.
    """
    if not has_split(datamodule, split):
        names = [name.removesuffix("_dataloader") for name in dir(datamodule)]
        splits = ["validation" if name == "val" else name for name in names]
        known = [name for name in splits if has_split(datamodule, name)]
        try:
            check_name(split, known, f"split of {type(datamodule).__name__}")
        except UsageError as error:
            raise UsageError(f"{error}{getattr(datamodule, 'hint', '')}") from None


def split_loader(datamodule: LightningDataModule, split: str) -> DataLoader[Any]:
    """Loader of a split: `val_dataloader` for validation, else `<split>_dataloader`.

    Raises:
        UsageError: the data module has no such split; the message lists those it has.
    """
    check_split(datamodule, split)
    loader = getattr(datamodule, _method(split))()
    if not isinstance(loader, DataLoader):
        raise UsageError(
            f"split: {_method(split)} of {type(datamodule).__name__} must return one DataLoader, "
            f"got {type(loader).__name__}."
        )
    return loader


def shared_ids(datamodule: LightningDataModule, one: str, other: str) -> list[Any]:
    """Ids that two splits of a data module have in common, in order.

    Ids are compared where both splits are parts of one dataset, or name the same source.
    """
    for split in (one, other):
        datamodule.setup(SETUP_STAGES.get(split, "fit"))
    try:
        first, second = (split_loader(datamodule, split).dataset for split in (one, other))
    except UsageError:  # one of the splits does not exist: nothing is shared
        return []
    a, b = describe(first), describe(second)
    if _root(first) is not _root(second) and (a.source is None or a.source != b.source):
        return []
    return sorted(set(a.ids) & set(b.ids))


def _root(dataset: Dataset[Any]) -> Dataset[Any]:
    return _root(dataset.dataset) if isinstance(dataset, Subset) else dataset
