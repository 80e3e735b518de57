"""Folders of records: found, checked against each other, and reduced to a zoo one at a time.

Records as files: in which type their logits are kept, and what one holds in short.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_cascade.core import fit_temperature, is_among_best, probabilities_of
from lit_cascade.core.search import Zoo
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.records.costs import Prices, priced
from lit_cascade.records.record import FORMAT, Record, score_and_correct
from lit_cascade.records.samples import Samples
from lit_cascade.utilities.files import bundled
from lit_cascade.utilities.tensors import CHECKPOINT_FORMAT

__all__ = ["RecordedModel", "RecordedZoo", "Written", "check_fits", "find_records", "stored_as"]


_UNNAMED = "unnamed"

_MEMORY = 2**30
"""Bytes of probabilities that an average of answers may keep at hand."""


@dataclass(frozen=True)
class RecordedModel:
    """What a record says of its model, without what the model said.

    Attributes:
        name: of the model.
        path: of the record.
        parameters: their number; 0 if unknown.
        mean_cost: per sample.
        model: settings that made the model.
        info: library versions, date.
    """

    name: str
    path: Path
    parameters: int
    mean_cost: float
    model: Mapping[str, Any]
    info: Mapping[str, Any]


def _header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CascadeError(
            f"records: {str(path)!r} cannot be read as a record: {error}."
        ) from error


def _split_in(header: Mapping[str, str]) -> str:
    try:
        data = json.loads(header.get("data", "{}"))
    except (ValueError, RecursionError):  # damaged: reading the record will say how
        return _UNNAMED
    return str((data.get("split") if isinstance(data, dict) else None) or _UNNAMED)


def _files(places: Sequence[str]) -> list[Path]:
    found: dict[Path, None] = {}
    for place in places:
        here = Path(place).expanduser()
        if not here.exists() and not here.is_absolute():
            there = bundled("checkpoints").parent / place
            here = there if there.exists() else here
        if here.is_dir():
            # a hidden file is what a killed recording has left
            inside = sorted(p for p in here.rglob("*.safetensors") if not p.name.startswith("."))
            found |= dict.fromkeys(inside)
        elif here.is_file():
            found[here] = None
        else:
            raise UsageError(f"--records: there is no file or folder {place!r}.")
    return list(found)


def find_records(places: Sequence[str]) -> dict[str, list[Path]]:
    """The record files in folders, by the split that they are of.

    Args:
        places: files, or folders that are searched with all folders in them. Checkpoints of this
            package are passed over.

    Raises:
        UsageError: no such place, or no records in it.
        CascadeError: a .safetensors file that is neither a record nor a checkpoint.
    """
    splits: dict[str, list[Path]] = {}
    for path in _files(places):
        header = _header(path)
        kind = header.get("format")
        if kind == CHECKPOINT_FORMAT:
            continue
        if kind != FORMAT:
            raise CascadeError(
                f"records: {str(path)!r} is not a record: its header says format {kind!r}, "
                f"expected {FORMAT!r}. Give the folder that holds the records alone."
            )
        splits.setdefault(_split_in(header), []).append(path)
    if not splits:
        raise UsageError(
            f"--records: there are no records in {', '.join(map(repr, places))}; "
            "`lit-cascade record` and `lit-cascade import` write them."
        )
    return splits


class RecordedZoo:
    """The records of many models on one split. Logits are read one model at a time.

    Args:
        paths: record files of different models.
        unit: of the cost.
        prices: costs that were measured apart from the records; by default they hold them.

    Raises:
        UsageError: fewer than two records, or one model twice.
        CascadeError: records of different samples, labels or classes, without the unit, or damaged.
    """

    def __init__(
        self, paths: Sequence[Path], unit: str = "flops", prices: Prices | None = None
    ) -> None:
        self.unit = unit
        self._prices = prices or {}
        models: list[RecordedModel] = []
        first: tuple[Path, Record] | None = None
        for path in paths:
            record = self._load(path)
            if first is None:
                first = (path, record)
            else:
                _check_alike(first, (path, record))
            for other in models:
                if other.name == record.name:
                    raise UsageError(
                        f"records: the model {record.name!r} is there twice, as "
                        f"{str(other.path)!r} and {str(path)!r}."
                    )
            models.append(
                RecordedModel(
                    name=record.name,
                    path=path,
                    parameters=record.parameters,
                    mean_cost=float(_cost(record, unit, path).mean()),
                    model=record.model,
                    info=record.info,
                )
            )
        if first is None or len(models) < 2:
            held = f"only {str(paths[0])!r}" if paths else "none"
            raise UsageError(f"records: a search needs those of at least 2 models, got {held}.")
        self.models = sorted(models, key=lambda model: (model.mean_cost, model.name))
        self.samples: Samples = first[1].samples
        self.data: Mapping[str, Any] = first[1].data

    def _load(self, path: Path) -> Record:
        (record,) = priced([Record.load(path)], self.unit, self._prices)
        return record

    def __len__(self) -> int:
        return len(self.models)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the models, cheapest first."""
        return tuple(model.name for model in self.models)

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(self.samples.ids)

    def in_order_of(self, names: Sequence[str]) -> None:
        """Put the models into another order.

        Raises:
            CascadeError: other models.
        """
        missing = sorted(set(names) ^ set(self.names))
        if missing:
            raise CascadeError(
                f"records: {', '.join(missing)} was not recorded on both splits that are searched."
            )
        self.models = [self.models[self.names.index(name)] for name in names]

    def temperatures(self, rows: Tensor | None = None) -> tuple[float, ...]:
        """A temperature per model, fitted to all samples or some.

        Raises:
            CascadeError: a record without logits.
        """
        found = []
        for model in self.models:
            logits, labels = Record.load(model.path).logits_for("a temperature")
            if rows is not None:
                logits, labels = logits[rows], labels[rows]
            found.append(fit_temperature(logits, labels).temperature)
        return tuple(found)

    def zoo(
        self,
        score: str = "max_softmax",
        combine: str = "later",
        temperatures: Sequence[float] | None = None,
    ) -> Zoo:
        """What a search needs of the records.

        Args:
            score: a name in `lit_cascade.core.scores.SCORES`; a record without logits has its own.
            combine: a name in `lit_cascade.core.combination.COMBINATIONS`.
            temperatures: one per model; by default 1.

        Raises:
            CascadeError: a temperature or an average for a record without logits.
        """
        divisors = tuple(temperatures or (1.0,) * len(self))
        scores = torch.empty(len(self), self.n)
        correct = torch.empty(len(self), self.n, dtype=torch.bool)
        costs = []
        for k, (model, temperature) in enumerate(zip(self.models, divisors, strict=True)):
            record = self._load(model.path)
            scores[k], correct[k] = score_and_correct(record, score, temperature)
            cost = record.cost(self.unit)
            costs.append(cost[:1] if bool((cost == cost[0]).all()) else cost)
        constant = all(len(cost) == 1 for cost in costs)

        def read(model: int) -> Tensor:
            logits, _ = Record.load(self.models[model].path).logits_for("an average of answers")
            return probabilities_of(logits, divisors[model])

        size = 4 * self.n * max(1, len(self.samples.classes))
        average = combine == "average"
        return Zoo(
            names=self.names,
            scores=scores,
            correct=correct,
            costs=torch.stack(costs if constant else [cost.expand(self.n) for cost in costs]),
            combine=combine,
            probabilities=lru_cache(maxsize=max(2, _MEMORY // size))(read) if average else None,
            labels=self.samples.labels if average else None,
        )


def _cost(record: Record, unit: str, path: Path) -> Tensor:
    try:
        return record.cost(unit)
    except CascadeError as error:
        raise CascadeError(f"{error} ({str(path)!r}; choose with --cost)") from error


def _check_alike(one: tuple[Path, Record], other: tuple[Path, Record]) -> None:
    difference = one[1].samples.difference(other[1].samples)
    if difference:
        raise CascadeError(f"records {str(one[0])!r} and {str(other[0])!r} differ in {difference}.")


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
