"""The Trainer with the verbs of a cascade."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor

from lit_cascade.analysis import StageCalibration, calibrate_record
from lit_cascade.data.evaluation import EvaluationData
from lit_cascade.data.splits import SplitInfo
from lit_cascade.errors import CascadeError, UsageError, check_name
from lit_cascade.lit.callbacks import Collector
from lit_cascade.lit.cascade import LitCascade, check_classes
from lit_cascade.lit.classifier import LitClassifier
from lit_cascade.lit.results import Evaluation, Execution
from lit_cascade.provenance import run_info
from lit_cascade.records import Record
from lit_cascade.samples import Ids, Samples, whole_numbers

Check = Callable[[Ids, Mapping[str, Any]], None]

__all__ = ["CascadeTrainer"]


@dataclass(frozen=True)
class _Found:
    """Rows of a loop in the order of the ids, and what is known of the data."""

    rows: dict[str, Tensor]
    ids: Ids
    classes: tuple[str, ...] | None
    data: dict[str, Any]

    def samples(self, known: tuple[str, ...] | None, width: int) -> Samples:
        """The samples, with class names from the data, the model's checkpoints, or as numbers."""
        names = self.classes or known or tuple(str(c) for c in range(width))
        if len(names) != width:
            raise CascadeError(f"the model has {width} classes and the data has {len(names)}.")
        what = f"split {self.data['split']!r} of {self.data['name']}"
        labels = self.rows["labels"]
        samples = Samples(self.ids, whole_numbers(labels, f"{what}: labels"), names)
        samples.check(len(labels), width, what)
        return samples


def _data(datamodule: LightningDataModule, split: str, info: SplitInfo) -> dict[str, Any]:
    name = getattr(datamodule, "name", None) or type(datamodule).__name__
    return {"name": name, "split": split, "source": info.source}


def _names(datamodule: LightningDataModule, info: SplitInfo) -> tuple[str, ...] | None:
    """Class names that the data module was given, else those of the dataset."""
    names = getattr(datamodule, "class_names", None)
    return info.classes if names is None else tuple(str(name) for name in names)


