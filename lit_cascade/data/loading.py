"""Reading a split of any data module in batches that carry the positions of their samples.

For evaluation every sample is read once. Whole batches are dealt to the processes, so that each
batch is composed as in a single process and its logits are the same to the last bit. A sample that
is left out, such as a file that cannot be read, keeps its place in the batch for the same reason.
For training the batches are those of the data module's own loader.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Sized
from copy import copy
from types import TracebackType
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    default_collate,
    get_worker_info,
)

from lit_cascade.data.splits import SETUP_STAGES, SplitInfo, check_split, describe, split_loader
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import Preprocessing, Views, WithRemarks, split_labels, view_key

Names = tuple[str, ...] | None
Preprocessings = Sequence[Preprocessing | None]
"""Distinct ones of the models that see the batches; None stands for models without."""


class RawSample(NamedTuple):
    """Sample with remarks on how it was read.

    Attributes:
        input: an image, a text, or whatever else the models' preprocessing takes.
        label: an integer, or a tensor of several, filled up with -1.
        remarks: what was done to the input, such as a conversion; counted and reported.
        left_out: reason why the sample is left out, such as an unreadable file; `input` is then a
            placeholder whose prediction is dropped.
        stop: whether to end the run for that reason.
    """

    input: Any
    label: Any
    remarks: tuple[str, ...] = ()
    left_out: str | None = None
    stop: bool = False


class PositionedBatch(NamedTuple):
    """Batch of a split with the positions of its samples.

    Attributes:
        batch: output of the loader's collate function, or `(Views, labels)`.
        positions: (N,) int64, in main memory for training. In evaluation those of samples of other
            processes and of samples that are left out are negative (bitwise complement). For
            training samples that are left out are dropped, unless all of a batch are: then all
            positions are negative.
        remarks: pairs of position and text.
        left_out: pairs of position and reason.
        error: reason to end the run. It is raised by the process that reads the batch, as an
            exception raised in a worker would be wrapped in the worker's traceback.
    """

    batch: Any
    positions: Tensor
    remarks: tuple[tuple[int, str], ...] = ()
    left_out: tuple[tuple[int, str], ...] = ()
    error: CascadeError | None = None


def _input_and_label(sample: Any) -> tuple[Any, Any]:
    if isinstance(sample, RawSample):
        return sample.input, sample.label
    if isinstance(sample, (tuple, list)) and len(sample) == 2:
        return sample[0], sample[1]
    if isinstance(sample, Mapping):
        for key in ("labels", "label"):
            if key in sample:
                rest = {name: value for name, value in sample.items() if name != key}
                return (next(iter(rest.values())) if len(rest) == 1 else rest), sample[key]
    raise CascadeError(
        "the data must give pairs of (input, label) or dicts with an entry 'labels', "
        f"got {type(sample).__name__}."
    )


def _prepare(sample: Any, preprocessings: Preprocessings) -> Any:
    """Sample with a view for each preprocessing; the sample itself if there is none."""
    if all(one is None for one in preprocessings):
        return sample
    raw, label = _input_and_label(sample)
    views = Views()
    remarks = list(sample.remarks) if isinstance(sample, RawSample) else []
    for one in preprocessings:
        view = raw if one is None else one(raw)
        if isinstance(view, WithRemarks):
            remarks.extend(view.remarks)
            view = view.tensors
        views[view_key(one)] = view
    return RawSample(views, label, tuple(remarks))


def _is_left_out(sample: Any) -> bool:
    """Whether a sample is left out, unless the run is to stop at such samples."""
    if not isinstance(sample, RawSample) or sample.left_out is None:
        return False
    if sample.stop:
        raise CascadeError(
            f"data: {sample.left_out}. To leave out what cannot be read: "
            "data.init_args.unreadable: leave_out."
        )
    return True


class _Positioned(Dataset[PositionedBatch]):
    """Dataset of whole batches: loads, prepares and collates the samples at some positions.

    For training a dataset may have a method `augmented`, which is called in place of `__getitem__`.
    """

    def __init__(
        self, loader: DataLoader[Any], preprocessings: Preprocessings, *, training: bool
    ) -> None:
        self.dataset, self._collate = loader.dataset, loader.collate_fn
        self._preprocessings, self._training = preprocessings, training

    def __len__(self) -> int:
        return len(cast("Sized", self.dataset))

    def __getitem__(self, positions: Sequence[Any]) -> PositionedBatch:
        _ignore_interrupts()
        try:
            return self._load(positions)
        except CascadeError as error:
            return PositionedBatch(None, torch.empty(0, dtype=torch.int64), error=error)

    __getitems__ = __getitem__  # the name by which a loader with a batch sampler calls it

    def _samples(self, positions: Sequence[Any]) -> Iterator[Any]:
        if not self._training:
            yield from (self.dataset[key if key >= 0 else ~key] for key in positions)
        elif hasattr(self.dataset, "__getitems__"):
            yield from self.dataset.__getitems__(positions)
        else:
            yield from map(getattr(self.dataset, "augmented", self.dataset.__getitem__), positions)

    def _load(self, keys: Sequence[Any]) -> PositionedBatch:
        samples: list[Any] = []
        positions: list[int] = []
        remarks: list[tuple[int, str]] = []
        left_out: list[tuple[int, str]] = []
        for key, sample in zip(keys, self._samples(keys), strict=True):
            position = int(key)
            mine = position >= 0  # else the sample of another process
            gone = mine and _is_left_out(sample)
            prepared = _prepare(sample, self._preprocessings)
            if mine and isinstance(prepared, RawSample):
                remarks += [(position, remark) for remark in prepared.remarks]
            if gone:
                left_out.append((position, sample.left_out))
                position = ~position
            samples.append(prepared)
            positions.append(position)
        readable = [i for i, position in enumerate(positions) if position >= 0]
        if self._training and readable:
            samples = [samples[i] for i in readable]
            positions = [positions[i] for i in readable]
        batch = self._batch(samples)
        return PositionedBatch(batch, torch.tensor(positions), tuple(remarks), tuple(left_out))

    def _batch(self, samples: list[Any]) -> Any:
        """Batch of the models' views, or the output of the user's collate function."""
        first = samples[0]
        if not isinstance(first, RawSample):
            return self._collate(samples)
        if not isinstance(first.input, Views):
            return _collated([(sample.input, sample.label) for sample in samples], self._collate)
        views = _views([sample.input for sample in samples], self._preprocessings)
        return views, _labels(samples)


def _views(inputs: Sequence[Views], preprocessings: Preprocessings) -> Views:
    """A batch of each view."""
    batch = Views()
    for one in preprocessings:
        key = view_key(one)
        collate = getattr(one, "collate", default_collate)
        batch[key] = _collated([views[key] for views in inputs], collate)
    return batch


def _labels(samples: Sequence[RawSample]) -> Tensor:
    return torch.as_tensor(default_collate([sample.label for sample in samples]))


class Collate:
    """Collate function of a plain `DataLoader` of raw samples, such as images or texts.

    It applies the preprocessing of each model, and gives batches of `(Views, labels)`, or of
    `Views` if the samples are neither pairs of (input, label) nor dicts with an entry `labels`.

    Args:
        preprocessings: distinct ones of the models; None stands for models without.
    """

    def __init__(self, preprocessings: Preprocessings) -> None:
        self._preprocessings = tuple(preprocessings)

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Make a batch.

        Raises:
            CascadeError: a sample that could not be read.
        """
        for sample in samples:
            if isinstance(sample, RawSample) and sample.left_out is not None:
                raise CascadeError(
                    f"data: {sample.left_out}. A plain data loader cannot leave it out; "
                    "CascadeTrainer and the commands can."
                )
        labelled = isinstance(samples[0], (tuple, list, Mapping))
        pairs = samples if labelled else [(sample, -1) for sample in samples]
        prepared = [_prepare(sample, self._preprocessings) for sample in pairs]
        views = _views([sample.input for sample in prepared], self._preprocessings)
        return (views, _labels(prepared)) if labelled else views


