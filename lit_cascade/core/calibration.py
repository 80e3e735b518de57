"""Temperature scaling (Guo et al., arXiv:1706.04599): one number that makes confidence honest.

How well a model's confidence fits its accuracy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import mse_loss, one_hot

from lit_cascade.errors import check_labels, check_logits

__all__ = [
    "BINS",
    "HIGHEST",
    "LOWEST",
    "Diagram",
    "Fitness",
    "TemperatureFit",
    "fit_temperature",
    "fitness_of",
    "negative_log_likelihood",
]


LOWEST, HIGHEST = 0.01, 100.0
"""Bounds of the fit. Where every answer is right the likelihood has no maximum and the temperature
would run to 0; the bound stops it and the fit says so."""

_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature.

    Attributes:
        temperature: the T > 0 that minimises the negative log-likelihood of `softmax(logits / T)`.
        nll_before: mean negative log-likelihood in nats at T = 1.
        nll_after: the same at the fitted temperature.
        at_bound: the optimum lies at or beyond `LOWEST` or `HIGHEST`.
    """

    temperature: float
    nll_before: float
    nll_after: float
    at_bound: bool


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels in nats, in double precision.

    Args:
        logits: shape (N, C).
        labels: shape (N,), integers.
        temperature: divides the logits.

    Example:
        >>> import torch
        >>> round(negative_log_likelihood(torch.zeros(1, 2), torch.tensor([0])), 6)
        0.693147
    """
    total = 0.0
    rows = max(1, _BLOCK_ELEMENTS // logits.shape[1])
    for block, target in zip(logits.split(rows), labels.split(rows), strict=True):
        scaled = block.double() / temperature
        picked = scaled.gather(1, target[:, None]).squeeze(1)
        total += float((scaled.logsumexp(dim=1) - picked).sum())
    return total / len(logits)


def _slope_and_curvature(logits: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL by b = 1/T: mean E[z] - z_y, and mean Var[z]."""
    slope = curvature = 0.0
    rows = max(1, _BLOCK_ELEMENTS // logits.shape[1])
    for block, target in zip(logits.split(rows), labels.split(rows), strict=True):
        z = block.double()
        z = z - z.amax(dim=1, keepdim=True)
        p = (z * inverse).softmax(dim=1)
        mean = (p * z).sum(dim=1)
        slope += float((mean - z.gather(1, target[:, None]).squeeze(1)).sum())
        curvature += float((p * (z - mean[:, None]).square()).sum())
    return slope / len(logits), curvature / len(logits)


def fit_temperature(logits: Tensor, labels: Tensor, *, steps: int = 100) -> TemperatureFit:
    """The temperature that minimises the negative log-likelihood.

    The NLL is convex in b = 1/T, so its slope rises and has at most one root. A Newton step in
    log b, halved into the bracket of the root whenever it leaves it, finds it from anywhere, in
    double precision and always with T > 0.

    Args:
        logits: shape (N, C), recorded in evaluation mode.
        labels: shape (N,), integers in [0, C).
        steps: the most steps to take; some ten are enough.

    Raises:
        CascadeError: logits or labels that are malformed, NaN, or out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
        >>> labels = torch.tensor([0, 0, 0, 1])  # 98 % sure, 75 % right: 4 / log 3 is honest
        >>> round(fit_temperature(logits, labels).temperature, 6)
        3.640957
    """
    check_logits(logits, "temperature fit")
    check_labels(labels, len(logits), logits.shape[1], "temperature fit")
    labels = labels.long()
    low, high = -math.log(HIGHEST), -math.log(LOWEST)  # in log b
    if _slope_and_curvature(logits, labels, math.exp(low))[0] > 0:
        log_inverse, at_bound = low, True
    elif _slope_and_curvature(logits, labels, math.exp(high))[0] <= 0:
        log_inverse, at_bound = high, True
    else:
        log_inverse, at_bound = _root(logits, labels, low, high, steps), False
    temperature = math.exp(-log_inverse)
    return TemperatureFit(
        temperature=temperature,
        nll_before=negative_log_likelihood(logits, labels),
        nll_after=negative_log_likelihood(logits, labels, temperature),
        at_bound=at_bound,
    )


def _root(logits: Tensor, labels: Tensor, low: float, high: float, steps: int) -> float:
    at = 0.0
    for _ in range(steps):
        inverse = math.exp(at)
        slope, curvature = _slope_and_curvature(logits, labels, inverse)
        if slope < 0:
            low = at
        else:
            high = at
        # d/du at b = e^u: slope b, and curvature b^2 + slope b
        bend = curvature * inverse + slope
        to = at - slope / bend if bend > 0 else math.inf
        if abs(to - at) < 1e-12:  # before the bracket, of which `at` has just become an end
            return at
        at = to if low < to < high else (low + high) / 2
    return at


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
