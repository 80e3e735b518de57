"""Calibration metrics: how well a model's confidence matches its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

from lit_cascade.utilities.drawing import BLACK, BLUE, axes_of, quiet
from lit_cascade.utilities.tabular import Tabular, described
from lit_cascade.utilities.units import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 15
"""Number of bins of calibration errors and reliability diagrams."""

_LARGEST = 160  # area of the dot of a bin with all samples, in square points


@dataclass(frozen=True)
class ReliabilityDiagram(Tabular):
    """Reliability diagram: accuracy against confidence.

    Attributes:
        edges: B + 1 confidences from 0 to 1; a bin includes its lower edge, the last one both.
        counts: number of samples in each of the B bins.
        confidence: mean confidence in each bin; NaN in empty bins.
        accuracy: fraction of correct answers in each bin; NaN in empty bins.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]

    def columns(self) -> dict[str, Sequence[Any]]:
        """One row per bin: its edges `low` and `high`, and `n, confidence, accuracy`."""
        return {
            "low": self.edges[:-1],
            "high": self.edges[1:],
            "n": self.counts,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
        }

    def plot(self, ax: Axes | None = None, *, color: str = BLUE, **style: Any) -> Axes:
        """Draw accuracy against confidence: a dot per bin, whose area grows with its samples.

        Args:
            ax: axes to draw on; by default those of a new figure.
            color: of dots and line.
            style: of the line, such as `label`, as for matplotlib's `Axes.plot`.

        Returns:
            The axes.
        """
        axes, counts = axes_of(ax), np.array(self.counts)
        there = counts > 0
        x, y = np.array(self.confidence)[there], np.array(self.accuracy)[there]
        axes.axline((0, 0), slope=1, linestyle=":", color=BLACK, linewidth=1.2)
        axes.plot(x, y, color=color, **({"linewidth": 1.4} | style))
        sizes = 4 + _LARGEST * counts[there] / counts.sum()
        axes.scatter(x, y, s=sizes, color=color, alpha=0.5, linewidths=0, zorder=3)
        axes.set_xlabel("confidence")
        axes.set_ylabel("accuracy")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        quiet(axes, "both")
        return axes

    def __repr__(self) -> str:
        filled = sum(count > 0 for count in self.counts)
        return described(
            "ReliabilityDiagram",
            counted(sum(self.counts), "sample"),
            f"{filled} of {counted(len(self.counts), 'bin')} filled",
        )


@dataclass(frozen=True)
class CalibrationMetrics:
    """Calibration metrics on N samples.

    Attributes:
        nll: mean negative log-likelihood of the labels, in nats.
        ece: expected calibration error of the most probable class, over bins of equal width.
        ece_equal_mass: expected calibration error over bins of equal mass.
        brier: Brier score, summed over the classes; 0 to 2.
        accuracy: fraction of correct answers.
        confidence: mean probability of the answer.
        diagram: reliability diagram over the bins of equal width.
    """

    nll: float
    ece: float
    ece_equal_mass: float
    brier: float
    accuracy: float
    confidence: float
    diagram: ReliabilityDiagram

    def __repr__(self) -> str:
        figures = {
            "NLL": self.nll,
            "ECE": self.ece,
            "ECE of equal mass": self.ece_equal_mass,
            "Brier": self.brier,
            "confidence": self.confidence,
            "accuracy": self.accuracy,
        }
        return described(
            "CalibrationMetrics", *(f"{name} {value:.4f}" for name, value in figures.items())
        )


def calibration_metrics(logits: Tensor, labels: Tensor) -> CalibrationMetrics:
    """Compute calibration metrics of softmax(logits) in double precision.

    The expected calibration error (Guo et al., arXiv:1706.04599) over bins of equal width is that
    of torchmetrics; bins of equal mass have quantiles as edges, as in netcal.

    Args:
        logits: (N, C), calibrated or not.
        labels: (N,) int64.

    Example:
        >>> logits, labels = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
        >>> metrics = calibration_metrics(logits, labels)
        >>> round(metrics.confidence, 3), metrics.accuracy, round(metrics.ece, 3)
        (0.982, 0.75, 0.232)
    """
    # imported here: torchmetrics takes seconds to import
    from torchmetrics.functional.classification import binary_calibration_error  # noqa: PLC0415

    logits = logits.double()
    probabilities = logits.softmax(dim=1)
    top, answer = probabilities.max(dim=1)
    # a confidence of exactly 1 would be a bin of its own
    confidence, right = top.clamp(max=1 - torch.finfo(torch.float64).eps), answer == labels
    truth = one_hot(labels, logits.shape[1]).double()
    equal = np.linspace(0, 1, BINS + 1)
    inner = np.quantile(confidence.numpy(), equal)[1:-1]
    by_mass = _diagram(confidence, right, np.unique([0, *inner, 1]))  # fewer bins on ties
    counts = np.array(by_mass.counts)
    gaps = np.abs(np.array(by_mass.confidence) - np.array(by_mass.accuracy))
    return CalibrationMetrics(
        nll=float(-logits.log_softmax(dim=1).gather(1, labels[:, None]).mean()),
        ece=float(binary_calibration_error(confidence, right.long(), n_bins=BINS, norm="l1")),
        ece_equal_mass=float(gaps[counts > 0] @ counts[counts > 0] / counts.sum()),
        brier=float(mse_loss(probabilities, truth, reduction="sum")) / len(logits),
        accuracy=int(right.sum()) / len(right),
        confidence=float(top.mean()),
        diagram=_diagram(confidence, right, equal),
    )


def _diagram(confidence: Tensor, right: Tensor, edges: np.ndarray) -> ReliabilityDiagram:
    from scipy.stats import binned_statistic  # noqa: PLC0415 - takes a second

    x, y = confidence.numpy(), right.double().numpy()
    means = binned_statistic(x, [x, y], statistic="mean", bins=edges).statistic
    counts = binned_statistic(x, x, statistic="count", bins=edges).statistic
    return ReliabilityDiagram(
        edges=tuple(edges.tolist()),
        counts=tuple(int(count) for count in counts),
        confidence=tuple(means[0].tolist()),
        accuracy=tuple(means[1].tolist()),
    )
