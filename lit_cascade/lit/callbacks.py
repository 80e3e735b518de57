"""Callbacks: collect the rows of all processes, and log metrics per threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_cascade.data import PositionedBatch
from lit_cascade.errors import CascadeError, UsageError
from lit_cascade.lit.spool import Columns, Spool
from lit_cascade.lit.stages import least_by_stage, log_by_loader

if TYPE_CHECKING:
    from lit_cascade.lit.metrics import CascadeMetrics

Rows = dict[str, Tensor]

_LOGITS = "logits."


class LoopNotes(NamedTuple):
    """Notes on the samples of a loop.

    Attributes:
        remarks: pairs of position and text.
        left_out: pairs of position and reason.
        samples_per_forward: by stage, where whole batches did not fit into memory; the least of all
            processes.
    """

    remarks: list[tuple[int, str]]
    left_out: list[tuple[int, str]]
    samples_per_forward: dict[str, int]


class Collector(Callback):
    """Collects the rows that validation or test steps return, over all processes.

    A step returns a dict of tensors with the batch along axis 0, among them `positions`, the
    places of the samples in the split. After the loop `rows` holds them on the main process, one
    row per sample in the order of the positions; on the others it is None.

    Args:
        spool: keeps the logits of the module's only stage on disk instead of in memory.

    Attributes:
        rows: see above; without the logits if there is a spool.
        notes: in the order of the positions.
    """

    def __init__(self, spool: Spool | None = None) -> None:
        self._spool = spool
        self._parts: list[Rows] = []
        self._columns = Columns()
        self._spooled = ""
        self._arrival = torch.arange(0)
        self.rows: Rows | None = None
        self.notes = LoopNotes([], [], {})

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the rows of a batch."""
        del trainer, pl_module
        if isinstance(batch, PositionedBatch):
            self.notes.remarks.extend(batch.remarks)
            self.notes.left_out.extend(batch.left_out)
        if outputs is None:  # no answer is complete yet
            return
        if not isinstance(outputs, Mapping) or "positions" not in outputs:
            raise CascadeError("expected the rows of a split that was read for evaluation.")
        rows = _own({key: value.detach().cpu() for key, value in outputs.items()})
        if self._spool is None:
            self._parts.append(rows)
            return
        (self._spooled,) = (key for key in rows if key.startswith(_LOGITS))
        self._spool.add(rows.pop(self._spooled))
        self._columns.add(rows)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the rows of all processes."""
        del pl_module
        self.notes.remarks.extend(getattr(trainer.lightning_module, "remarks", ()))
        forward = getattr(trainer.lightning_module, "samples_per_forward", dict)
        self.notes.samples_per_forward.update(forward())
        rows = _joined(self._parts) if self._spool is None else self._columns.rows()
        notes, self._parts = self.notes, []
        if trainer.world_size > 1:
            gathered = _gathered(trainer, (rows, notes))
            if self._spool is not None:
                _gather_spools(self._spool, trainer)
            if gathered is None:
                return
            rows = _joined([rows for rows, _ in gathered])
            notes = LoopNotes(
                [remark for _, one in gathered for remark in one.remarks],
                [reason for _, one in gathered for reason in one.left_out],
                least_by_stage(one.samples_per_forward for _, one in gathered),
            )
        self.notes = LoopNotes(
            sorted(set(notes.remarks)), sorted(set(notes.left_out)), notes.samples_per_forward
        )
        self._arrival = rows["positions"].sort().indices
        self.rows = {key: value[self._arrival] for key, value in rows.items()}

    def rows_in(self, order: Tensor) -> Rows:
        """The rows in another order, on the main process; spooled logits stay on disk.

        Args:
            order: permutation (N,) of `rows`.

        Raises:
            CascadeError: logits beyond the range of the spool's dtype.
        """
        rows = {key: value[order] for key, value in (self.rows or {}).items()}
        if self._spool is None:
            return rows
        name = self._spooled.removeprefix(_LOGITS)
        return rows | {self._spooled: self._spool.ordered(self._arrival[order], name)}

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment] # the same arguments
    on_test_epoch_end = on_validation_epoch_end


def _gathered(trainer: Trainer, mine: Any) -> list[Any] | None:
    """The objects of all processes, on the main one; None elsewhere."""
    everyone = [None] * trainer.world_size if trainer.is_global_zero else None
    torch.distributed.gather_object(mine, everyone, dst=0)
    return everyone


def _gather_spools(spool: Spool, trainer: Trainer) -> None:
    """Append the spooled rows of all processes to those of the main one, process by process.

    Some megabytes at a time, so that no process holds all rows in memory.
    """
    counts: list[int] = [0] * trainer.world_size
    torch.distributed.all_gather_object(counts, sum(1 for _ in spool.parts()))
    for rank in range(1, trainer.world_size):
        mine = iter(spool.parts() if trainer.global_rank == rank else ())
        for _ in range(counts[rank]):
            part = next(mine).clone() if trainer.global_rank == rank else None
            gathered = _gathered(trainer, (part, spool.largest))
            if gathered is not None:
                rows, largest = gathered[rank]
                spool.add(rows)
                spool.largest = max(spool.largest, largest)


def _own(rows: Rows) -> Rows:
    """Rows of samples that are not left out and belong to this process."""
    if "positions" not in rows:
        return rows
    own = rows["positions"] >= 0
    return {key: value[own] for key, value in rows.items()}


def _joined(parts: Sequence[Rows]) -> Rows:
    parts = [part for part in parts if part]  # a process may have had no batch
    try:
        return {
            key: torch.cat([part[key] for part in parts]) for key in (parts[0] if parts else {})
        }
    except RuntimeError as error:
        raise CascadeError(f"batches do not fit together: {error}") from error


class ThresholdMetrics(Callback):
    """Logs accuracy, deferral rate, FLOPs and another metric per threshold after validation.

    The Trainer's loggers and `callback_metrics` get them as `val_accuracy@0.9`, `val_f1@0.9` and so
    on. It works with any Trainer.

    Args:
        thresholds: on the score; with more than two stages shared by all deferring stages.
        metric: a name in `lit_cascade.core.METRICS`; by default the official one of the data.

    Raises:
        UsageError: with a module that is no `LitCascade`.
    """

    def __init__(self, thresholds: list[float] | float, metric: str | None = None) -> None:
        self.thresholds = [thresholds] if isinstance(thresholds, float) else list(thresholds)
        self.metric = metric
        self._metrics: list[CascadeMetrics] = []  # of each data loader of the loop
        self._device: torch.device | str = "cpu"

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Make the metrics, on the module's device."""
        if not hasattr(pl_module, "metrics_at"):
            raise UsageError(
                f"ThresholdMetrics: needs a LitCascade, got a {type(pl_module).__name__}."
            )
        data = getattr(trainer, "datamodule", None)
        of_data = getattr(getattr(data, "info", None), "metric", None)
        metric = self.metric or of_data or "accuracy"
        # mps has no double precision
        self._device = "cpu" if pl_module.device.type == "mps" else pl_module.device
        self._metrics = [
            pl_module.metrics_at(self.thresholds, metric).to(self._device)
            for _ in trainer.num_val_batches
        ]

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add a batch."""
        del trainer, batch, batch_idx
        rows = _own({key: value.to(self._device) for key, value in outputs.items()})
        self._metrics[dataloader_idx].update(
            [rows[f"logits.{name}"] for name in pl_module.names],
            rows["labels"],
            torch.stack([rows[f"flops.{name}"] for name in pl_module.names], dim=1),
        )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log the metrics over all processes."""
        del trainer
        logged = [
            {
                f"{what}@{threshold:g}": value
                for what, values in metrics.compute().items()
                for threshold, value in zip(self.thresholds, values.reshape(-1), strict=True)
            }
            for metrics in self._metrics
        ]
        log_by_loader(pl_module, "val", logged)
