"""Callbacks: collect what every process saw, and report metrics per threshold to any logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_cascade.data.evaluation import EvaluationBatch
from lit_cascade.errors import CascadeError

if TYPE_CHECKING:
    from lit_cascade.lit.metrics import CascadeMetrics

__all__ = ["Collector", "ThresholdMetrics"]

Rows = dict[str, Tensor]


class _Said(NamedTuple):
    """What batches say of their samples: positions and texts."""

    remarks: list[tuple[int, str]]
    left_out: list[tuple[int, str]]


class Collector(Callback):
    """Collects the rows that a module's validation or test step returns, over all processes.

    A step returns a dict of tensors with the batch along axis 0, among them `positions`, the
    samples' places in the split. When the loop ends, `rows` holds them on the main process, one
    row per sample in the order of the positions; on the others it is None.

    What the batches say of their samples is collected too: `remarks` and `left_out` hold pairs of a
    position and a text, in the order of the positions.
    """

    def __init__(self) -> None:
        self._parts: list[Rows] = []
        self._said = _Said([], [])
        self.rows: Rows | None = None
        self.remarks: list[tuple[int, str]] = []
        self.left_out: list[tuple[int, str]] = []

    def _add(self, outputs: Any, batch: Any) -> None:
        if isinstance(batch, EvaluationBatch):
            self._said.remarks.extend(batch.remarks)
            self._said.left_out.extend(batch.left_out)
        if not isinstance(outputs, Mapping) or "positions" not in outputs:
            raise CascadeError("expected the rows of a split that was read for evaluation.")
        self._parts.append(_own({key: value.detach().cpu() for key, value in outputs.items()}))

    def _gather(self, trainer: Trainer) -> None:
        mine, said = _joined(self._parts), self._said
        self._parts, self._said = [], _Said([], [])
        if trainer.world_size > 1:
            everyone: list[tuple[Rows, _Said]] | None = (
                [({}, said)] * trainer.world_size if trainer.is_global_zero else None
            )
            torch.distributed.gather_object((mine, said), everyone, dst=0)
            if everyone is None:
                return
            mine = _joined([rows for rows, _ in everyone])
            said = _Said(
                [remark for _, one in everyone for remark in one.remarks],
                [reason for _, one in everyone for reason in one.left_out],
            )
        self.remarks, self.left_out = sorted(said.remarks), sorted(said.left_out)
        order = mine["positions"].sort().indices
        self.rows = {key: value[order] for key, value in mine.items()}

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

    They go to the Trainer's logger and `callback_metrics` as `accuracy@0.9` and so on.

    Args:
        thresholds: on the score; with more than two stages shared by all deferring stages.
    """

    def __init__(self, thresholds: list[float]) -> None:
        self.thresholds = thresholds
        self.metrics: CascadeMetrics | None = None

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start from nothing, on the module's device."""
        del trainer
        self.metrics = pl_module.metrics_at(self.thresholds)
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
