"""The splits of a data module: their loaders, and what tells their samples apart."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any, cast

from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from lit_cascade.errors import UsageError, check_name
from lit_cascade.records import Ids, as_ids

__all__ = [
    "SETUP_STAGES",
    "SplitInfo",
    "check_split",
    "describe",
    "has_split",
    "shared_ids",
    "split_loader",
]

# Lightning's name for the stage in which a data module prepares a split; calibration data is held
# back from training data
SETUP_STAGES = {"validation": "validate", "test": "test", "predict": "predict"}


@dataclass(frozen=True)
class SplitInfo:
    """What is known of a split without reading its samples.

    Attributes:
        n: number of samples.
        ids: what tells them apart, distinct integers or strings.
        source: where the ids are counted; None if unknown.
        classes: class names in label order; None if unknown.
        restricts: whether models that know more classes are to answer among these only.
        findings: what there is to say about the data before they are read.
        metric: name of the official metric, if that is not accuracy.
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
    ids: Ids
    if isinstance(dataset, Subset):
        whole = describe(dataset.dataset)
        chosen = [int(i) for i in dataset.indices]
        ids = (
            whole.ids[chosen]
            if isinstance(whole.ids, Tensor)
            else tuple(whole.ids[i] for i in chosen)
        )
        return replace(whole, n=len(chosen), ids=ids)
    n = len(cast("Sized", dataset))
    ids = as_ids(getattr(dataset, "ids", None), n, f"ids of {type(dataset).__name__}")
    classes = getattr(dataset, "classes", None)
    return SplitInfo(
        n,
        ids,
        getattr(dataset, "source", None),
        tuple(str(c) for c in classes) if isinstance(classes, Sequence) else None,
        bool(getattr(dataset, "restricts_classes", False)),
        tuple(getattr(dataset, "findings", ())),
        getattr(dataset, "metric", None),
    )


def _method(split: str) -> str:
    return f"{'val' if split == 'validation' else split}_dataloader"


def has_split(datamodule: LightningDataModule, split: str) -> bool:
    """Whether a data module has a split: by its `splits` if it lists them, else by its methods."""
    listed = getattr(datamodule, "splits", None)
    if listed is not None:
        return split in listed
    own = getattr(type(datamodule), _method(split), None)
    return own is not None and own is not getattr(LightningDataModule, _method(split), None)


def check_split(datamodule: LightningDataModule, split: str) -> None:
    """Check that a data module has a split.

    Raises:
        UsageError: it has not; the message lists those it has.
    """
    if not has_split(datamodule, split):
        names = [name.removesuffix("_dataloader") for name in dir(datamodule)]
        splits = ["validation" if name == "val" else name for name in names]
        known = [name for name in splits if has_split(datamodule, name)]
        check_name(split, known, f"split of {type(datamodule).__name__}")


def split_loader(datamodule: LightningDataModule, split: str) -> DataLoader[Any]:
    """The loader of a split: `val_dataloader` for validation, else `<split>_dataloader`.

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
    return sorted(set(_listed(a.ids)) & set(_listed(b.ids)))


def _root(dataset: Dataset[Any]) -> Dataset[Any]:
    return _root(dataset.dataset) if isinstance(dataset, Subset) else dataset


def _listed(ids: Ids) -> list[Any]:
    return ids.tolist() if isinstance(ids, Tensor) else list(ids)
