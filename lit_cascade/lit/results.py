"""What the loops of the Trainer give back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lit_cascade.records import Samples

__all__ = ["Best", "Evaluation", "Execution", "Training"]


@dataclass(frozen=True)
class Execution:
    """What a cascade did when it ran for real, sample by sample in the order of the ids.

    Attributes:
        samples: ids, labels and class names.
        data: name, split and source of the data.
        prediction: (N,) int64.
        stage: number of the stage that answered, (N,) int64.
        score: its confidence score, (N,) float32.
        flops: FLOPs that each stage spent on each sample, (N, K) float64, 0 where it did not run.
        flops_alone: FLOPs of the last stage alone, (N,) float64.
        executed: the same as `flops` with the padding of the batches that ran, (N, K) float64.
        fitting: samples per forward pass of stages whose whole batches did not fit into memory.
    """

    samples: Samples
    data: dict[str, Any]
    prediction: Tensor
    stage: Tensor
    score: Tensor
    flops: Tensor
    flops_alone: Tensor
    executed: Tensor
    fitting: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """How good one classifier is on a split.

    Attributes:
        accuracy: share of correct answers.
        flops: mean FLOPs per sample.
        n: number of samples.
        classes: class names in label order, if the data names them.
        data: name, split and source of the data.
        metrics: its official metric by name, if that is not accuracy.
    """

    accuracy: float
    flops: float
    n: int
    classes: tuple[str, ...] | None
    data: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Best:
    """The weights that were kept because they were the best on a split.

    Attributes:
        split: which.
        metric: by which, such as accuracy.
        epoch: after which they were had, counted from 1.
        score: the metric there.
    """

    split: str
    metric: str
    epoch: int
    score: float


@dataclass(frozen=True)
class Training:
    """How a training went.

    Attributes:
        epochs: that were finished.
        best: whose weights were kept; None if those of the last epoch.
        resumed: how many of the epochs an earlier run had finished.
    """

    epochs: int
    best: Best | None = None
    resumed: int = 0