def _ignore_interrupts() -> None:
    """In a worker: leave interrupts to the main process, which ends its workers.

    A terminal interrupts all processes at once: each worker would print a traceback, or look like
    one that crashed. Nor need a worker report that the main process has closed its queue.
    """
    if get_worker_info() is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.excepthook = _unless_disconnected  # called by the thread that feeds the queue, too


def _unless_disconnected(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def _collated(samples: list[Any], collate: Callable[[list[Any]], Any]) -> Any:
    """Collate samples; raw ones, such as images, need a model with preprocessing."""
    try:
        return collate(samples)
    except (TypeError, RuntimeError) as error:
        kind = samples[0][0] if isinstance(samples[0], tuple) else samples[0]
        raise CascadeError(
            f"data: no batch can be made of {type(kind).__name__}s ({error}). A model without "
            "preprocessing of its own takes the data as they are: give a model with preprocessing, "
            "such as lit_cascade.models.Timm, or data of tensors."
        ) from error


def _as_is(batch: Any) -> Any:
    return batch


def _like(
    loader: DataLoader[Any],
    preprocessings: Preprocessings,
    *,
    training: bool = False,
    **options: Any,
) -> DataLoader[Any]:
    """Loader of `PositionedBatch` with another's dataset, collate function and workers."""
    return DataLoader(
        _Positioned(loader, preprocessings, training=training),
        collate_fn=_as_is,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
        **options,
    )


class DealtBatches(DistributedSampler[list[int]]):
    """Deals whole batches to processes in turn; none is repeated or lost.

    A `DistributedSampler` so that Lightning leaves it alone instead of padding it. The arguments
    are those of `evaluation_loader`.
    """

    def __init__(
        self,
        batches: list[list[int]],
        rank: int,
        world_size: int,
        window: int,
        done: Collection[int],
    ) -> None:
        super().__init__(cast("Dataset[Any]", batches), world_size, rank, shuffle=False)
        self.batches = batches
        self.positions = sorted(position for batch in batches for position in batch)
        left = [one for one in range(-(-len(batches) // window)) if one not in done]
        starts = [one * window for one in left[rank::world_size]]
        mine = [batch for start in starts for batch in batches[start : start + window]]
        # a process without a batch would skip the loop while the others wait for it at the end: it
        # reads the first batch, whose samples are marked as those of another process
        self._mine = mine or [[~position for position in batches[0]]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._mine)

    def __len__(self) -> int:
        return len(self._mine)


def _positions(loader: DataLoader[Any], n: int) -> list[int]:
    """Positions that a loader reads, in ascending order whatever its sampler's order."""
    whole = (SequentialSampler, RandomSampler, DistributedSampler)
    if isinstance(loader.sampler, whole) and not getattr(loader.sampler, "replacement", False):
        return list(range(n))
    drawn = [int(position) for position in loader.sampler]
    if len(set(drawn)) != len(drawn):
        raise UsageError(
            f"data: {type(loader.sampler).__name__} draws samples more than once; "
            "evaluation reads each once: give a sampler without replacement."
        )
    return sorted(drawn)


def evaluation_loader(
    loader: DataLoader[Any],
    rank: int = 0,
    world_size: int = 1,
    preprocessings: Preprocessings = (),
    window: int = 1,
    done: Collection[int] = (),
) -> DataLoader[Any]:
    """Loader of the same dataset in order, without repeats, for one of several processes.

    Args:
        loader: the user's; its dataset, batch size or batch sampler, collate function and workers
            are kept.
        rank: this process.
        world_size: number of processes.
        preprocessings: distinct ones of the models; None for models without.
        window: number of consecutive batches that go to the same process.
        done: numbers of windows to skip.

    Returns:
        A loader of `PositionedBatch`.

    Raises:
        UsageError: the dataset is iterable, without positions.
        CascadeError: it is empty.
    """
    dataset = loader.dataset
    if isinstance(dataset, IterableDataset):
        raise UsageError(
            "data: an iterable dataset cannot be read in a fixed order by several processes; "
            "give a map-style dataset, with __len__ and __getitem__."
        )
    n = len(cast("Sized", dataset))
    if n == 0:
        raise CascadeError("data: the split is empty: no samples to evaluate.")
    if loader.batch_size is not None:
        size, order = loader.batch_size, _positions(loader, n)
        batches = [order[i : i + size] for i in range(0, len(order), size)]
    else:
        # a batch sampler of this package that shuffles also has batches for evaluation
        in_order = getattr(loader.batch_sampler, "in_order", None)
        composed = loader.batch_sampler if in_order is None else in_order()
        batches = [list(batch) for batch in composed or [[i] for i in range(n)]]
    dealt = DealtBatches(batches, rank, world_size, window, done)
    return _like(loader, preprocessings, batch_size=None, sampler=dealt)


class DeferredLoader:
    """Loads samples of a split by their positions.

    Workers persist between calls; a call ends the one before.

    Args:
        loader: the user's, of the split.
        preprocessings: distinct ones of the models; None for models without.
    """

    def __init__(self, loader: DataLoader[Any], preprocessings: Preprocessings) -> None:
        self._batches: list[list[int]] = []
        stay = loader.num_workers > 0
        self._loader = _like(
            loader, preprocessings, batch_size=None, sampler=self._batches, persistent_workers=stay
        )

    def __call__(self, batches: list[list[int]]) -> Iterator[PositionedBatch]:
        """Batches of the samples at these positions; workers start on them at once."""
        self._batches[:] = batches
        return iter(self._loader)


def training_loader(loader: DataLoader[Any], preprocessings: Preprocessings) -> DataLoader[Any]:
    """Loader of the same batches as `PositionedBatch`: as random, and sharded by Lightning alike.

    Args:
        loader: of a map-style dataset, in batches.
        preprocessings: distinct ones of the networks; None for networks without.
    """
    own = loader.batch_sampler
    batches: dict[str, Any] = {"batch_sampler": own}
    if type(own) is BatchSampler:  # by its parts, as Lightning may replace the sampler
        batches = {part: getattr(own, part) for part in ("batch_size", "sampler", "drop_last")}
    return _like(
        loader,
        preprocessings,
        training=True,
        generator=loader.generator,
        persistent_workers=loader.persistent_workers,
        **batches,
    )


class _PositionedData(LightningDataModule):
    """Another data module whose batches are wrapped in `PositionedBatch`.

    The hooks of the other are applied to the batches that are wrapped.
    """

    def __init__(
        self, inner: LightningDataModule, split: str, preprocessings: Preprocessings
    ) -> None:
        super().__init__()
        self.inner, self.split = inner, split
        self.prepare_data_per_node = inner.prepare_data_per_node
        self._preprocessings = tuple(preprocessings)

    def prepare_data(self) -> None:
        """Let the other data module download what it needs."""
        self.inner.prepare_data()

    def teardown(self, stage: str | None = None) -> None:
        """Let the other data module clean up."""
        del stage
        self.inner.teardown(SETUP_STAGES.get(self.split, "fit"))

    def _split_loader(self, split: str) -> DataLoader[Any]:
        """The other's loader of a split, once it has prepared the split."""
        self.inner.trainer = self.trainer
        self.inner.setup(SETUP_STAGES.get(split, "fit"))
        return split_loader(self.inner, split)

    def _evaluation_loader(self, loader: DataLoader[Any], *windows: Any) -> DataLoader[Any]:
        """Loader of this process."""
        shared = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return evaluation_loader(loader, *shared, self._preprocessings, *windows)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the other's hook.

        Raises:
            CascadeError: the batch could not be loaded.
        """
        if isinstance(batch, PositionedBatch) and batch.error is not None:
            raise batch.error
        return self._inside(self.inner.on_before_batch_transfer, batch, dataloader_idx)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Apply the other's hook, and move the positions unless they are for training."""
        if isinstance(batch, PositionedBatch) and not (self.trainer and self.trainer.training):
            batch = batch._replace(positions=batch.positions.to(device))
        return self._inside(self.inner.transfer_batch_to_device, batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the other's hook."""
        return self._inside(self.inner.on_after_batch_transfer, batch, dataloader_idx)

    @staticmethod
    def _inside(hook: Callable[..., Any], batch: Any, *args: Any) -> Any:
        if not isinstance(batch, PositionedBatch):
            return hook(batch, *args)
        return batch._replace(batch=hook(batch.batch, *args))


class EvaluationData(_PositionedData):
    """One split of another data module, read for evaluation.

    Args:
        inner: the data module.
        split: `validation`, `calibration`, `test`, `train`, or any for which `inner` has a method
            `<split>_dataloader`.
        ready: called with the description of the split before it is read; may raise to stop.
        preprocessings: distinct ones of the models; None for models without.
        window: number of consecutive batches that go to the same process.

    Attributes:
        done: numbers of windows to skip; set before the data are set up.
        info: description of the split, once it is set up.
        positions: those of all samples that are read, in ascending order.
        batches: positions of the samples of each batch, of all processes.
        batch_size: number of samples of the largest batch.
    """

    def __init__(
        self,
        inner: LightningDataModule,
        split: str,
        ready: Callable[[SplitInfo], None] | None = None,
        preprocessings: Preprocessings = (),
        window: int = 1,
    ) -> None:
        super().__init__(inner, split, preprocessings)
        self._ready = ready
        self.window = window
        self.done: set[int] = set()
        self._given: DataLoader[Any] | None = None
        self._loader: DataLoader[Any] | None = None
        self.info: SplitInfo | None = None
        self.positions: list[int] = []
        self.batches: list[list[int]] = []
        self.batch_size = 0

    def setup(self, stage: str | None = None) -> None:
        """Let the data module prepare the split, and describe it without reading it."""
        del stage
        loader = self._given = self._split_loader(self.split)
        self._loader = self._evaluation_loader(loader, self.window, self.done)
        dealt = cast("DealtBatches", self._loader.sampler)
        self.info = describe(loader.dataset)
        self.positions, self.batches = dealt.positions, dealt.batches
        self.batch_size = loader.batch_size or max(map(len, dealt.batches))
        if self._ready is not None:
            self._ready(self.info)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of this process."""
        if self._loader is None:
            self.setup()
        return cast("DataLoader[Any]", self._loader)

    test_dataloader = val_dataloader

    @property
    def workers(self) -> int:
        """Number of processes that load samples."""
        return 0 if self._given is None else self._given.num_workers

    def deferred_loader(self, *preprocessings: Preprocessing | None) -> DeferredLoader:
        """Loader of samples of the split by their positions, for models of other preprocessing."""
        if self._given is None:
            self.setup()
        return DeferredLoader(cast("DataLoader[Any]", self._given), preprocessings)

    def detached(self) -> EvaluationData:
        """A copy for another process: it loads samples by position, and nothing else."""
        other, other.inner = copy(self), copy(self.inner)
        other.trainer = other.inner.trainer = None
        vars(other).update(_ready=None, _loader=None, positions=[], batches=[])
        return other

    def on_device(self, batch: PositionedBatch, device: torch.device) -> PositionedBatch:
        """Move a loaded batch to a device, through all hooks of the data module."""
        batch = self.on_before_batch_transfer(batch, 0)
        batch = self.transfer_batch_to_device(batch, device, 0)
        return cast("PositionedBatch", self.on_after_batch_transfer(batch, 0))


class TrainingData(_PositionedData):
    """Another data module, read for training, and one of its splits for validation.

    Args:
        inner: the data module.
        validate_on: the split that the validation loop reads, each sample once; None for none.
        preprocessings: those of the network; None for a network without.
        ready: called with the descriptions of the training split and of the one to validate on, and
            the class names in label order, before anything is read; may raise to stop.
        check: called with the labels of each training batch, in main memory; may raise to stop.
    """

    def __init__(
        self,
        inner: LightningDataModule,
        validate_on: str | None = None,
        preprocessings: Preprocessings = (),
        ready: Callable[[SplitInfo | None, SplitInfo | None, Names], None] | None = None,
        check: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__(inner, "train", preprocessings)
        self.validate_on = validate_on
        self._ready = ready
        self._check = check
        self._validation: DataLoader[Any] | None = None

    def setup(self, stage: str | None = None) -> None:
        """Let the data module prepare both splits, and describe them without reading them."""
        del stage
        self.inner.trainer = self.trainer
        self.inner.setup("fit")
        check_split(self.inner, "train")
        info = self._describe(self.inner.train_dataloader())
        validation = None
        if self.validate_on is not None:
            loader = self._split_loader(self.validate_on)
            validation = describe(loader.dataset)
            self._validation = self._evaluation_loader(loader)
        if self._ready is not None:
            own = getattr(self.inner, "class_names", None)
            names = tuple(map(str, own)) if own is not None else info.classes if info else None
            self._ready(info, validation, names)

    def _describe(self, loader: Any) -> SplitInfo | None:
        """Description of the training split; None if its samples have no positions."""
        if _has_positions(loader):
            return describe(loader.dataset)
        if any(one is not None for one in self._preprocessings):
            raise UsageError(
                "data: the network has preprocessing of its own, which is done sample by sample: "
                "train_dataloader must return one DataLoader of a map-style dataset (with __len__ "
                "and __getitem__), in batches."
            )
        return None

    def train_dataloader(self) -> Any:
        """Batches of the training split, as random as the data module's own."""
        loader = self.inner.train_dataloader()
        if not _has_positions(loader):
            return loader
        return training_loader(loader, self._preprocessings)

    def val_dataloader(self) -> DataLoader[Any]:
        """Batches of the split to validate on, of this process."""
        return cast("DataLoader[Any]", self._validation)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the data module's hook, and check the labels of training batches.

        Raises:
            CascadeError: the batch could not be loaded, or its labels do not fit.
        """
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        training = self.trainer is not None and self.trainer.training
        if isinstance(batch, PositionedBatch) and training and self._check is not None:
            self._check(split_labels(batch.batch)[1][batch.positions >= 0])
        return batch


def _has_positions(loader: Any) -> bool:
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
    )
