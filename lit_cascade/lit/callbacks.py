"""Callbacks: collect what every process saw, and report metrics per threshold to any logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_cascade.data import PositionedBatch
from lit_cascade.errors import CascadeError
from lit_cascade.lit.spool import Columns, Spool
from lit_cascade.lit.stages import fewest

if TYPE_CHECKING:
    from lit_cascade.lit.metrics import CascadeMetrics

__all__ = ["Collector", "ThresholdMetrics"]

Rows = dict[str, Tensor]

_LOGITS = "logits."


class _Said(NamedTuple):
    """What batches say of their samples: positions and texts; and what ran in parts."""

    remarks: list[tuple[int, str]]
    left_out: list[tuple[int, str]]
    fitting: dict[str, int]


class Collector(Callback):
    """Collects the rows that a module's validation or test step returns, over all processes.

    A step returns a dict of tensors with the batch along axis 0, among them `positions`, the
    samples' places in the split. When the loop ends, `rows` holds them on the main process, one
    row per sample in the order of the positions; on the others it is None.

    What the batches say of their samples is collected too: `remarks` and `left_out` hold pairs of a
    position and a text, in the order of the positions. `fitting` has the samples per forward pass
    of stages whose whole batches did not fit into the memory of a process, the fewest of any.

    Args:
        spool: keeps the logits of the module's one stage on disk instead of in memory.
    """

    def __init__(self, spool: Spool | None = None) -> None:
        self._spool = spool
        self._parts: list[Rows] = []
        self._said = _Said([], [], {})
        self._columns = Columns()
        self._spooled = ""
        self._arrival = torch.arange(0)
        self.rows: Rows | None = None
        self.remarks: list[tuple[int, str]] = []
        self.left_out: list[tuple[int, str]] = []
        self.fitting: dict[str, int] = {}

    def _add(self, outputs: Any, batch: Any) -> None:
        if isinstance(batch, PositionedBatch):
            self._said.remarks.extend(batch.remarks)
            self._said.left_out.extend(batch.left_out)
        if outputs is None:  # answers that are not complete yet
            return
        if not isinstance(outputs, Mapping) or "positions" not in outputs:
            raise CascadeError("expected the rows of a split that was read for evaluation.")
        rows = _own({key: value.detach().cpu() for key, value in outputs.items()})
        if self._spool is not None:
            (key,) = (key for key in rows if key.startswith(_LOGITS))
            self._spool.add(rows.pop(key))
            self._spooled = key
            self._columns.add(rows)
            return
        self._parts.append(rows)

    def _gather(self, trainer: Trainer) -> None:
        self._said.remarks.extend(getattr(trainer.lightning_module, "remarks", ()))
        self._said.fitting.update(getattr(trainer.lightning_module, "fitting", dict)())
        mine = _joined(self._parts) if self._spool is None else self._columns.rows()
        said = self._said
        self._parts, self._said = [], _Said([], [], {})
        if trainer.world_size > 1:
            everyone: list[tuple[Rows, _Said]] | None = (
                [({}, said)] * trainer.world_size if trainer.is_global_zero else None
            )
            torch.distributed.gather_object((mine, said), everyone, dst=0)
            if self._spool is not None:
                _gather_spools(self._spool, trainer)
            if everyone is None:
                return
            mine = _joined([rows for rows, _ in everyone])
            said = _Said(
                [remark for _, one in everyone for remark in one.remarks],
                [reason for _, one in everyone for reason in one.left_out],
                fewest(one.fitting for _, one in everyone),
            )
        self.remarks, self.left_out = sorted(set(said.remarks)), sorted(set(said.left_out))
        self.fitting = said.fitting
        self._arrival = mine["positions"].sort().indices
        self.rows = {key: value[self._arrival] for key, value in mine.items()}

    def spooled(self, order: Tensor) -> Rows:
        """The rows that were kept on disk, where they stay; none without a spool.

        Args:
            order: to bring the other rows into.

        Raises:
            CascadeError: the spool's type of numbers could not hold them.
        """
        if self._spool is None:
            return {}
        name = self._spooled.removeprefix(_LOGITS)
        return {self._spooled: self._spool.ordered(self._arrival[order], name)}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the rows of a batch."""
        del trainer, pl_module
        self._add(outputs, batch)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keep the rows of a batch."""
        del trainer, pl_module
        self._add(outputs, batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the rows of all processes together."""
        del pl_module
        self._gather(trainer)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Bring the rows of all processes together."""
        del pl_module
        self._gather(trainer)


def _gather_spools(spool: Spool, trainer: Trainer) -> None:
    """Bring the rows on the disks of all processes to the main one, process by process.

    In rounds of some megabytes, so that nobody's memory holds them all.
    """
    kept: list[int] = [0] * trainer.world_size
    rounds = sum(1 for _ in spool.parts())
    torch.distributed.all_gather_object(kept, rounds)
    for rank in range(1, trainer.world_size):
        mine = iter(spool.parts() if trainer.global_rank == rank else ())
        for _ in range(kept[rank]):
            everyone: list[Any] | None = (
                [None] * trainer.world_size if trainer.is_global_zero else None
            )
            part = next(mine).clone() if trainer.global_rank == rank else None
            torch.distributed.gather_object((part, spool.largest), everyone, dst=0)
            if everyone is not None:
                rows, largest = everyone[rank]
                spool.take([rows], largest)


def _own(rows: Rows) -> Rows:
    """The rows that this process answers for."""
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
    """Logs accuracy, deferral rate and FLOPs at each of some thresholds after a validation loop.

    They go to the Trainer's logger and `callback_metrics` as `accuracy@0.9` and so on, and with
    them another metric, such as `f1@0.9`.

    Args:
        thresholds: on the score; with more than two stages shared by all deferring stages.
        metric: a name in `lit_cascade.core.metrics.METRICS`; by default the one that the data name.
    """

    def __init__(self, thresholds: list[float], metric: str | None = None) -> None:
        self.thresholds = thresholds
        self.metric = metric
        self.metrics: CascadeMetrics | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start from nothing, on the module's device."""
        data = getattr(trainer, "datamodule", None)
        of_data = getattr(getattr(data, "info", None), "metric", None)
        self.metrics = pl_module.metrics_at(self.thresholds, self.metric or of_data or "accuracy")
        if pl_module.device.type != "mps":  # which has no double precision
            self.metrics.to(pl_module.device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, *_: Any
    ) -> None:
        """Add a batch."""
        del trainer
        if self.metrics is not None:
            rows = _own({key: value.to(self.metrics.device) for key, value in outputs.items()})
            self.metrics.update(
                [rows[f"logits.{name}"] for name in pl_module.names],
                rows["labels"],
                torch.stack([rows[f"flops.{name}"] for name in pl_module.names], dim=1),
            )

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log what all processes saw."""
        del trainer
        if self.metrics is None:
            return
        for what, values in self.metrics.compute().items():
            for threshold, value in zip(self.thresholds, values.reshape(-1).tolist(), strict=True):
                pl_module.log(f"{what}@{threshold:g}", value, rank_zero_only=True)
