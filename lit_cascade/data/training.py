"""A data module, read for training: samples as the network takes them, with their positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, IterableDataset

from lit_cascade.data.loading import EvaluationBatch, evaluation_loader
from lit_cascade.data.samples import collate_views, is_left_out, prepare
from lit_cascade.data.splits import SETUP_STAGES, SplitInfo, check_split, describe, split_loader
from lit_cascade.data.workers import leave_interrupts
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import Preprocessing, split_labels

__all__ = ["TrainingBatch", "TrainingData"]

Names = tuple[str, ...] | None


class TrainingBatch(NamedTuple):
    """A batch as the network takes it, and the positions of its samples in the training split.

    Attributes:
        batch: whatever the loader's collate function returned, or views and labels.
        positions: (N,) int64, in main memory. Samples that cannot be read are not in the batch,
            unless none can be: then all of them are, with negative positions.
        error: why the run is to end, if so; raised where the batch is read.
    """

    batch: Any
    positions: Tensor
    error: CascadeError | None = None


class _Lists(Dataset[Any]):
    """A dataset that is asked for a whole batch of positions at once."""

    def __init__(self, dataset: Any, preprocessings: Sequence[Preprocessing | None]) -> None:
        self._dataset = dataset
        self._preprocessings = preprocessings

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, positions: Sequence[Any]) -> list[tuple[int, Any]] | CascadeError:
        """Positions and samples, without those that cannot be read unless there are no others."""
        leave_interrupts()
        try:
            loaded = list(self._loaded(positions))
        except CascadeError as error:
            return error
        return [one for one in loaded if one[0] >= 0] or loaded

    def _loaded(self, positions: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        at_once = getattr(self._dataset, "__getitems__", None)
        samples = at_once(positions) if at_once else (self._dataset[p] for p in positions)
        for key, sample in zip(positions, samples, strict=True):
            position = int(key)
            if is_left_out(sample):
                position = ~position
            yield position, prepare(sample, self._preprocessings)


class _Collate:
    """Makes a batch of the network's views, or by the user's collate function."""

    def __init__(
        self,
        collate: Callable[[list[Any]], Any],
        preprocessings: Sequence[Preprocessing | None],
    ) -> None:
        self._collate = collate
        self._preprocessings = preprocessings

    def __call__(self, loaded: list[tuple[int, Any]] | CascadeError) -> TrainingBatch:
        try:
            if isinstance(loaded, CascadeError):
                raise loaded
            samples = [sample for _, sample in loaded]
            batch = collate_views(samples, self._collate, self._preprocessings)
        except CascadeError as error:  # a worker's exception would come with its traceback
            return TrainingBatch(None, torch.empty(0, dtype=torch.int64), error)
        return TrainingBatch(batch, torch.tensor([position for position, _ in loaded]))


def training_loader(
    loader: DataLoader[Any], preprocessings: Sequence[Preprocessing | None]
) -> DataLoader[Any]:
    """The same loader, giving `TrainingBatch`: as random, and as fit for sharding by Lightning.

    Args:
        loader: of a map-style dataset, in batches.
        preprocessings: those of the networks that will see the batches, each once.
    """
    own = loader.batch_sampler
    batches: dict[str, Any] = {"batch_sampler": own}
    if type(own) is BatchSampler:  # by its parts, of which Lightning may exchange one
        batches = {
            "batch_size": own.batch_size,
            "sampler": own.sampler,
            "drop_last": own.drop_last,
        }
    return DataLoader(
        _Lists(loader.dataset, preprocessings),
        **batches,
        collate_fn=_Collate(loader.collate_fn, preprocessings),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=loader.generator,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
        persistent_workers=loader.persistent_workers,
    )


class TrainingData(LightningDataModule):
    """Another data module, read for training; during which one of its splits is judged on.

    Args:
        inner: the data module.
        judge_on: the split that the validation loop reads, each sample once; None for none.
        preprocessings: those of the network; None for a network without.
        ready: called with the training split and the one to judge on, and the names of the classes
            in label order, before anything is read; may raise to stop.
        check: called with the labels of each training batch, in main memory; may raise to stop.
    """

    def __init__(
        self,
        inner: LightningDataModule,
        judge_on: str | None = None,
        preprocessings: Sequence[Preprocessing | None] = (),
        ready: Callable[[SplitInfo | None, SplitInfo | None, Names], None] | None = None,
        check: Callable[[Tensor], None] | None = None,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.judge_on = judge_on
        self.prepare_data_per_node = inner.prepare_data_per_node
        self._preprocessings = tuple(preprocessings)
        self._ready = ready
        self._check = check
        self._judged: DataLoader[Any] | None = None

    def prepare_data(self) -> None:
        """Let the data module download what it needs."""
        self.inner.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Let the data module prepare both splits, and look at them without reading them."""
        del stage
        self.inner.trainer = self.trainer
        self.inner.setup("fit")
        check_split(self.inner, "train")
        info = self._info(self.inner.train_dataloader())
        judged = None
        if self.judge_on is not None:
            if self.judge_on != "validation":  # which is prepared for fitting too
                self.inner.setup(SETUP_STAGES.get(self.judge_on, "fit"))
            loader = split_loader(self.inner, self.judge_on)
            judged = describe(loader.dataset)
            shared = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
            self._judged = evaluation_loader(loader, *shared, self._preprocessings)
        if self._ready is not None:
            own = getattr(self.inner, "class_names", None)
            names = tuple(map(str, own)) if own is not None else info.classes if info else None
            self._ready(info, judged, names)

    def teardown(self, stage: str | None = None) -> None:
        """Let the data module clean up."""
        del stage
        self.inner.teardown("fit")

    def _info(self, loader: Any) -> SplitInfo | None:
        """What is known of the training split; None if its samples have no positions."""
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
        """The training split, as random as the data module has it."""
        loader = self.inner.train_dataloader()
        if not _has_positions(loader):
            return loader
        return training_loader(loader, self._preprocessings)

    def val_dataloader(self) -> DataLoader[Any]:
        """The split that is judged on, for this process."""
        return cast("DataLoader[Any]", self._judged)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the data module's own hook to what it gave, and check the labels.

        Raises:
            CascadeError: what is wrong with the data.
        """
        if not isinstance(batch, (TrainingBatch, EvaluationBatch)):
            return self.inner.on_before_batch_transfer(batch, dataloader_idx)
        if batch.error is not None:
            raise batch.error
        inner = self.inner.on_before_batch_transfer(batch.batch, dataloader_idx)
        if isinstance(batch, TrainingBatch) and self._check is not None:
            self._check(split_labels(inner)[1][batch.positions >= 0])
        return batch._replace(batch=inner)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Apply the data module's own hook to what it gave."""
        if not isinstance(batch, (TrainingBatch, EvaluationBatch)):
            return self.inner.transfer_batch_to_device(batch, device, dataloader_idx)
        inner = self.inner.transfer_batch_to_device(batch.batch, device, dataloader_idx)
        if isinstance(batch, EvaluationBatch):
            batch = batch._replace(positions=batch.positions.to(device))
        return batch._replace(batch=inner)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the data module's own hook to what it gave."""
        if not isinstance(batch, (TrainingBatch, EvaluationBatch)):
            return self.inner.on_after_batch_transfer(batch, dataloader_idx)
        inner = self.inner.on_after_batch_transfer(batch.batch, dataloader_idx)
        return batch._replace(batch=inner)


def _has_positions(loader: Any) -> bool:
    return (
        isinstance(loader, DataLoader)
        and not isinstance(loader.dataset, IterableDataset)
        and loader.batch_sampler is not None
    )
