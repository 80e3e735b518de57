"""Records as files: in which type their logits are kept, and what one holds in short."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lit_cascade.analysis import score_and_correct
from lit_cascade.core.labels import is_among_best
from lit_cascade.errors import CascadeError
from lit_cascade.records import Record

__all__ = ["Written", "check_fits", "stored_as"]

_LEAST_CLASSES, _ROWS = 10, 4096


@dataclass(frozen=True)
class Written:
    """A record in a folder, in short.

    Attributes:
        name: of the model.
        path: of the file.
        size: of the file, in bytes.
        kept: whether it was there already.
        n: number of samples.
        accuracy: share of right answers, of the logits as they are stored; None without labels.
        top5: share of samples with a label among the five best answers; None below ten classes.
        costs: means per sample, by unit.
        parameters: of the model; 0 if unknown.
        data: name, split and source.
        date: when it was made.
        model: settings of the model.
        classes: number of classes that it answers among.
        fitting: samples per forward pass, where whole batches did not fit into memory.
    """

    name: str
    path: Path
    size: int
    kept: bool
    n: int
    accuracy: float | None
    top5: float | None
    costs: Mapping[str, float]
    parameters: int
    data: Mapping[str, Any]
    date: str
    model: Mapping[str, Any]
    classes: int
    fitting: int | None

    @classmethod
    def of(cls, record: Record, path: Path, size: int, *, kept: bool = False) -> Written:
        """Sum a record up."""
        accuracy = None
        if record.labels is not None or record.correct is not None:
            _, correct = score_and_correct(record)
            accuracy = int(correct.sum()) / len(record)
        return cls(
            name=record.name,
            path=path,
            size=size,
            kept=kept,
            n=len(record),
            accuracy=accuracy,
            top5=_top5(record),
            costs={unit: float(cost.mean()) for unit, cost in record.costs.items()},
            parameters=record.parameters,
            data=dict(record.data),
            date=str(record.info.get("date")),
            model=dict(record.model),
            classes=len(record.classes),
            fitting=record.info.get("samples_per_forward"),
        )


def _top5(record: Record) -> float | None:
    logits, labels = record.logits, record.labels
    if logits is None or labels is None or logits.shape[1] < _LEAST_CLASSES:
        return None
    # in pieces: the logits may lie on disk
    pieces = zip(logits.split(_ROWS), labels.split(_ROWS), strict=True)
    right = sum(int(is_among_best(some.float(), of).sum()) for some, of in pieces)
    return right / len(record)


def check_fits(largest: float, dtype: str, name: str) -> None:
    """Check that a type can hold logits.

    Args:
        largest: their largest magnitude.
        dtype: `float16` or `float32`.
        name: of the model, for the message.

    Raises:
        CascadeError: float16 cannot hold them.
    """
    limit = torch.finfo(torch.float16).max
    if dtype == "float16" and largest > limit:
        raise CascadeError(
            f"record {name!r}: float16 holds logits up to {limit:.0f}, and these reach "
            f"{largest:.6g}; use --dtype float32."
        )


def stored_as(record: Record, dtype: str) -> Record:
    """The record with its logits in a type.

    Args:
        record: with logits.
        dtype: `float16` or `float32`.

    Raises:
        CascadeError: float16 cannot hold them.
    """
    if record.logits is None:
        raise CascadeError(f"record {record.name!r} holds no logits, which have a type.")
    check_fits(float(record.logits.abs().max()), dtype, record.name)
    return replace(record, logits=record.logits.to(getattr(torch, dtype)))
