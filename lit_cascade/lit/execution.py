"""Results of running for real: a cascade that defers, or one classifier alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor

from lit_cascade.core import is_right, measure
from lit_cascade.lit.cascade import LitCascade
from lit_cascade.lit.reading import Check, read_split
from lit_cascade.lit.training.classifier import LitClassifier
from lit_cascade.live import GATHER
from lit_cascade.records import Samples, listed_labels
from lit_cascade.utilities.tabular import Tabular, described
from lit_cascade.utilities.units import (
    counted,
    metric_figure,
    metric_label,
    percent,
    quantity,
    times,
)


@dataclass(frozen=True)
class Execution(Tabular):
    """Result of a cascade that ran for real, sample by sample in the order of the ids.

    Attributes:
        samples: ids, labels and class names.
        data: name, split and source of the data.
        prediction: (N,) int64.
        stage: number of the stage that answered, (N,) int64.
        score: its confidence score, (N,) float32.
        flops: FLOPs of each stage on each sample, (N, K) float64, 0 where it did not run.
        flops_alone: FLOPs of the last stage alone, (N,) float64.
        executed: `flops` with the padding of the batches that ran, (N, K) float64.
        samples_per_forward: by stage, where whole batches did not fit into memory.
    """

    samples: Samples
    data: dict[str, Any]
    prediction: Tensor
    stage: Tensor
    score: Tensor
    flops: Tensor
    flops_alone: Tensor
    executed: Tensor
    samples_per_forward: dict[str, int] = field(default_factory=dict)

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per sample: `id, label, prediction, correct, stage, score, flops`.

        Without labels there is neither `label` nor `correct`. Where several labels are right,
        `label` is a tuple.
        """
        columns: dict[str, Any] = {"id": self.samples.ids.tolist()}
        correct = self._correct
        if correct is not None and self.samples.labels is not None:
            columns["label"] = listed_labels(self.samples.labels)
        known = {
            "prediction": self.prediction,
            "correct": correct,
            "stage": self.stage,
            "score": self.score,
            "flops": self.flops.sum(dim=1),
        }
        return columns | {name: part.tolist() for name, part in known.items() if part is not None}

    @property
    def _correct(self) -> Tensor | None:
        labels = self.samples.labels
        return None if labels is None else is_right(self.prediction, labels)

    def __repr__(self) -> str:
        correct, (n, stages) = self._correct, self.flops.shape
        right = [] if correct is None else [f"accuracy {percent(_mean(correct), 2)}"]
        return described(
            "Execution",
            *self.samples.figures(),
            counted(stages, "stage"),
            *right,
            f"{percent(_mean(self.stage > 0))} deferred",
            f"{quantity(float(self.flops.sum()) / n)} FLOPs",
            f"{times(float(self.flops.sum() / self.flops_alone.sum()))} than the last stage alone",
        )


def _mean(flags: Tensor) -> float:
    return float(flags.double().mean())


@dataclass(frozen=True)
class Evaluation:
    """Metrics of one classifier on a split.

    Attributes:
        accuracy: share of correct answers.
        flops: mean FLOPs per sample.
        n: number of samples.
        classes: class names in label order; None if the data does not name them.
        data: name, split and source of the data.
        metrics: the official metric by name, if it is not accuracy.
    """

    accuracy: float
    flops: float
    n: int
    classes: tuple[str, ...] | None
    data: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        metrics = {"accuracy": self.accuracy} | self.metrics
        return described(
            "Evaluation",
            counted(self.n, "sample"),
            *(f"{metric_label(name)} {metric_figure(name, m)}" for name, m in metrics.items()),
            f"{quantity(self.flops)} FLOPs",
        )


def execute(
    trainer: Trainer,
    model: LitCascade,
    datamodule: LightningDataModule,
    split: str = "validation",
    check: Check | None = None,
    gather: int = GATHER,
) -> Execution | None:
    """Run a cascade for real: each stage sees only the samples that earlier ones deferred.

    Args:
        trainer: runs the test loop.
        model: the cascade.
        datamodule: the data.
        split: as for `record`.
        check: as for `record`.
        gather: number of batches whose deferred samples are gathered into batches for the next
            stage. Windows of as many batches are dealt to the processes.

    Returns:
        The result on the main process; None elsewhere.

    Raises:
        UsageError: the model has no thresholds, or the data has no such split.
        CascadeError: as for `record`.
    """
    model.cascade.policy.required_thresholds(model.names)
    read = read_split(trainer, model, datamodule, split, check, window=gather)
    if not trainer.is_global_zero:
        return None
    output = read()
    rows = output.rows

    def by_stage(unit: str) -> Tensor:
        return torch.stack([rows[f"{unit}.{name}"] for name in model.names], dim=1)

    return Execution(
        samples=output.samples(model.class_names, int(rows["classes"][0])),
        data=output.data,
        prediction=rows["prediction"],
        stage=rows["stage"],
        score=rows["score"],
        flops=by_stage("flops"),
        flops_alone=rows["flops_alone"],
        executed=by_stage("executed_flops"),
        samples_per_forward=output.samples_per_forward,
    )


def evaluate(
    trainer: Trainer, model: LitClassifier, datamodule: LightningDataModule, split: str
) -> Evaluation | None:
    """Accuracy, official metric and FLOPs of one classifier on a split.

    Returns:
        The result on the main process; None elsewhere.

    Raises:
        UsageError: the data has no such split.
        CascadeError: an empty split, or labels that are no classes of the model.
    """
    read = read_split(trainer, model, datamodule, split)
    if not trainer.is_global_zero:
        return None
    output = read()
    width = int(output.rows["classes"][0])
    output.samples(None, width)  # checks that the labels are classes
    answers, labels = output.rows["prediction"], output.rows["labels"]
    right = is_right(answers, labels)
    official = [name for name in [output.data.get("metric")] if name]
    return Evaluation(
        accuracy=int(right.sum()) / len(right),
        flops=float(output.rows["flops"].sum()) / len(right),
        n=len(right),
        classes=output.classes,
        data=output.data,
        metrics={name: measure(name, answers, labels, width) for name in official},
    )
