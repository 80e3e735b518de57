"""Calibration metrics: how well a model's confidence matches its accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lit_cascade.core import softmax_blocks
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


def calibration_metrics(
    logits: Tensor,
    labels: Tensor,
    temperatures: float | Tensor = 1.0,
    rows: Tensor | None = None,
) -> CalibrationMetrics:
    """Compute calibration metrics of `softmax(logits / T)` in double precision.

    The expected calibration error (Guo et al., arXiv:1706.04599) over bins of equal width is that
    of torchmetrics; bins of equal mass have quantiles as edges, as in netcal. Logits are read block
    by block.

    Args:
        logits: (N, C).
        labels: (N,) int64.
        temperatures: T, one for all rows or one for each row that is read, (M,) float64.
        rows: positions of the rows to read; by default all.

    Examples:
        >>> logits, labels = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
        >>> metrics = calibration_metrics(logits, labels)
        >>> round(metrics.confidence, 3), metrics.accuracy, round(metrics.ece, 3)
        (0.982, 0.75, 0.232)
    """
    truth = labels if rows is None else labels[rows]
    n = len(truth)
    top, brier, nll = torch.empty(3, n, dtype=torch.float64)
    right = torch.empty(n, dtype=torch.bool)
    for some, z, p, losses in softmax_blocks(logits, labels, temperatures, rows):
        target = truth[some]
        # sum over the classes of (p - [class = label])^2
        hit = p.gather(1, target[:, None]).squeeze(1)
        brier[some] = p.square().sum(dim=1) - 2 * hit + 1
        top[some], nll[some] = p.amax(dim=1), losses
        right[some] = torch.from_numpy(z.numpy().argmax(axis=1)) == target  # torch takes longer
    # a confidence of exactly 1 would be a bin of its own
    confidence = top.clamp(max=1 - torch.finfo(torch.float64).eps)
    equal = np.linspace(0, 1, BINS + 1)
    inner = np.quantile(confidence.numpy(), equal)[1:-1]
    by_width = _diagram(confidence, right, equal)
    by_mass = _diagram(confidence, right, np.unique([0, *inner, 1]))  # fewer bins on ties
    return CalibrationMetrics(
        nll=float(nll.mean()),
        ece=_calibration_error(by_width),
        ece_equal_mass=_calibration_error(by_mass),
        brier=max(float(brier.mean()), 0.0),
        accuracy=int(right.sum()) / n,
        confidence=float(top.mean()),
        diagram=by_width,
    )


def _diagram(confidence: Tensor, right: Tensor, edges: np.ndarray) -> ReliabilityDiagram:
    inner = torch.from_numpy(edges[1:-1])
    place, bins = torch.bucketize(confidence, inner, right=True), len(edges) - 1
    counts = place.bincount(minlength=bins)
    sums = torch.zeros(2, bins, dtype=torch.float64)
    for total, values in zip(sums, (confidence, right.double()), strict=True):
        total.scatter_add_(0, place, values)
    means = sums / counts
    return ReliabilityDiagram(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        confidence=tuple(means[0].tolist()),
        accuracy=tuple(means[1].tolist()),
    )


def _calibration_error(diagram: ReliabilityDiagram) -> float:
    """Mean distance of confidence and accuracy, each bin weighted by its samples."""
    confidence, accuracy, counts = (
        # with a bin more, that of a confidence of 1 in torchmetrics: sums agree to the last digit
        torch.tensor([*values, 0], dtype=torch.float64)
        for values in (diagram.confidence, diagram.accuracy, diagram.counts)
    )
    gaps = (accuracy - confidence).abs().nan_to_num()  # NaN in empty bins
    return float((gaps * (counts / counts.sum())).sum())