class CascadeTrainer(Trainer):
    """A Lightning Trainer that also records, calibrates and runs cascades.

    On several processes the results are those of one process, to the last digit; they are returned
    on the main process (`is_global_zero`), and None elsewhere unless said otherwise.
    """

    def record(
        self,
        model: LitCascade,
        datamodule: LightningDataModule,
        split: str = "validation",
        check: Check | None = None,
    ) -> list[Record] | None:
        """Run every stage on every sample of a split and keep what they said.

        Args:
            model: the cascade.
            datamodule: the data.
            split: `validation`, `calibration`, `test`, `train`, or another that the data has.
            check: called with the ids and the description of the data before any model runs; may
                raise to stop.

        Returns:
            One record per stage, in memory, in the order of the ids.

        Raises:
            UsageError: the data has no such split.
            CascadeError: an empty split, stages and data with different classes, NaN logits.
        """
        found = self._collect(model, datamodule, split, self.validate, check)
        if found is None:
            return None
        width = found.rows[f"logits.{model.names[0]}"].shape[1]
        samples = found.samples(model.class_names, width)
        return [
            Record(
                name=name,
                logits=found.rows[f"logits.{name}"],
                labels=samples.labels,
                ids=samples.ids,
                costs={"flops": found.rows[f"flops.{name}"]},
                classes=samples.classes,
                parameters=details["parameters"],
                data=found.data,
                model=details["model"],
                info=run_info(),
            )
            for name, details in zip(model.names, model.stage_info(), strict=True)
        ]

    def calibrate(
        self,
        model: LitCascade,
        datamodule: LightningDataModule,
        split: str = "calibration",
        stages: Sequence[str] | None = None,
        check: Check | None = None,
    ) -> tuple[dict[str, StageCalibration], list[Record] | None]:
        """Fit a temperature to stages of a cascade and set it in the model, on every process.

        Args:
            model: the cascade.
            datamodule: the data.
            split: where to fit; not the one that is reported on.
            stages: which; by default every one but the last.
            check: as for `record`.

        Returns:
            The calibrations by stage, on every process; and the records they were fitted on.

        Raises:
            UsageError: an unknown stage, or a split that the data does not have.
            CascadeError: as for `record`.
        """
        chosen = [check_name(name, model.names, "stages") for name in stages or model.names[:-1]]
        records = self.record(model, datamodule, split, check)
        fitted = {
            record.name: calibrate_record(record)
            for record in records or []
            if record.name in chosen
        }
        fitted = self.strategy.broadcast(fitted)
        model.set_temperatures({name: found.fit.temperature for name, found in fitted.items()})
        return fitted, records

    def execute(
        self,
        model: LitCascade,
        datamodule: LightningDataModule,
        split: str = "validation",
        check: Check | None = None,
    ) -> Execution | None:
        """Run a cascade for real: each stage sees only what the earlier ones deferred.

        Args:
            model: the cascade.
            datamodule: the data.
            split: as for `record`.
            check: as for `record`.

        Raises:
            UsageError: the model has no thresholds, or the data has no such split.
        """
        if not model.has_thresholds:
            raise UsageError(
                "policy.thresholds: running a cascade needs a threshold for "
                f"{', '.join(model.names[:-1])}; `lit-cascade validate` lists some."
            )
        found = self._collect(model, datamodule, split, self.test, check)
        if found is None:
            return None
        rows = found.rows
        return Execution(
            samples=found.samples(model.class_names, int(rows["classes"][0])),
            data=found.data,
            prediction=rows["prediction"],
            stage=rows["stage"],
            score=rows["score"],
            flops=torch.stack([rows[f"flops.{name}"] for name in model.names], dim=1),
            flops_alone=rows["flops_alone"],
        )

    def evaluate(
        self, model: LitClassifier, datamodule: LightningDataModule, split: str
    ) -> Evaluation | None:
        """Accuracy and cost of one classifier on a split.

        Raises:
            UsageError: the data has no such split.
            CascadeError: an empty split, or labels that are no classes of the model.
        """
        found = self._collect(model, datamodule, split, self.validate)
        if found is None:
            return None
        found.samples(None, int(found.rows["classes"][0]))  # checks that the labels are classes
        right = found.rows["prediction"].eq(found.rows["labels"])
        return Evaluation(
            accuracy=int(right.sum()) / len(right),
            flops=float(found.rows["flops"].sum()) / len(right),
            n=len(right),
            classes=found.classes,
            data=found.data,
        )

    def add_callback(self, callback: Callback) -> None:
        """Add a callback to those that the Trainer was made with."""
        self._callbacks().append(callback)

    def _callbacks(self) -> list[Callback]:
        callbacks: list[Callback] = self.callbacks  # type: ignore[attr-defined] # set by Lightning
        return callbacks

    def _collect(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        split: str,
        loop: Any,
        check: Check | None = None,
    ) -> _Found | None:
        limits = (self.limit_val_batches, self.limit_test_batches)
        limited = any(not isinstance(limit, float) or limit != 1.0 for limit in limits)
        if limited and self.world_size > 1:
            raise UsageError(
                "trainer: a limit of batches holds for each process, so that the numbers would "
                "depend on how many there are; use one process, or no limit."
            )

        def ready(info: SplitInfo) -> None:
            classes = _names(datamodule, info)
            known = getattr(model, "class_names", None)
            if classes and known:
                check_classes(known, classes, "the model", "the data")
            if check is not None:
                check(info.ids, _data(datamodule, split, info))

        data = EvaluationData(datamodule, split, ready)
        with self._collecting() as collector:
            loop(model, datamodule=data, verbose=False)
        if not self.is_global_zero:
            return None
        if collector.rows is None or data.info is None:
            raise CascadeError(
                f"no samples of the split {split!r} were read: is there a limit of 0 batches?"
            )
        described = _data(datamodule, split, data.info)
        read = collector.rows["positions"].tolist()
        if read != data.positions:
            if not limited or len(set(read)) != len(read):
                raise CascadeError(
                    f"{len(data.positions)} samples were dealt out and {len(read)} came back."
                )
            described["limited_to"] = f"{len(read)} of {len(data.positions)} samples"
        ids, order = _in_order(data.info.ids, collector.rows["positions"])
        return _Found(
            rows={key: value[order] for key, value in collector.rows.items()},
            ids=ids,
            classes=_names(datamodule, data.info),
            data=described,
        )

    @contextmanager
    def _collecting(self) -> Iterator[Collector]:
        collector = Collector()
        self.add_callback(collector)
        try:
            with warnings.catch_warnings():
                # each sample is read once by a sampler of our own; and small sets need no workers
                warnings.filterwarnings("ignore", ".*it is recommended to use `Trainer.devices=1.*")
                warnings.filterwarnings("ignore", ".*does not have many workers.*")
                yield collector
        finally:
            self._callbacks().remove(collector)


def _in_order(ids: Ids, positions: Tensor) -> tuple[Ids, Tensor]:
    """The ids at `positions` in rising order, and the order that brings rows there."""
    if isinstance(ids, Tensor):
        ordered = ids[positions].sort()
        return ordered.values, ordered.indices
    here = [ids[position] for position in positions.tolist()]
    order = sorted(range(len(here)), key=here.__getitem__)
    return tuple(here[i] for i in order), torch.tensor(order)
