"""Temperature scaling (Guo et al., arXiv:1706.04599): one divisor that calibrates the logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_cascade.core.scores import check_logits
from lit_cascade.errors import check_labels
from lit_cascade.utilities.mapped import row_slices

LOWEST, HIGHEST = 0.01, 100.0
"""Bounds of the fit. Where every answer is right the likelihood has no maximum: the temperature
would run to 0, and the fit ends `at_bound`."""

_FIRST, _LAST = -math.log(HIGHEST), -math.log(LOWEST)
"""The bounds as logarithms of b = 1/T."""

_BLOCK_ELEMENTS = 2**17
"""Logits at once: a megabyte in double precision, which stays in the cache."""

_PART = 16
_ENOUGH = 2**20
"""With more logits than `_ENOUGH`, the search starts at the optimum of one row in `_PART`."""

_CLOSE = 3e-5
"""Step in log b after which the search ends: Halley's method leaves an error of about its cube."""

_PATIENCE = 8
"""Steps after which a search that has met no sign change of the slope tries the bound."""


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


def softmax_blocks(
    logits: Tensor, labels: Tensor, divisors: float | Tensor = 1.0, rows: Tensor | None = None
) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Softmax of `logits / T` in double precision, by blocks of rows.

    Args:
        logits: shape (N, C).
        labels: shape (N,), integers.
        divisors: T, one for all rows or one for each row that is read, (M,).
        rows: positions of the rows to read; by default all.

    Returns:
        For each block of B rows their places among those read; `logits / T`, (B, C); the
        probabilities, (B, C); and the negative log-likelihood of the labels in nats, (B,).
    """
    size = max(1, _BLOCK_ELEMENTS // logits.shape[1])
    start = 0
    for block in row_slices(logits, size, rows):
        some = slice(start, start + len(block))
        start = some.stop
        target = labels[some if rows is None else rows[some]]
        # by way of single precision, which is several times as fast; a copy, which may be changed
        z = (block.float() if block.dtype == torch.float16 else block).to(torch.float64, copy=True)
        if isinstance(divisors, Tensor):
            z /= divisors[some, None]
        elif divisors != 1.0:
            z /= divisors
        p = z.softmax(dim=1)
        below = z.amax(dim=1) - z.gather(1, target[:, None]).squeeze(1)
        yield some, z, p, below - p.amax(dim=1).log()


def negative_log_likelihood(
    logits: Tensor, labels: Tensor, temperature: float = 1.0, rows: Tensor | None = None
) -> float:
    """Mean negative log-likelihood of the labels in nats, in double precision.

    Args:
        logits: shape (N, C).
        labels: shape (N,), integers.
        temperature: divides the logits.
        rows: positions of the rows to read; by default all.
    """
    blocks = softmax_blocks(logits, labels, temperature, rows)
    return sum(float(nll.sum()) for *_, nll in blocks) / len(logits if rows is None else rows)


def _derivatives(
    logits: Tensor, labels: Tensor, log_inverse: float, rows: Tensor | None = None
) -> Tensor:
    """NLL of each row and its first three derivatives by u = log(1/T), (4, M) float64.

    With z = logits / T, p = softmax(z), v the variance and t the third central moment of z under p,
    they are s = E[z] - z_y, s + v and s + 3 v + t.
    """
    each = torch.empty(
        4, len(logits if rows is None else rows), dtype=torch.float64, device=logits.device
    )
    for some, z, p, nll in softmax_blocks(logits, labels, math.exp(-log_inverse), rows):
        picked = z.gather(1, labels[some if rows is None else rows[some], None])
        mean = (p * z).sum(dim=1, keepdim=True)
        slope = (mean - picked).squeeze(1)
        centred = z.sub_(mean)
        variance = p.mul_(centred).mul_(centred).sum(dim=1)
        third = p.mul_(centred).sum(dim=1)
        for k, values in enumerate((nll, slope, slope + variance, slope + 3 * variance + third)):
            each[k, some] = values
    return each


def fit_temperature(
    logits: Tensor, labels: Tensor, *, rows: Tensor | None = None, steps: int = 100
) -> TemperatureFit:
    """Fit the temperature that minimises the negative log-likelihood.

    The NLL is convex in b = 1/T, so that its slope has at most one root. Halley's method in log b,
    safeguarded by a bracket, finds the root from any start, in double precision and always with
    T > 0. It starts at the optimum of every 16th row, so that most of its steps are cheap.

    Args:
        logits: shape (N, C), recorded in evaluation mode.
        labels: shape (N,), integers in [0, C).
        rows: positions of the rows to fit on; by default all.
        steps: most iterations; about ten are enough.

    Raises:
        CascadeError: logits or labels that are malformed, NaN, or out of range.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
        >>> labels = torch.tensor([0, 0, 0, 1])  # confidence 98 %, accuracy 75 %: T = 4 / log 3
        >>> round(fit_temperature(logits, labels).temperature, 6)
        3.640957
    """
    check_logits(logits, "temperature fit")
    check_labels(labels, len(logits), logits.shape[1], "temperature fit")
    labels = labels.long()
    log_inverse, at_bound, nll = _optimum(logits, labels, rows, steps)
    return TemperatureFit(
        temperature=math.exp(-log_inverse),
        nll_before=negative_log_likelihood(logits, labels, rows=rows),
        nll_after=nll,
        at_bound=at_bound,
    )


_NEAR = 3e-3
"""Step from the optimum of many rows to that of most of them that needs no further pass: its error
is about 1e-8 of T, at which the likelihood loses 1e-16."""


def cross_fit(
    logits: Tensor, labels: Tensor, parts: Sequence[Tensor], near: float
) -> tuple[float, ...]:
    """Temperatures fitted on parts of the rows, each of which holds most of them.

    One pass over all rows at a common temperature gives the first step for every part.

    Args:
        logits: shape (N, C), checked.
        labels: shape (N,), int64.
        parts: positions of the rows to fit on, for each temperature.
        near: the temperature of all rows, at which the searches start.

    Examples:
        >>> logits, labels = torch.tensor([[4.0, 0.0]] * 5), torch.tensor([0, 0, 0, 1, 1])
        >>> [round(t, 6) for t in cross_fit(logits, labels, [torch.arange(4)], near=2.0)]
        [3.640957]
    """
    start = -math.log(near)
    each = _derivatives(logits, labels, start)
    temperatures = []
    for rows in parts:
        _, *derivatives = each[:, rows].mean(dim=1).tolist()
        step = _step(*derivatives)
        first = min(max(start + step, _FIRST), _LAST)
        if len(rows) * logits.shape[1] < _ENOUGH or abs(step) > _NEAR:
            first, _, _ = _search(logits, labels, rows, first, 100)
        temperatures.append(math.exp(-first))
    return tuple(temperatures)


def _optimum(
    logits: Tensor, labels: Tensor, rows: Tensor | None, steps: int
) -> tuple[float, bool, float]:
    """Search from the optimum of every 16th row, which is found in the same way."""
    start, n = 0.0, len(logits if rows is None else rows)
    if n * logits.shape[1] > _ENOUGH and n >= _PART:
        fewer = torch.arange(0, n, _PART) if rows is None else rows[::_PART]
        start, _, _ = _optimum(logits, labels, fewer, steps)
    return _search(logits, labels, rows, start, steps)


def _step(slope: float, bend: float, third: float) -> float:
    """Step of Halley's method to the root of a slope: towards a bound where the NLL is not convex.

    Args:
        slope: first derivative of the NLL by log b.
        bend: second derivative.
        third: third derivative.
    """
    if bend <= 0:
        return math.inf if slope <= 0 else -math.inf
    newton = -slope / bend
    return newton / max(0.5, 1 + newton * third / (2 * bend))


def _search(
    logits: Tensor, labels: Tensor, rows: Tensor | None, at: float, steps: int
) -> tuple[float, bool, float]:
    """Minimise the NLL over log b between the bounds.

    Args:
        logits: shape (N, C).
        labels: shape (N,), int64.
        rows: positions of the rows to fit on; None for all.
        at: log b to start at.
        steps: most iterations.

    Returns:
        log b, whether the optimum lies at or beyond a bound, and the mean NLL there.
    """
    low, high = -math.inf, math.inf  # the slope is negative at `low` and not at `high`
    nll = math.nan
    for k in range(steps):
        each = _derivatives(logits, labels, at, rows).mean(dim=1)
        nll, slope, bend, third = each.tolist()
        if (at == _LAST and slope <= 0) or (at == _FIRST and slope > 0):
            return at, True, nll
        low, high = (at, high) if slope <= 0 else (low, at)
        step = _step(slope, bend, third)
        if abs(step) < _CLOSE:
            return at + step, False, nll + slope * step + bend * step * step / 2
        to = min(max(at + step, _FIRST), _LAST)
        if k >= _PATIENCE:  # an exponentially small slope leads to a bound in ever smaller steps
            to = _LAST if high == math.inf else _FIRST if low == -math.inf else to
        at = to if low < to < high else (low + high) / 2
    return at, False, nll
