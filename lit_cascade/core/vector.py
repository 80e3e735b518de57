"""Vector scaling (Guo et al., arXiv:1706.04599): a factor and an offset for every class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from lit_cascade.core.calibration import HIGHEST, LOWEST, fit_temperature, negative_log_likelihood
from lit_cascade.errors import CascadeError, UsageError, check_labels, check_logits

__all__ = ["VectorFit", "VectorScaling", "fit_vector_scaling"]

MOST_BIAS = 100.0
"""Bound of a bias: what is e^100 times likelier needs no more."""

_BLOCK_ELEMENTS = 2**20
_RESTARTS = 20
_ENOUGH = 1e-9


@dataclass(frozen=True)
class VectorScaling:
    """What vector scaling does to the logits of a stage: `scale * logits + bias`, class by class.

    Unlike a temperature it may change the answer.

    Attributes:
        scale: one finite factor above 0 per class, (C,).
        bias: one finite offset per class, (C,).
        classes: names of the classes in this order, if they are known.

    Raises:
        UsageError: lengths that differ, fewer than two classes, or numbers out of range.

    Example:
        >>> VectorScaling((1.0, 2.0), (0.0, -1.0)).apply(torch.tensor([[3.0, 1.0]]))
        tensor([[3., 1.]])
    """

    scale: tuple[float, ...]
    bias: tuple[float, ...]
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every number."""
        for part in ("scale", "bias"):
            object.__setattr__(self, part, tuple(float(value) for value in getattr(self, part)))
        object.__setattr__(self, "classes", tuple(self.classes))
        width = len(self.scale)
        named = len(self.classes) in {0, width}
        if width < 2 or len(self.bias) != width or not named:
            raise UsageError(
                "vectors: expected as many factors as offsets, one per class and at least 2, and "
                f"as many class names or none; got {width}, {len(self.bias)} and "
                f"{len(self.classes)}."
            )
        for value in self.scale:
            if not (value > 0 and math.isfinite(value)):
                raise UsageError(f"vectors: expected finite factors above 0, got {value}.")
        for value in self.bias:
            if not math.isfinite(value):
                raise UsageError(f"vectors: expected finite offsets, got {value}.")

    def apply(self, logits: Tensor) -> Tensor:
        """Scaled logits.

        Each number is multiplied and then added to on its own, so that a row's do not depend on the
        batch that it comes in.

        Args:
            logits: shape (N, C), computed in float32, or in float64 if they are.

        Raises:
            CascadeError: logits of another number of classes.
        """
        if logits.ndim != 2 or logits.shape[1] != len(self.scale):
            raise CascadeError(
                f"vector scaling of {len(self.scale)} classes cannot be applied to logits of shape "
                f"{tuple(logits.shape)}."
            )
        dtype = logits.dtype if logits.dtype == torch.float64 else torch.float32
        scale = torch.tensor(self.scale, dtype=dtype, device=logits.device)
        bias = torch.tensor(self.bias, dtype=dtype, device=logits.device)
        return logits.to(dtype) * scale + bias

    def check_classes(self, classes: Sequence[str] | None, what: str) -> None:
        """Check that it is for logits of these classes.

        Args:
            classes: names in logit order; None if they are unknown.
            what: whose logits they are, for the message.

        Raises:
            CascadeError: other names, or in another order.
        """
        if classes is None or not self.classes or self.classes == tuple(classes):
            return
        pairs = zip(self.classes, classes, strict=False)
        first = next((f"{a!r} in place of {b!r}" for a, b in pairs if a != b), "in their number")
        raise CascadeError(
            f"policy.vectors: the vector scaling of {what} was fitted to other classes or another "
            f"order of them, first {first}: fit it again with lit-cascade calibrate."
        )

    def as_options(self) -> dict[str, Any]:
        """Plain numbers, as a config holds them."""
        named = {"classes": list(self.classes)} if self.classes else {}
        return {"scale": list(self.scale), "bias": list(self.bias)} | named


@dataclass(frozen=True)
class VectorFit:
    """A fitted vector scaling.

    Attributes:
        scaling: the fitted factors and offsets.
        nll_before: mean negative log-likelihood in nats of the raw logits.
        nll_temperature: the same at the best single temperature.
        nll_after: the same with the scaling; but for rounding never above `nll_temperature`.
        above_least: at most this far is the objective from its least value.
        at_bound: some factor or offset is at the end of its range.
    """

    scaling: VectorScaling
    nll_before: float
    nll_temperature: float
    nll_after: float
    above_least: float
    at_bound: bool


