"""Batches of a split that is read for evaluation: every sample once, with what tells it apart.

Whole batches are dealt to the processes, so that each batch is composed as in a single process and
its logits are the same to the last bit. A sample that is left out, such as a file that cannot be
read, keeps its place in its batch for the same reason; it is marked as nobody's to answer for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence, Sized
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from lit_cascade.data.samples import collate_views, is_left_out, prepare, remarks_on
from lit_cascade.data.workers import leave_interrupts
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.live import Preprocessing

__all__ = ["DealtBatches", "DeferredLoader", "EvaluationBatch", "evaluation_loader"]


class EvaluationBatch(NamedTuple):
    """A batch as the user's data gives it, and the positions of its samples in the split.

    Attributes:
        batch: whatever the loader's collate function returned, or views and labels.
        positions: (N,) int64; negative for samples that another process answers for, and for those
            that are left out.
        remarks: position and text of what there is to say about some of the samples.
        left_out: position and reason of those that are left out.
        error: why the run is to end, if so, such as data of which no batch can be made; raised
            where the batch is read, as one that a worker raises would come with its traceback.
    """

    batch: Any
    positions: Tensor
    remarks: tuple[tuple[int, str], ...] = ()
    left_out: tuple[tuple[int, str], ...] = ()
    error: CascadeError | None = None


class _Loaded(NamedTuple):
    """The samples of a batch, prepared for the models, and what there is to say about them."""

    samples: list[Any]
    positions: list[int]
    remarks: list[tuple[int, str]]
    left_out: list[tuple[int, str]]


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
        leave_interrupts()
        try:
            return self._loaded(positions)
        except CascadeError as error:
            return error

    def _loaded(self, positions: list[int]) -> _Loaded:
        loaded = _Loaded([], [], [], [])
        for position in positions:
            sample = self.dataset[position if position >= 0 else ~position]
            mine = position >= 0
            prepared = prepare(sample, self._preprocessings)
            if mine:
                loaded.remarks.extend((position, remark) for remark in remarks_on(prepared))
            if mine and is_left_out(sample):
                loaded.left_out.append((position, sample.left_out))
                mine = False
            loaded.samples.append(prepared)
            loaded.positions.append(position if mine or position < 0 else ~position)
        return loaded


class DealtBatches(DistributedSampler[list[int]]):
    """Deals whole batches to processes in turn; none is repeated or lost.

    A `DistributedSampler` so that Lightning leaves it alone instead of padding it.

    Args:
        batches: positions of the samples of each.
        rank: this process.
        world_size: number of processes.
        window: so many batches in a row are dealt to the same process.
        done: windows that are not dealt to anyone.
    """

    def __init__(
        self,
        batches: list[list[int]],
        rank: int,
        world_size: int,
        window: int = 1,
        done: Collection[int] = (),
    ) -> None:
        super().__init__(cast("Dataset[Any]", batches), world_size, rank, shuffle=False)
        self.batches = batches
        self.positions = sorted(position for batch in batches for position in batch)
        # a process without a batch would skip the loop while the others wait for it at its end: it
        # gets one to repeat, whose positions are marked as such
        left = [one for one in range(-(-len(batches) // window)) if one not in done]
        starts = [one * window for one in left[rank::world_size]]
        mine = [batch for start in starts for batch in batches[start : start + window]]
        self._mine = mine or [[~position for position in batches[0]]]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._mine)

    def __len__(self) -> int:
        return len(self._mine)


class _Collate:
    """Makes a batch of the models' views, or by the user's collate function."""

    def __init__(
        self,
        collate: Callable[[list[Any]], Any],
        preprocessings: Sequence[Preprocessing | None],
    ) -> None:
        self.collate = collate
        self._preprocessings = preprocessings

    def __call__(self, loaded: Any) -> EvaluationBatch:
        try:
            if isinstance(loaded, CascadeError):
                raise loaded
            batch = collate_views(loaded.samples, self.collate, self._preprocessings)
        except CascadeError as error:
            return EvaluationBatch(None, torch.empty(0, dtype=torch.int64), error=error)
        return EvaluationBatch(
            batch,
            torch.tensor(loaded.positions),
            tuple(loaded.remarks),
            tuple(loaded.left_out),
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
    window: int = 1,
    done: Collection[int] = (),
) -> DataLoader[Any]:
    """The loader that reads the same dataset in order, without repeats, for one of many processes.

    Args:
        loader: the user's; its dataset, batch size or batch sampler, collate function and workers
            are kept.
        rank: this process.
        world_size: number of processes.
        preprocessings: those of the models that will see the batches, each once.
        window: so many batches in a row go to the same process.
        done: numbers of such windows that are not read.

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
        # a sampler of its own that shuffles says how its batches are composed where it does not
        in_order = getattr(loader.batch_sampler, "in_order", None)
        composed = loader.batch_sampler if in_order is None else in_order()
        batches = [list(batch) for batch in composed or [[i] for i in range(n)]]
    return _like(loader, DealtBatches(batches, rank, world_size, window, done), preprocessings)


class DeferredLoader:
    """Loads samples of a split by their positions, as some models take them.

    Workers stay from one call to the next; a call ends the one before.

    Args:
        loader: the user's, of the split.
        preprocessings: of the models.
    """

    def __init__(
        self, loader: DataLoader[Any], preprocessings: Sequence[Preprocessing | None]
    ) -> None:
        self._requests = _Requests()
        self._loader = _like(loader, self._requests, preprocessings, stay=True)

    def __call__(self, batches: list[list[int]]) -> Iterator[EvaluationBatch]:
        """Batches of the samples at these positions; workers start on them at once."""
        self._requests.batches = batches
        return iter(self._loader)


class _Requests(Sampler[list[int]]):
    """Batches that are named shortly before they are loaded."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _like(
    loader: DataLoader[Any],
    sampler: Sampler[list[int]],
    preprocessings: Sequence[Preprocessing | None],
    *,
    stay: bool = False,
) -> DataLoader[Any]:
    """A loader of other batches of the same dataset."""
    return DataLoader(
        _Lists(loader.dataset, preprocessings),
        batch_size=None,
        sampler=sampler,
        collate_fn=_Collate(loader.collate_fn, preprocessings),
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor if loader.num_workers else None,
        persistent_workers=stay and loader.num_workers > 0,
    )
