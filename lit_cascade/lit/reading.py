"""Functions over any Trainer: read a split once, on any number of processes, in a known order."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar, cast

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
from lit_cascade.utilities.units import be, counted

Check = Callable[[Ids, Mapping[str, Any]], None]
"""Called with the ids and the description of the data before any model runs; may raise to stop."""

T = TypeVar("T")


@dataclass(frozen=True)
class SplitPreview:
    """Description of a split before it is read.

    Attributes:
        ids: of the samples to be read, in ascending order.
        classes: names in label order; None if the data does not name them.
        data: name, source and split, how many samples are read if there is a limit, and `findings`.
        batch_size: number of samples per batch.
        restricts: whether models that know more classes answer among these only.
    """

    ids: Ids
    classes: tuple[str, ...] | None
    data: dict[str, Any]
    batch_size: int
    restricts: bool


@dataclass(frozen=True)
class SplitOutput(SplitPreview):
    """Output of a loop over a split.

    Attributes:
        rows: outputs of the steps, in the order of the ids. Samples that are left out have no row;
            `data` lists their ids and reasons as `left_out`, and counts the samples of each remark
            on the others as `remarks`.
        samples_per_forward: by stage, where whole batches did not fit into memory.
    """

    rows: dict[str, Tensor]
    samples_per_forward: dict[str, int]

    def samples(self, known: tuple[str, ...] | None, width: int) -> Samples:
        """The labelled samples, their classes named by the data, the model, or their numbers.

        Args:
            known: class names of the model, if it has any.
            width: number of logits.

        Raises:
            CascadeError: labels that are no classes of the model.
        """
        names = self.classes or known or tuple(str(c) for c in range(width))
        if len(names) != width:
            classes = counted(width, "class")
            raise CascadeError(f"the model has {classes} and the data has {len(names)}.")
        what = f"split {self.data['split']!r} of {self.data['name']}"
        labels = self.rows["labels"]
        samples = Samples(self.ids, whole_numbers(labels, f"{what}: labels"), names)
        samples.check(len(labels), width, what)
        return samples


def on_main_process(trainer: Trainer, work: Callable[[], T]) -> T:
    """Call a function on the main process and return its result on every process.

    Every process must take part, after a loop of the Trainer has started them.

    Raises:
        CascadeError: raised by the function, on the main process.
        SystemExit: on the other processes, with the exit code of that error.
    """
    result: T | None = None
    failure: CascadeError | None = None
    if trainer.is_global_zero:
        try:
            result = work()
        except CascadeError as error:
            failure = error
    code = None if failure is None else failure.exit_code
    result, code = trainer.strategy.broadcast((result, code))
    if failure is not None:
        raise failure
    if code is not None:
        raise SystemExit(code)
    return cast("T", result)


@contextmanager
def attached(trainer: Trainer, *callbacks: Callback) -> Iterator[None]:
    """Add callbacks to a Trainer for the loops that run inside."""
    present: list[Callback] = trainer.callbacks  # type: ignore[attr-defined] # set by Lightning
    present.extend(callbacks)
    try:
        yield
    finally:
        for callback in callbacks:
            present.remove(callback)


@contextmanager
def evaluating(trainer: Trainer, *callbacks: Callback) -> Iterator[None]:
    """Add callbacks for loops over `EvaluationData`, without the warnings that do not apply."""
    with attached(trainer, *callbacks), warnings.catch_warnings():
        # its sampler reads each sample once, and small sets need no workers
        warnings.filterwarnings("ignore", ".*it is recommended to use `Trainer.devices=1.*")
        warnings.filterwarnings("ignore", ".*does not have many workers.*")
        yield


@contextmanager
def limited(trainer: Trainer, batches: int) -> Iterator[None]:
    """Limit validation loops to a number of batches."""
    before, trainer.limit_val_batches = trainer.limit_val_batches, batches
    try:
        yield
    finally:
        trainer.limit_val_batches = before


class _Caller(LightningModule):
    """Calls a function in its first validation step, with `inner` on the Trainer's device."""

    def __init__(self, work: Callable[[], Any], inner: LightningModule | None) -> None:
        super().__init__()
        self.inner, self._work = inner, work
        self.result: Any = None

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        del batch, batch_idx
        self.result = self._work()


def call_in_loop(
    trainer: Trainer, work: Callable[[], T], data: Any, inner: LightningModule | None = None
) -> T:
    """Call a function once, in a validation loop of one batch, and return its result."""
    caller = _Caller(work, inner)
    with limited(trainer, 1):
        trainer.validate(caller, data, verbose=False)
    return cast("T", caller.result)


def read_split(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    split: str,
    check: Check | None = None,
    spool: Spool | None = None,
    window: int | None = None,
) -> Callable[[], SplitOutput]:
    """Run a loop over a split, each sample once. Every process must take part.

    Args:
        trainer: runs the loop.
        model: its steps return rows.
        datamodule: the data.
        split: of the data.
        check: see `Check`.
        spool: keeps the logits of the model's only stage on disk.
        window: number of consecutive batches that go to the same process. If given, the test loop
            runs, in which a cascade defers; otherwise the validation loop.

    Returns:
        A function that builds the output. Call it on the main process, where alone it may raise.

    Raises:
        UsageError: the data has no such split.
        CascadeError: an empty split, or a model and data with different classes.
    """
    live = window is not None
    method = "preprocessings_to_run" if live else "preprocessings"
    preprocessings = getattr(model, method)()
    data = evaluation_data(trainer, model, datamodule, split, preprocessings, check, window or 1)
    collector = Collector(spool)
    with explained(), evaluating(trainer, collector):
        (trainer.test if live else trainer.validate)(model, datamodule=data, verbose=False)
    return lambda: _output(trainer, data, collector)


