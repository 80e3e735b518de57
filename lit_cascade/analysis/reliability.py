"""How well a model's confidence fits its accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

__all__ = ["BINS", "Diagram", "Fitness", "fitness_of"]

BINS = 15
"""Bins of calibration errors and of reliability diagrams."""


@dataclass(frozen=True)
class Diagram:
    """A reliability diagram: what is said and what is so, by confidence.

    Attributes:
        edges: B + 1 confidences from 0 to 1; a bin holds its lower end, the last both.
        counts: samples in each of the B bins.
        confidence: mean confidence in each bin; NaN in empty ones.
        accuracy: share of right answers in each bin; NaN in empty ones.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class Fitness:
    """How well confidence fits accuracy, on N samples.

    Attributes:
        nll: mean negative log-likelihood of the labels, in nats.
        ece: expected calibration error of the likeliest class, over bins of equal width.
        ece_equal_mass: the same over bins that hold equally many samples.
        brier: mean over the samples of the squared error, summed over the classes; 0 to 2.
        accuracy: share of right answers.
        confidence: mean probability of the answer.
        diagram: over the bins of equal width.
    """

    nll: float
    ece: float
    ece_equal_mass: float
    brier: float
    accuracy: float
    confidence: float
    diagram: Diagram


def fitness_of(logits: Tensor, labels: Tensor) -> Fitness:
    """How well the confidence of softmax(logits) fits, in double precision.

    The calibration error over bins of equal width is that of torchmetrics; the one over bins of
    equal mass is summed over bins of scipy, whose edges are quantiles as in netcal.

    Args:
        logits: shape (N, C), calibrated or not.
        labels: shape (N,) int64.

    Example:
        >>> found = fitness_of(torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1]))
        >>> round(found.confidence, 3), found.accuracy, round(found.ece, 3), round(found.brier, 3)
        (0.982, 0.75, 0.232, 0.483)
    """
    # imported here: torchmetrics takes seconds, and only this question needs it
    from torchmetrics.functional.classification import binary_calibration_error  # noqa: PLC0415

    logits = logits.double()
    probabilities = logits.softmax(dim=1)
    top, answer = probabilities.max(dim=1)
    # a confidence of exactly 1 would be a bin of its own
    confidence, right = top.clamp(max=1 - torch.finfo(torch.float64).eps), answer == labels
    truth = one_hot(labels, logits.shape[1]).double()
    return Fitness(
        nll=float(-logits.log_softmax(dim=1).gather(1, labels[:, None]).mean()),
        ece=float(binary_calibration_error(confidence, right.long(), n_bins=BINS, norm="l1")),
        ece_equal_mass=_error(_diagram(confidence, right, _quantiles(confidence))),
        brier=float(mse_loss(probabilities, truth, reduction="sum")) / len(logits),
        accuracy=int(right.sum()) / len(right),
        confidence=float(top.mean()),
        diagram=_diagram(confidence, right, np.linspace(0, 1, BINS + 1)),
    )


def _quantiles(confidence: Tensor) -> np.ndarray:
    """Edges between which equally many samples lie, where many do not share one confidence."""
    edges = np.quantile(confidence.numpy(), np.linspace(0, 1, BINS + 1))
    edges[0], edges[-1] = 0, 1
    found: np.ndarray = np.unique(edges)
    return found


def _diagram(confidence: Tensor, right: Tensor, edges: np.ndarray) -> Diagram:
    from scipy.stats import binned_statistic  # noqa: PLC0415 - takes a second

    said, so = confidence.numpy(), right.double().numpy()
    means = binned_statistic(said, [said, so], statistic="mean", bins=edges).statistic
    counts = binned_statistic(said, said, statistic="count", bins=edges).statistic
    return Diagram(
        edges=tuple(edges.tolist()),
        counts=tuple(int(count) for count in counts),
        confidence=tuple(means[0].tolist()),
        accuracy=tuple(means[1].tolist()),
    )


def _error(diagram: Diagram) -> float:
    """The expected calibration error over the bins of a diagram."""
    counts = np.array(diagram.counts)
    gaps = np.abs(np.array(diagram.confidence) - np.array(diagram.accuracy))
    return float(gaps[counts > 0] @ counts[counts > 0] / counts.sum())
