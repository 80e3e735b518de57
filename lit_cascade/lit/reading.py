"""A Trainer that reads a split once, over any number of processes, and brings the rows together."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lit_cascade.data import EvaluationData, SplitInfo, shared_ids
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.callbacks import Collector
from lit_cascade.lit.failures import explained
from lit_cascade.lit.spool import Spool
from lit_cascade.lit.stages import StagesModule
from lit_cascade.live import Preprocessing
from lit_cascade.records import Ids, Samples, whole_numbers

__all__ = ["Check", "Found", "ReadingTrainer", "Sight", "not_reported"]

Check = Callable[[Ids, Mapping[str, Any]], None]
"""Called with the ids and the description of the data before any model runs; may raise to stop."""


@dataclass(frozen=True)
class Sight:
    """What is known of a split that nobody has read yet.

    Attributes:
        ids: of the samples that a loop would read, in order.
        classes: names in label order; None if the data does not say.
        data: name, source and split, how many samples are read if there is a limit, and `findings`.
        batch_size: samples per batch.
        restricts: whether models that know more classes answer among these only.
    """

    ids: Ids
    classes: tuple[str, ...] | None
    data: dict[str, Any]
    batch_size: int
    restricts: bool


@dataclass(frozen=True)
class Found(Sight):
    """What a loop gave.

    Attributes:
        rows: what the steps returned, in the order of the ids. Samples that are left out have
            none, and `data` names them in `left_out`; `remarks` counts what else there is to say.
        fitting: samples per forward pass of stages whose whole batches did not fit into memory.
    """

    rows: dict[str, Tensor]
    fitting: dict[str, int]

    def samples(self, known: tuple[str, ...] | None, width: int) -> Samples:
        """The samples, with class names from the data, the model's checkpoints, or as numbers.

        Raises:
            CascadeError: labels that are no classes of the model.
        """
        names = self.classes or known or tuple(str(c) for c in range(width))
        if len(names) != width:
            raise CascadeError(f"the model has {width} classes and the data has {len(names)}.")
        what = f"split {self.data['split']!r} of {self.data['name']}"
        labels = self.rows["labels"]
        samples = Samples(self.ids, whole_numbers(labels, f"{what}: labels"), names)
        samples.check(len(labels), width, what)
        return samples


class ReadingTrainer(Trainer):
    """A Lightning Trainer that reads a split for evaluation: each sample once, in a known order."""

    def read(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        split: str,
        loop: Any,
        check: Check | None = None,
        spool: Spool | None = None,
        window: int | None = None,
    ) -> Callable[[], Found]:
        """Run a loop over a split; every process must take part.

        Args:
            model: its steps return rows.
            datamodule: the data.
            split: of the data.
            loop: `validate` or `test` of this Trainer.
            check: see `Check`.
            spool: keeps the logits of the model's one stage on disk.
            window: the loop runs the cascade for real, and so many batches in a row go to the same
                process.

        Returns:
            What gives the rows, on the main process: apart, since it may raise there alone.

        Raises:
            UsageError: the data has no such split.
            CascadeError: an empty split, or a model and data with different classes.
        """
        views = "preprocessings" if window is None else "preprocessings_to_run"
        wanted: list[Preprocessing | None] = getattr(model, views, list)()
        data = self.data_for(model, datamodule, split, wanted, check, window or 1)
        collector = Collector(spool)
        with explained(), self.attached(collector):
            loop(model, datamodule=data, verbose=False)
        return lambda: self._found(data, collector)

    def look(self, model: LightningModule, datamodule: LightningDataModule, split: str) -> Sight:
        """Set a split up and describe it without reading it; every process must take part.

        Raises:
            UsageError: the data has no such split.
            CascadeError: an empty split.
        """
        wanted: list[Preprocessing | None] = getattr(model, "preprocessings", list)()
        data = self.data_for(model, datamodule, split, wanted)
        limit, self.limit_val_batches = self.limit_val_batches, 0
        try:
            self.validate(model, datamodule=data, verbose=False)
        finally:
            self.limit_val_batches = limit
        count = len(data.batches)
        read = min(count, limit) if isinstance(limit, int) else int(count * limit)
        return self._sight(data, sorted(chain.from_iterable(data.batches[:read])))

    def add_callback(self, callback: Callback) -> None:
        """Add a callback to those that the Trainer was made with."""
        self._callbacks().append(callback)

    def _callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = self.callbacks  # type: ignore[attr-defined] # set by Lightning
        return callbacks

    @property
    def _limited(self) -> bool:
        limits = (self.limit_val_batches, self.limit_test_batches)
        return any(not isinstance(limit, float) or limit != 1.0 for limit in limits)

    def data_for(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        split: str,
        wanted: Sequence[Preprocessing | None],
        check: Check | None = None,
        window: int = 1,
    ) -> EvaluationData:
        """A split as a loop of this Trainer reads it.

        Args:
            model: aligned with the classes of the data once these are known.
            datamodule: the data.
            split: of the data.
            wanted: preprocessing of every sample.
            check: see `Check`.
            window: so many batches in a row go to the same process.

        Raises:
            UsageError: a limit of batches on several processes.
        """
        if self._limited and self.world_size > 1:
            raise UsageError(
                "trainer: a limit of batches holds for each process, so that the numbers would "
                "depend on how many there are; use one process, or no limit."
            )

        def ready(info: SplitInfo) -> None:
            if isinstance(model, StagesModule):
                model.align(_names(datamodule, info), fewer=info.restricts)
            if check is not None:
                check(info.ids, _described(datamodule, split, info))

        return EvaluationData(datamodule, split, ready, wanted, window)

    def description(self, data: EvaluationData) -> dict[str, Any]:
        """Name, split and source of data that were set up."""
        return self._sight(data, data.positions).data

    def _found(self, data: EvaluationData, collector: Collector) -> Found:
        rows, info = collector.rows, data.info
        if rows is None or info is None:
            raise CascadeError(
                f"no samples of the split {data.split!r} were read: is there a limit of 0 batches?"
            )
        gone = {position for position, _ in collector.left_out}
        if gone and not len(rows["positions"]):
            raise CascadeError(
                f"none of the {len(gone)} samples of the split {data.split!r} could be read; "
                f"first: {collector.left_out[0][1]}."
            )
        read = rows["positions"].tolist()
        dealt = [position for position in data.positions if position not in gone]
        if read != dealt and (not self._limited or len(set(read)) != len(read)):
            raise CascadeError(f"{len(dealt)} samples were dealt out and {len(read)} came back.")
        sight = self._sight(data, sorted({*read, *gone}))
        said = _said(info.ids, collector)
        ids, order = info.ids[rows["positions"]].sort()
        ordered = {key: value[order] for key, value in rows.items()} | collector.spooled(order)
        seen = replace(sight, ids=ids, data=sight.data | said)
        return Found(**vars(seen), rows=ordered, fitting=collector.fitting)

    @staticmethod
    def _sight(data: EvaluationData, read: list[int]) -> Sight:
        """Describe the samples at the positions that are read, in rising order."""
        if data.info is None:
            raise CascadeError(f"the split {data.split!r} was not set up.")
        described = _described(data.inner, data.split, data.info)
        if read != data.positions:
            described["limited_to"] = f"{len(read)} of {len(data.positions)} samples"
        return Sight(
            ids=data.info.ids[read].sort()[0],
            classes=_names(data.inner, data.info),
            data=described,
            batch_size=data.batch_size,
            restricts=data.info.restricts,
        )

    @contextmanager
    def attached(self, callback: Callback) -> Iterator[None]:
        """Have a callback for the loops that run inside, over samples that are each read once."""
        self.add_callback(callback)
        try:
            with warnings.catch_warnings():
                # each sample is read once by a sampler of our own; and small sets need no workers
                warnings.filterwarnings("ignore", ".*it is recommended to use `Trainer.devices=1.*")
                warnings.filterwarnings("ignore", ".*does not have many workers.*")
                yield
        finally:
            self._callbacks().remove(callback)


def _described(datamodule: LightningDataModule, split: str, info: SplitInfo) -> dict[str, Any]:
    name = getattr(datamodule, "name", None) or type(datamodule).__name__
    described: dict[str, Any] = {"name": name, "split": split, "source": info.source}
    described |= {"metric": info.metric} if info.metric else {}
    return described | ({"findings": list(info.findings)} if info.findings else {})


def _said(ids: Ids, collector: Collector) -> dict[str, Any]:
    """What the batches said of their samples, for the description of the data.

    `remarks` has the number of samples per text; `left_out` the id of each and the reason.
    """
    said: dict[str, Any] = {}
    if collector.remarks:
        said["remarks"] = dict(sorted(Counter(text for _, text in collector.remarks).items()))
    if collector.left_out:
        gone = [(ids[position], reason) for position, reason in collector.left_out]
        said["left_out"] = [list(pair) for pair in sorted(gone)]
    return said


def _names(datamodule: LightningDataModule, info: SplitInfo) -> tuple[str, ...] | None:
    """Class names that the data module was given, else those of the dataset."""
    names = getattr(datamodule, "class_names", None)
    return info.classes if names is None else tuple(str(name) for name in names)


def not_reported(
    datamodule: Any, split: str, *, allowed: bool
) -> Callable[[Any, Mapping[str, Any]], None]:
    """What refuses, before any model runs, to fit on samples of the split that is reported on.

    Args:
        datamodule: the data.
        split: to fit on.
        allowed: whether samples in both splits are let through.

    Returns:
        A check that is given the ids and the description of the data, and raises `CascadeError`.
    """

    def check(ids: Any, data: Mapping[str, Any]) -> None:
        shared = shared_ids(datamodule, split, "validation")
        if shared and not allowed:
            raise CascadeError(
                f"{len(shared)} of the {len(ids)} samples of {data['name']}, split "
                f"{data['split']!r}, are also in the split 'validation' that is reported on (first "
                f"id {shared[0]!r}). Use another split, or add --allow_overlap."
            )

    return check