class _Objective:
    """Mean negative log-likelihood plus penalty, and its gradient, in double precision.

    The variables are the factors relative to the temperature's, and the offsets.
    """

    def __init__(self, logits: Tensor, labels: Tensor, inverse: float, ridge: float) -> None:
        self._logits, self._labels, self._inverse = logits, labels, inverse
        self._weight = ridge / len(logits)

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        classes = self._logits.shape[1]
        point = torch.from_numpy(x)
        relative, bias = point[:classes], point[classes:]
        total, slope = 0.0, torch.zeros(2, classes, dtype=torch.float64)
        rows = max(1, _BLOCK_ELEMENTS // classes)
        for block, target in zip(self._logits.split(rows), self._labels.split(rows), strict=True):
            z = block.double() * self._inverse
            scaled = z * relative + bias
            logs = scaled.log_softmax(dim=1)
            total -= float(logs.gather(1, target[:, None]).sum())
            error = logs.exp_()
            error[torch.arange(len(target)), target] -= 1
            slope[0] += (error * z).sum(dim=0)
            slope[1] += error.sum(dim=0)
        n = len(self._logits)
        away = torch.cat([relative - 1, bias])
        value = total / n + self._weight / 2 * float(away.square().sum())
        return value, (slope.flatten() / n + self._weight * away).numpy()


def fit_vector_scaling(
    logits: Tensor, labels: Tensor, *, classes: Sequence[str] = (), ridge: float = 1.0
) -> VectorFit:
    """The factor and offset of each class that minimise the negative log-likelihood.

    The search begins at the best single temperature and is drawn back to it a little: to the sum of
    the NLL over the samples half the square of every offset, and of every factor's deviation as a
    share of the temperature's, is added (`ridge` times). With many samples that does not show.
    A class of which there are few or none would otherwise run away. The sum is strictly convex, so
    it has one minimum, which L-BFGS-B finds from anywhere; how far off it may be is returned.

    Args:
        logits: shape (N, C), recorded in evaluation mode.
        labels: shape (N,), integers in [0, C).
        classes: names of the classes in logit order, to be kept with the scaling.
        ridge: how much a deviation from the temperature costs, above 0.

    Raises:
        CascadeError: logits or labels that are malformed, NaN, or out of range.

    Example:
        >>> logits = torch.tensor([[1.0, 0.0]] * 50 + [[0.0, 1.0]] * 50)
        >>> fit = fit_vector_scaling(logits, torch.tensor([0] * 75 + [1] * 25))
        >>> fit.scaling.apply(logits)[[0, 99]].argmax(dim=1).tolist(), fit.above_least < 1e-9
        ([0, 0], True)
    """
    check_logits(logits, "vector scaling")
    check_labels(labels, len(logits), logits.shape[1], "vector scaling")
    if not ridge > 0:
        raise UsageError(f"ridge: expected a number above 0, got {ridge}.")
    labels = labels.long()
    start = fit_temperature(logits, labels)
    inverse, width = 1 / start.temperature, logits.shape[1]
    objective = _Objective(logits, labels, inverse, ridge)
    low = np.array([LOWEST / inverse] * width + [-MOST_BIAS] * width)
    high = np.array([HIGHEST / inverse] * width + [MOST_BIAS] * width)
    x = np.array([1.0] * width + [0.0] * width).clip(low, high)
    value, slope = objective(x)
    above = _above_least(x, slope, low, high, ridge / len(logits))
    for _ in range(_RESTARTS):  # near the minimum a line search may give up: begin it anew there
        if above < _ENOUGH:
            break
        found = minimize(
            objective, x, jac=True, method="L-BFGS-B", bounds=list(zip(low, high, strict=True)),
            options={"maxiter": 10_000, "maxfun": 20_000, "maxcor": 20, "ftol": 0, "gtol": 1e-10},
        )  # fmt: skip
        if found.fun > value:
            break
        x, value, (_, slope) = found.x, found.fun, objective(found.x)
        above = _above_least(x, slope, low, high, ridge / len(logits))
    scaling = VectorScaling(tuple(x[:width] * inverse), tuple(x[width:]), tuple(classes))
    return VectorFit(
        scaling=scaling,
        nll_before=start.nll_before,
        nll_temperature=start.nll_after,
        nll_after=negative_log_likelihood(scaling.apply(logits.double()), labels),
        above_least=above,
        at_bound=start.at_bound or bool(((x <= low) | (x >= high)).any()),
    )


def _above_least(
    x: np.ndarray, slope: np.ndarray, low: np.ndarray, high: np.ndarray, curvature: float
) -> float:
    """How far a strictly convex function may be above its least value in a box.

    With curvature m everywhere, f(y) >= f(x) + slope (y - x) + m/2 (y - x)^2, whose least value
    over the box is found coordinate by coordinate.
    """
    step = np.clip(x - slope / curvature, low, high) - x
    return max(0.0, float(-(slope * step + curvature / 2 * step**2).sum()))
