"""A split of any data module, read for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from lit_cascade.data.loading import DealtBatches, DeferredLoader, evaluation_loader
from lit_cascade.data.splits import SETUP_STAGES, SplitInfo, describe, split_loader
from lit_cascade.live import Preprocessing

__all__ = ["EvaluationData"]


class EvaluationData(LightningDataModule):
    """One split of another data module, read for evaluation.

    Args:
        inner: the data module.
        split: `validation`, `calibration`, `test`, `train`, or any for which `inner` has a method
            `<split>_dataloader`.
        ready: called when the split is known and before it is read; may raise to stop.
        preprocessings: those of the models, each once; None for models without.
        window: so many batches in a row go to the same process.

    Attributes:
        done: numbers of such windows that are not read; set before the data are set up.
    """

    def __init__(
        self,
        inner: LightningDataModule,
        split: str,
        ready: Callable[[SplitInfo], None] | None = None,
        preprocessings: Sequence[Preprocessing | None] = (),
        window: int = 1,
    ) -> None:
        super().__init__()
        self.inner = inner
        self.split = split
        self._ready = ready
        self._preprocessings = tuple(preprocessings)
        self.window = window
        self.done: set[int] = set()
        self._given: DataLoader[Any] | None = None
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
        loader = self._given = split_loader(self.inner, self.split)
        shared = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        self._loader = evaluation_loader(
            loader, *shared, self._preprocessings, self.window, self.done
        )
        dealt = cast("DealtBatches", self._loader.sampler)
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

    @property
    def workers(self) -> int:
        """Number of processes that load samples."""
        return 0 if self._given is None else self._given.num_workers

    def deferred_loader(self, *preprocessings: Preprocessing | None) -> DeferredLoader:
        """What loads some samples of the split once more, as other models take them."""
        if self._given is None:
            self.setup()
        return DeferredLoader(cast("DataLoader[Any]", self._given), preprocessings)

    def on_device(self, batch: Any, device: torch.device) -> Any:
        """A loaded batch on a device, through all hooks of the data module."""
        batch = self.on_before_batch_transfer(batch, 0)
        batch = self.transfer_batch_to_device(batch, device, 0)
        return self.on_after_batch_transfer(batch, 0)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Apply the data module's own hook to what it gave.

        Raises:
            CascadeError: a sample that cannot be read, where the data is to stop there; or what is
                wrong with the data.
        """
        if batch.error is not None:
            raise batch.error
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
