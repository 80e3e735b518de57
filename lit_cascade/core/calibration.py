"""Temperature scaling (Guo et al., arXiv:1706.04599): one divisor that calibrates the logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from lit_cascade.errors import check_labels, check_logits

LOWEST, HIGHEST = 0.01, 100.0
"""Bounds of the fit. Where every answer is right the likelihood has no maximum: the temperature
would run to 0, and the fit ends `at_bound`."""

_BLOCK_ELEMENTS = 2**20


@dataclass(frozen=True)
class TemperatureFit:
    """A fitted temperature.

    Attributes:
        temperature: the T > 0 that minimises the negative log-likelihood of `softmax(logits / T)`.
        nll_before: mean negative log-likelihood in nats at T = 1.
        nll_after: mean negative log-likelihood in nats at the fitted temperature.
        at_bound: whether the optimum lies at or beyond `LOWEST` or `HIGHEST`.
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
    """
    total = 0.0
    rows = max(1, _BLOCK_ELEMENTS // logits.shape[1])
    for block, target in zip(logits.split(rows), labels.split(rows), strict=True):
        scaled = block.double() / temperature
        picked = scaled.gather(1, target[:, None]).squeeze(1)
        total += float((scaled.logsumexp(dim=1) - picked).sum())
    return total / len(logits)


def _slope_and_curvature(logits: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL by b = 1/T: mean E[z] - z_y, mean Var[z]."""
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
    """Fit the temperature that minimises the negative log-likelihood.

    The NLL is convex in b = 1/T, so that its slope has at most one root. Newton's method in log b,
    safeguarded by bisection of the bracket, finds the root from any start, in double precision and
    always with T > 0.

    Args:
        logits: shape (N, C), recorded in evaluation mode.
        labels: shape (N,), integers in [0, C).
        steps: most iterations; about ten are enough.

    Raises:
        CascadeError: logits or labels that are malformed, NaN, or out of range.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
        >>> labels = torch.tensor([0, 0, 0, 1])  # confidence 98 %, accuracy 75 %: T = 4 / log 3
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
    """Root of the slope in log b between `low` and `high`."""
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
        if abs(to - at) < 1e-12:  # before the bracket is looked at: `at` is now one of its ends
            return at
        at = to if low < to < high else (low + high) / 2
    return at
