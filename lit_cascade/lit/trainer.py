"""The Trainer with the verbs of a cascade."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule

from lit_cascade.analysis import (
    Method,
    Plan,
    Selection,
    StageCalibration,
    behaviour_of,
    calibrate_record,
    select_thresholds,
)
from lit_cascade.core import is_right, measure
from lit_cascade.core.guarantee import Promise
from lit_cascade.errors import check_name
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.lit.failures import explained
from lit_cascade.lit.measuring import Benchmark, SpeedPlan, measure_speed
from lit_cascade.lit.predicting import Answers, Finish, answer_split
from lit_cascade.lit.reading import Check
from lit_cascade.lit.recording import Configs, RecordDtype, Recorded, ZooRecording, records_of
from lit_cascade.lit.results import Evaluation, Execution
from lit_cascade.lit.stages import StagesModule
from lit_cascade.lit.training.classifier import LitClassifier
from lit_cascade.lit.training.fitting import FittingTrainer
from lit_cascade.lit.zoo import LitZoo
from lit_cascade.live import GATHER
from lit_cascade.records import Record

__all__ = ["CascadeTrainer"]


class CascadeTrainer(FittingTrainer):
    """A Lightning Trainer that also trains stages, and records, calibrates and runs cascades.

    On several processes the results are those of one process, to the last digit; they are returned
    on the main process (`is_global_zero`), and None elsewhere unless said otherwise. On CPUs the
    last digits depend on the number of threads too, which Lightning divides among the processes
    unless OMP_NUM_THREADS is set, as the command line does.
    """

    def record(
        self,
        model: StagesModule,
        datamodule: LightningDataModule,
        split: str = "validation",
        check: Check | None = None,
        configs: Configs | None = None,
    ) -> list[Record] | None:
        """Run every stage on every sample of a split and keep what they said.

        Args:
            model: the cascade, or a zoo of which one model is selected.
            datamodule: the data.
            split: `validation`, `calibration`, `test`, `train`, or another that the data has.
            check: called with the ids and the description of the data before any model runs; may
                raise to stop.
            configs: of the stages and the data, for the records.

        Returns:
            One record per stage, in memory, in the order of the ids.

        Raises:
            UsageError: the data has no such split.
            CascadeError: an empty split, stages and data with different classes, NaN logits.
        """
        found = self.read(model, datamodule, split, self.validate, check)
        return records_of(model, found(), self, configs) if self.is_global_zero else None

    def record_zoo(
        self,
        zoo: LitZoo,
        datamodule: LightningDataModule,
        folder: Path | str,
        split: str = "validation",
        only: Sequence[str] | None = None,
        dtype: RecordDtype = "float16",
        overwrite: bool = False,  # noqa: FBT001, FBT002 - as all options here
        configs: Configs | None = None,
        announce: Callable[[int, int, str, bool], None] | None = None,
    ) -> Recorded | None:
        """Run models one after the other and write a record of each into a folder.

        A model is made, run, recorded and let go before the next one, so memory holds one at a
        time. Each record is written whole as soon as its model is done; the same call again keeps
        the finished ones and gives the same bytes as if it had never been interrupted.

        Args:
            zoo: the models.
            datamodule: the data.
            folder: for the files `<name>.safetensors`.
            split: as for `record`.
            only: names of the models to record; by default all.
            dtype: `float16` or `float32`, of the logits.
            overwrite: replace what is in the folder and is not a record of these very models on
                these very data.
            configs: of the models and the data, for the records.
            announce: called before each model with its number, how many there are, its name, and
                whether its record is kept.

        Returns:
            What is in the folder, model by model, and which models failed: they do not keep the
            others from being recorded.

        Raises:
            UsageError: an unknown model, or a file in the folder that is something else.
            CascadeError: data that cannot be read; and for a single model all that `record` raises.
        """
        recording = ZooRecording(self, zoo, datamodule, split, Path(folder), dtype, configs)
        return recording.run(only, overwrite=overwrite, announce=announce)

    def calibrate(
        self,
        model: LitCascade,
        datamodule: LightningDataModule,
        split: str = "calibration",
        stages: Sequence[str] | None = None,
        check: Check | None = None,
        method: Method = "temperature",
        share: float | None = None,
        seed: int = 0,
    ) -> tuple[dict[str, StageCalibration], list[Record] | None]:
        """Fit a calibration to stages of a cascade and set it in the model, on every process.

        Args:
            model: the cascade.
            datamodule: the data.
            split: where to fit; not the one that is reported on.
            stages: which; by default every one but the last.
            check: as for `record`.
            method: temperature, or none, which sets temperatures back to 1.
            share: of the samples to fit on, as for `lit_cascade.analysis.calibration.Plan.of`.
            seed: of their drawing.

        Returns:
            The calibrations by stage, on every process; and the records they were fitted on.

        Raises:
            UsageError: an unknown stage or method, a split that the data does not have, or a share
                that leaves nothing.
            CascadeError: as for `record`.
        """
        chosen = [check_name(name, model.names, "stages") for name in stages or model.names[:-1]]
        records = self.record(model, datamodule, split, check)
        fitted = {}
        if records is not None:
            plan = Plan.of(len(records[0]), share, seed)
            fitted = {
                record.name: calibrate_record(record, method, plan)
                for record in records
                if record.name in chosen
            }
        fitted = self.strategy.broadcast(fitted)
        model.set_temperatures({name: stage.temperature for name, stage in fitted.items()})
        return fitted, records

    def select(
        self,
        model: LitCascade,
        datamodule: LightningDataModule,
        promise: Promise,
        split: str = "calibration",
        check: Check | None = None,
    ) -> Selection | None:
        """Choose thresholds that keep a promise and set them in the model, on every process.

        Args:
            model: the cascade. Where its temperatures were fitted on samples of the split, the
                promise does not hold.
            datamodule: the data.
            promise: to be kept on samples to come.
            split: where to choose; not the one that is reported on.
            check: as for `record`.

        Returns:
            What was chosen, on the main process; where nothing qualifies the model is as before.

        Raises:
            UsageError: the data has no such split.
            CascadeError: as for `record`.
        """
        records = self.record(model, datamodule, split, check)
        found = None
        if records is not None:
            found = select_thresholds(behaviour_of(records, model.cascade.policy), promise)
        chosen = None if found is None or found.chosen is None else found.chosen.thresholds
        chosen = self.strategy.broadcast(chosen)
        if chosen is not None:
            model.set_thresholds(chosen)
        return found

    def execute(
        self,
        model: LitCascade,
        datamodule: LightningDataModule,
        split: str = "validation",
        check: Check | None = None,
        gather: int = GATHER,
    ) -> Execution | None:
        """Run a cascade for real: each stage sees only what the earlier ones deferred.

        Args:
            model: the cascade.
            datamodule: the data.
            split: as for `record`.
            check: as for `record`.
            gather: number of batches whose deferred samples are gathered into batches for the next
                stage; a multiple of so many goes to each process.

        Raises:
            UsageError: the model has no thresholds, or the data has no such split.
        """
        model.cascade.policy.required_thresholds(model.names)
        reading = self.read(model, datamodule, split, self.test, check, window=gather)
        if not self.is_global_zero:
            return None
        found = reading()
        rows = found.rows
        return Execution(
            samples=found.samples(model.class_names, int(rows["classes"][0])),
            data=found.data,
            prediction=rows["prediction"],
            stage=rows["stage"],
            score=rows["score"],
            flops=torch.stack([rows[f"flops.{name}"] for name in model.names], dim=1),
            flops_alone=rows["flops_alone"],
            executed=torch.stack([rows[f"executed_flops.{name}"] for name in model.names], dim=1),
            fitting=found.fitting,
        )

    def answer(
        self,
        model: LitCascade,
        datamodule: LightningDataModule,
        folder: Path | str,
        split: str = "validation",
        name: str = "predictions.parquet",
        gather: int = GATHER,
        configs: Configs | None = None,
        finish: Finish | None = None,
    ) -> Answers | None:
        """Answer every sample of a split and write the answers, window by window.

        The same call again goes on where it was interrupted, and gives the same file.

        Args:
            model: the cascade.
            datamodule: the data; labels are not looked at.
            folder: for the file, on a disk that all processes share.
            split: as for `record`; `predict` is one too.
            name: of the file, `.parquet` or `.csv`.
            gather: as for `execute`; the answers of so many batches are written together.
            configs: of the stages and the data; an interrupted run must have had the same.
            finish: called with what was written when the file is there, on the main process; until
                it returns the run counts as interrupted.

        Raises:
            UsageError: the model has no thresholds, the data has no such split, or the folder holds
                an interrupted run of something else.
            CascadeError: an empty split, NaN logits, or a full disk.
        """
        return answer_split(
            self, model, datamodule, Path(folder), split, name, gather, configs, finish
        )

    def benchmark(
        self, model: LitCascade, datamodule: LightningDataModule, split: str, plan: SpeedPlan
    ) -> Benchmark:
        """Measure how fast a cascade is, next to its stages alone; on one process.

        Args:
            model: the cascade; the thresholds are those of the plan.
            datamodule: the data.
            split: as for `record`.
            plan: what to measure.

        Raises:
            UsageError: several processes, or the data has no such split.
            CascadeError: an empty split.
        """
        with explained():
            return measure_speed(self, model, datamodule, split, plan)

    def evaluate(
        self, model: LitClassifier, datamodule: LightningDataModule, split: str
    ) -> Evaluation | None:
        """Accuracy, official metric and cost of one classifier on a split.

        Raises:
            UsageError: the data has no such split.
            CascadeError: an empty split, or labels that are no classes of the model.
        """
        reading = self.read(model, datamodule, split, self.validate)
        if not self.is_global_zero:
            return None
        found = reading()
        width = int(found.rows["classes"][0])
        found.samples(None, width)  # checks that the labels are classes
        answers, labels = found.rows["prediction"], found.rows["labels"]
        right = is_right(answers, labels)
        official = [name for name in [found.data.get("metric")] if name]
        return Evaluation(
            accuracy=int(right.sum()) / len(right),
            flops=float(found.rows["flops"].sum()) / len(right),
            n=len(right),
            classes=found.classes,
            data=found.data,
            metrics={name: measure(name, answers, labels, width) for name in official},
        )
