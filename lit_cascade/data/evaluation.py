"""Reading a split for evaluation: every sample once, with what tells it apart.

Whole batches are dealt to the processes, so that each batch is composed as in a single process and
its logits are the same to the last bit. A sample that is left out, such as a file that cannot be
read, keeps its place in its batch for the same reason; it is marked as nobody's to answer for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
)

from lit_cascade.data.samples import RawSample, collate_views, prepare
from lit_cascade.data.splits import SETUP_STAGES, SplitInfo, describe, split_loader
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.preprocessing import Preprocessing

__all__ = ["EvaluationBatch", "EvaluationData", "evaluation_loader"]


class EvaluationBatch(NamedTuple):
    """A batch as the user's data gives it, and the positions of its samples in the split.

    Attributes:
        batch: whatever the loader's collate function returned, or views and labels.
        positions: (N,) int64; negative for samples that another process answers for, and for those
            that are left out.
        remarks: position and text of what there is to say about some of the samples.
        left_out: position and reason of those that are left out.
        stop: why the run is to end, if so.
        error: what is wrong with the data, if the batch could not be made: it is raised where the
            batch is read, as one that a worker raises would come with its traceback.
    """

    batch: Any
    positions: Tensor
    remarks: tuple[tuple[int, str], ...] = ()
    left_out: tuple[tuple[int, str], ...] = ()
    stop: str | None = None
    error: CascadeError | None = None


class _Loaded(NamedTuple):
    """The samples of a batch, prepared for the models, and what there is to say about them."""

    samples: list[Any]
    positions: list[int]
    remarks: list[tuple[int, str]]
    left_out: list[tuple[int, str]]
    stop: list[str]


class _Lists(Dataset[Any]):
    """A dataset that is asked for a whole batch of positions at once."""

    def __init__(
        self, dataset: Dataset[Any], preprocessings: Sequence[Preprocessing | None] = ()
    ) -> None:
        self.dataset = dataset
        self._preprocessings = preprocessings

    def __len__(self) -> int:
        return len(cast("Sized", self.dataset))

    def __getitem__(self, positions: list[int]) -> _Loaded | CascadeError:
        try:
            return self._loaded(positions)
        except CascadeError as error:
            return error

    def _loaded(self, positions: list[int]) -> _Loaded:
        loaded = _Loaded([], [], [], [], [])
        for position in positions:
            sample = self.dataset[position if position >= 0 else ~position]
            mine = position >= 0
            if isinstance(sample, RawSample) and mine:
                loaded.remarks.extend((position, remark) for remark in sample.remarks)
                if sample.left_out is not None:
                    loaded.left_out.append((position, sample.left_out))
                    mine = False
                    if sample.stop:
                        loaded.stop.append(sample.left_out)
            loaded.samples.append(prepare(sample, self._preprocessings))
            loaded.positions.append(position if mine or position < 0 else ~position)
        return loaded


class _Batches(DistributedSampler[list[int]]):
    """Deals whole batches to processes in turn; none is repeated or lost.

    A `DistributedSampler` so that Lightning leaves it alone instead of padding it.
    """

    def __init__(self, batches: list[list[int]], rank: int, world_size: int) -> None:
        super().__init__(cast("Dataset[Any]", batches), world_size, rank, shuffle=False)
        self.batches = batches
        self.positions = sorted(position for batch in batches for position in batch)
        # a process without a batch would skip the loop while the others wait for it at its end: it
        # gets one to repeat, whose positions are marked as such
        self._mine = batches[rank::world_size] or [[~position for position in batches[0]]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._mine)

    def __len__(self) -> int:
        return len(self._mine)


class _Collate:
    """Makes a batch of the models' views, or by the user's collate function."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, loaded: Any) -> EvaluationBatch:
        try:
            if isinstance(loaded, CascadeError):
                raise loaded
            batch = collate_views(loaded.samples, self.collate)
        except CascadeError as error:
            return EvaluationBatch(None, torch.empty(0, dtype=torch.int64), error=error)
        return EvaluationBatch(
            batch,
            torch.tensor(loaded.positions),
            tuple(loaded.remarks),
            tuple(loaded.left_out),
            next(iter(loaded.stop), None),
        )