def preview_split(
    trainer: Trainer, model: StagesModule, datamodule: LightningDataModule, split: str
) -> SplitPreview:
    """Set a split up and describe it without reading it. Every process must take part.

    Raises:
        UsageError: the data has no such split.
        CascadeError: an empty split.
    """
    data = evaluation_data(trainer, model, datamodule, split, model.preprocessings())
    limit = trainer.limit_val_batches
    with limited(trainer, 0):
        trainer.validate(model, datamodule=data, verbose=False)
    count = len(data.batches)
    read = min(count, limit) if isinstance(limit, int) else int(count * limit)
    return _preview(data, sorted(chain.from_iterable(data.batches[:read])))


def _has_limit(trainer: Trainer) -> bool:
    limits = (trainer.limit_val_batches, trainer.limit_test_batches)
    return any(not isinstance(limit, float) or limit != 1.0 for limit in limits)


def evaluation_data(
    trainer: Trainer,
    model: LightningModule,
    datamodule: LightningDataModule,
    split: str,
    preprocessings: Sequence[Preprocessing | None],
    check: Check | None = None,
    window: int = 1,
) -> EvaluationData:
    """A split as a loop of a Trainer reads it.

    Args:
        trainer: for its limits and processes.
        model: stages are aligned with the classes of the data once these are known.
        datamodule: the data.
        split: of the data.
        preprocessings: applied to every sample.
        check: see `Check`.
        window: number of consecutive batches that go to the same process.

    Raises:
        UsageError: a limit of batches on several processes.
    """
    if _has_limit(trainer) and trainer.world_size > 1:
        raise UsageError(
            "trainer: a limit of batches applies to each process, so the figures would depend on "
            "the number of processes; use one process, or no limit."
        )

    def ready(info: SplitInfo) -> None:
        if isinstance(model, StagesModule):
            model.align(_class_names(datamodule, info), fewer=info.restricts)
        if check is not None:
            check(info.ids, _described(datamodule, split, info))

    return EvaluationData(datamodule, split, ready, preprocessings, window)


def description_of(data: EvaluationData) -> dict[str, Any]:
    """Name, split and source of data that were set up."""
    return _preview(data, data.positions).data


def _output(trainer: Trainer, data: EvaluationData, collector: Collector) -> SplitOutput:
    rows, info = collector.rows, data.info
    if rows is None or info is None:
        raise CascadeError(
            f"no samples of the split {data.split!r} were read: is there a limit of 0 batches?"
        )
    left_out = {position for position, _ in collector.notes.left_out}
    if left_out and not len(rows["positions"]):
        raise CascadeError(
            f"no sample of the split {data.split!r} could be read, of {len(left_out):,}; "
            f"first: {collector.notes.left_out[0][1]}."
        )
    read = rows["positions"].tolist()
    dealt = [position for position in data.positions if position not in left_out]
    if read != dealt and (not _has_limit(trainer) or len(set(read)) != len(read)):
        raise CascadeError(f"samples dealt out: {len(dealt)}; came back: {len(read)}.")
    preview = _preview(data, sorted({*read, *left_out}))
    ids, order = info.ids[rows["positions"]].sort()
    if collector.notes.remarks:
        remarks = Counter(text for _, text in collector.notes.remarks)
        preview.data["remarks"] = dict(sorted(remarks.items()))
    if left_out:
        preview.data["left_out"] = sorted(
            [info.ids[position], reason] for position, reason in collector.notes.left_out
        )
    preview = replace(preview, ids=ids)
    return SplitOutput(
        **vars(preview),
        rows=collector.rows_in(order),
        samples_per_forward=collector.notes.samples_per_forward,
    )


def _preview(data: EvaluationData, read: list[int]) -> SplitPreview:
    """Describe a split of which the samples at some positions, in ascending order, are read."""
    if data.info is None:
        raise CascadeError(f"the split {data.split!r} was not set up.")
    described = _described(data.inner, data.split, data.info)
    if read != data.positions:
        described["limited_to"] = f"{len(read)} of {counted(len(data.positions), 'sample')}"
    return SplitPreview(
        ids=data.info.ids[read].sort()[0],
        classes=_class_names(data.inner, data.info),
        data=described,
        batch_size=data.batch_size,
        restricts=data.info.restricts,
    )


def _described(datamodule: LightningDataModule, split: str, info: SplitInfo) -> dict[str, Any]:
    name = getattr(datamodule, "name", None) or type(datamodule).__name__
    described: dict[str, Any] = {"name": name, "split": split, "source": info.source}
    described |= {"metric": info.metric} if info.metric else {}
    return described | ({"findings": list(info.findings)} if info.findings else {})


def _class_names(datamodule: LightningDataModule, info: SplitInfo) -> tuple[str, ...] | None:
    """Class names that the data module was given, else those of the dataset."""
    names = getattr(datamodule, "class_names", None)
    return info.classes if names is None else tuple(str(name) for name in names)


def not_reported(datamodule: LightningDataModule, split: str, *, allowed: bool) -> Check:
    """A check that refuses to fit on samples of the split that is reported on.

    Args:
        datamodule: the data.
        split: to fit on.
        allowed: whether the splits may overlap.

    Returns:
        A `Check` that raises `CascadeError`.
    """

    def check(ids: Ids, data: Mapping[str, Any]) -> None:
        shared = shared_ids(datamodule, split, "validation")
        if shared and not allowed:
            raise CascadeError(
                f"{len(shared)} of the {counted(len(ids), 'sample')} of {data['name']}, split "
                f"{data['split']!r}, {be(len(shared))} also in the split 'validation' that is "
                f"reported on (first id {shared[0]!r}). Use another split, or add --allow_overlap."
            )

    return check