def _positions(loader: DataLoader[Any], n: int) -> list[int]:
    """Which samples a loader reads, in rising order, whatever order it reads them in.

    Raises:
        UsageError: its sampler draws some of them more than once.
    """
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
    preprocessings: Sequence[Preprocessing | None] = (),
) -> DataLoader[Any]:
    """The loader that reads the same dataset in order, without repeats, for one of many processes.

    Args:
        loader: the user's; its dataset, batch size or batch sampler, collate function and workers
            are kept.
        rank: this process.
        world_size: number of processes.
        preprocessings: those of the models that will see the batches, each once.

    Returns:
        A loader of `EvaluationBatch`.

    Raises:
        UsageError: the dataset is a stream, which has no positions.
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
        batches = [list(batch) for batch in loader.batch_sampler or [[i] for i in range(n)]]
    return DataLoader(
        _Lists(dataset, preprocessings),
        batch_size=None,
        sampler=_Batches(batches, rank, world_size),
        collate_fn=_Collate(loader.collate_fn),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
    )


class EvaluationData(LightningDataModule):
    """One split of another data module, read for evaluation.

    Args:
        inner: the data module.
        split: `validation`, `calibration`, `test`, `train`, or any for which `inner` has a method
            `<split>_dataloader`.
        ready: called when the split is known and before it is read; may raise to stop.
        preprocessings: those of the models, each once; None for models without.
    """

    def __init__(
        self,
        inner: LightningDataModule,
        split: str,
        ready: Callable[[SplitInfo], None] | None = None,
        preprocessings: Sequence[Preprocessing | None] = (),
    ) -> None:
        super().__init__()
        self.inner = inner
        self.split = split
        self._ready = ready
        self._preprocessings = tuple(preprocessings)
        self._loader: DataLoader[Any] | None = None
        self.info: SplitInfo | None = None
        self.positions: list[int] = []
        self.batches: list[list[int]] = []
        self.batch_size = 0

    def prepare_data(self) -> None:
        """Let the data module download what it needs."""
        self.inner.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Let the data module prepare the split, and look at it without reading it."""
        del stage
        self.inner.trainer = self.trainer
        self.inner.setup(SETUP_STAGES.get(self.split, "fit"))
        loader = split_loader(self.inner, self.split)
        shared = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self._loader = evaluation_loader(loader, *shared, self._preprocessings)
        dealt = cast("_Batches", self._loader.sampler)
        self.info = describe(loader.dataset)
        self.positions, self.batches = dealt.positions, dealt.batches
        self.batch_size = loader.batch_size or max(map(len, dealt.batches))
        if self._ready is not None:
            self._ready(self.info)

    def teardown(self, stage: str | None = None) -> None:
        """Let the data module clean up."""
        del stage
        self.inner.teardown(SETUP_STAGES.get(self.split, "fit"))

    def val_dataloader(self) -> DataLoader[Any]:
        """The split, for this process."""
        if self._loader is None:
            self.setup()
        return cast("DataLoader[Any]", self._loader)

    def test_dataloader(self) -> DataLoader[Any]:
        """The split, for this process."""
        return self.val_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the data module's own hook to what it gave.

        Raises:
            CascadeError: a sample that cannot be read, where the data is to stop there; or what is
                wrong with the data.
        """
        if batch.error is not None:
            raise batch.error
        if batch.stop is not None:
            raise CascadeError(
                f"data: {batch.stop}. To leave out what cannot be read: data.init_args.unreadable: "
                "leave_out."
            )
        inner = self.inner.on_before_batch_transfer(batch.batch, dataloader_idx)
        return batch._replace(batch=inner)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Apply the data module's own hook to what it gave."""
        inner = self.inner.transfer_batch_to_device(batch.batch, device, dataloader_idx)
        return batch._replace(batch=inner, positions=batch.positions.to(device))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the data module's own hook to what it gave."""
        inner = self.inner.on_after_batch_transfer(batch.batch, dataloader_idx)
        return batch._replace(batch=inner)
